"""Many cases, one after another, until the time is over."""

import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.generators import CASES
from tests.fuzz.judge import Case, Verdict, judge

ROUND = 100  # cases per run of hypothesis, which remembers all that it tried in one


def campaign(
    minutes: float,
    number: int,
    found: Callable[[Case, Verdict], None],
    cases: int | None = None,
) -> list[tuple[Case, Verdict]]:
    """All cases that were tried from a seed, with their verdicts; `found` hears of each.

    It ends after so many minutes, or after so many cases, whichever comes first.
    """
    tried, end, part = [], time.monotonic() + 60 * minutes, 0

    def over() -> bool:
        return time.monotonic() > end or (cases is not None and len(tried) >= cases)

    def one(case: Case) -> None:
        if not over():
            tried.append((case, judge(case)))
            found(*tried[-1])

    quiet = settings(
        max_examples=ROUND, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    while not over():
        seed(number * 1_000_000 + part)(quiet(given(CASES)(one)))()
        part += 1
    return tried
