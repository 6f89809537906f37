import argparse

import pytest
import torch

from dss import cli
from dss.errors import InputError
from dss.progress import Event, silent, tracked


def test_parser_has_the_device(capsys):
    parser = cli.parser("what it does")
    assert parser.parse_args([]).device == "auto"
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--device", "tpu"])
    assert caught.value.code == 2
    assert "what it does" in parser.format_help() and "(default: auto)" in parser.format_help()


def test_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.pick_device("auto") == cli.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="no CUDA device"):
        cli.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli.pick_device("auto") == cli.pick_device("cuda") == torch.device("cuda")
    assert cli.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (
            InputError("a.ply: is empty;\n give\tanother"),
            2,
            "error: a.ply: is empty; give another\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command resumes\n"),
    ],
)
def test_run_ends_with_one_line(capsys, raised, code, line):
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == code
    assert capsys.readouterr() == ("", line)


def test_run_hides_no_bug():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
    assert cli.run(lambda: None) is None


def test_only_what_the_command_line_gave_is_passed_on():
    args = argparse.Namespace(views=None, size=64, every=0)
    assert cli.given(args, "views", "size", "every") == {"size": 64, "every": 0}
    assert cli.given(args, "views") == {}


def test_options_that_do_not_apply_are_refused():
    args = argparse.Namespace(truth_mesh="a.ply", views=None)
    cli.refuse(args, "images of a scene", "views")
    message = "^--truth-mesh: does not apply to images of a scene; leave it out$"
    with pytest.raises(InputError, match=message):
        cli.refuse(args, "images of a scene", "views", "truth_mesh")


def test_the_terminal_shows_a_line_for_each_finished_stage(capsys):
    terminal = cli.Terminal()
    terminal(Event("mesh", 1, 1, "320 faces"))
    for stage in ("fit", "field"):
        for epoch in range(3):
            terminal(Event(stage, epoch, 3, f"loss {epoch}"))
        assert terminal.bar is not None
    terminal(Event("field", 1, 1, "12.5 KiB"))
    assert terminal.bar is None  # else the line would be appended to the bar
    assert capsys.readouterr() == ("mesh      320 faces\nfield     12.5 KiB\n", "")


def test_a_new_stage_gets_a_bar_of_its_own():
    terminal = cli.Terminal()
    terminal(Event("paper", 5, 5, ""))
    first = terminal.bar
    terminal(Event("paper", 5, 5, ""))
    assert terminal.bar is first
    terminal(Event("surface", 1, 7, ""))
    assert terminal.bar is not first
    terminal.close()
    assert terminal.bar is None


def test_tracked_items_are_counted():
    seen = []
    assert list(tracked("abc", "render", 3, seen.append)) == ["a", "b", "c"]
    assert seen == [Event("render", done, 3, "") for done in range(4)]
    assert silent(seen[0]) is None
