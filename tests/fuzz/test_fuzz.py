"""The quick profile of the fuzz; the long one is scripts/fuzz.py."""

from pathlib import Path

import pytest

from tests.fuzz import judge as judges
from tests.fuzz.campaign import campaign
from tests.fuzz.judge import OUTCOMES, Case, Verdict, judge, report

CASES = 60


def test_a_minute_of_hostile_input():
    tried = campaign(2, 0, lambda *_: None, CASES)
    bad = [f"{case.kind}: {case.what}: {verdict}" for case, verdict in tried if verdict.outcome]
    assert not bad, "\n".join(bad)
    assert len({case.kind for case, _ in tried}) == 7


@pytest.mark.parametrize(
    ("work", "expected", "check", "outcome"),
    [
        ("print('fine')", "accept", "", ""),
        ("import sys; print('error: no', file=sys.stderr); sys.exit(2)", "either", "", ""),
        ("import sys; print('error: no', file=sys.stderr); sys.exit(2)", "accept", "", "exit code"),
        (
            "import sys; print('two\\nlines', file=sys.stderr); sys.exit(2)",
            "either",
            "",
            "exit code",
        ),
        ("import os; os.kill(os.getpid(), 9)", "either", "", "exit code"),
        ("import sys; sys.exit(1)", "either", "", "exit code"),
        ("print('fine')", "refuse", "", "silently wrong"),
        ("print('fine')", "either", "other numbers", "silently wrong"),
        ("1 / 0", "either", "", "traceback"),
        ("while True: pass", "either", "", "hang"),
        ("open('input', 'w').close()", "either", "", "lost"),
    ],
)
def test_the_judge_sees_what_goes_wrong(monkeypatch, work, expected, check, outcome):
    monkeypatch.setattr(judges, "_call", lambda command: exec(command[0]))
    monkeypatch.setattr(judges, "MAX_SECONDS", 1)

    def write(folder: Path) -> list[str]:
        (folder / "input").write_text("mine")
        return [work]

    case = Case("mesh", "odd", write, expected, lambda folder: check)
    verdict = judge(case)
    assert verdict.outcome == outcome and outcome in ("", *OUTCOMES)
    wrong = int(bool(outcome))
    table = report([(case, verdict), (case, Verdict("", 0, ""))]).splitlines()
    assert len(table) == 4 and sum(map(int, table[2].split("|")[3:-1])) == wrong
