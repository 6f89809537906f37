import pytest
import torch

from dss import cli
from dss.errors import InputError


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
        (InputError("a.ply: is empty;\n give\tanother"), 2, "error: a.ply: is empty; give another\n"),
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
