"""Where the output goes to nobody or nowhere, and Ctrl-C: as of other tools, nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dss import cli
from dss.evaluation.measure import Measured
from dss.progress import Event

ROOT = Path(__file__).resolve().parents[2]


def shell(command: str) -> subprocess.CompletedProcess:
    """What bash makes of a command in which `python` is this one, with the usual buffers."""
    command = command.replace("python", sys.executable)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"capture_output": True, "text": True}
    arguments = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(arguments, cwd=ROOT, env=env, timeout=120, **pipes)


@pytest.fixture
def printing(tmp_path) -> Path:
    """A script that prints a megabyte."""
    path = tmp_path / "printing.py"
    lines = "for number in range(20_000):\n        print(f'{number:050}')"
    path.write_text(f"from dss import cli\ndef main():\n    {lines}\ncli.run(main)\n")
    return path


@pytest.mark.parametrize("script", ["train.py --help", "{printing}"])
def test_nobody_reads_the_output(script, printing):
    done = shell(f"PYTHONPATH=. python {script.format(printing=printing)} | true")
    assert done.returncode == 128 + signal.SIGPIPE and not done.stderr


@pytest.mark.parametrize("script", ["train.py --help", "{printing}"])
def test_the_output_is_full(script, printing):
    done = shell(f"PYTHONPATH=. python {script.format(printing=printing)} > /dev/full")
    line = "error: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_the_outputs_are_closed(printing):
    done = shell(f"PYTHONPATH=. python {printing} >&- 2>&-")
    assert done.returncode == 0 and not done.stderr
    code = "from dss import cli, progress; cli.Terminal()(progress.Event('fit', 1, 2, ''))"
    done = shell(f'python -c "{code}" 2>&-')
    assert done.returncode == 0


def interrupted(seconds: float, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, **pipes,
        # programs that a shell starts in the background ignore it, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, error


@pytest.mark.parametrize("number", range(6))
def test_an_interrupt_while_modules_load(number, tmp_path):
    """A random moment after the interpreter and `dss.cli` are there."""
    code, _, error = interrupted(random.uniform(0.7, 3), "train.py", "--out", str(tmp_path / "run"))
    assert (code, error) == (130, f"{cli.INTERRUPTED}\n")


def test_an_interrupt_that_c_code_would_lose(tmp_path):
    """As extension modules do, the import catches whatever is raised in it."""
    (tmp_path / "stubborn.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    sum(range(9))\n"
        "except BaseException:\n    pass\n"
    )
    (tmp_path / "script.py").write_text(
        "from dss import cli\ndef main():\n    with cli.importing():\n        import stubborn\n"
        "    print('went on')\ncli.run(main)\n"
    )
    done = shell(f"PYTHONPATH=.:{tmp_path} python {tmp_path}/script.py")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{cli.INTERRUPTED}\n")


def test_the_handler_is_given_back():
    before = signal.getsignal(signal.SIGINT)
    with cli.importing():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(10**14),
        lambda: torch.empty(10**14).numpy(),
        lambda: bytearray(10**14),
    ],
)
def test_no_memory_is_one_line(fail, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(fail)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: not enough memory") and error.count("\n") == 1


def test_a_file_that_the_system_refuses_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: tmp_path.read_text())
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"
    with pytest.raises(OSError, match="of a library"):
        cli.run(lambda: (_ for _ in ()).throw(OSError("a bug of a library")))


def test_a_run_that_cannot_be_written_is_measured(script, ball_run, monkeypatch, tmp_path):
    known = Measured(None, None, {"surface_mean": 0.5})
    monkeypatch.setattr("dss.evaluation.measure.measure_run", lambda *_, **__: known)
    (ball_run / "eval.json").mkdir()  # as good as a read-only disk, for a superuser too
    code, out, error = script("eval", ball_run)
    assert code == 2 and "surface mean" in out and "next" not in out
    line = f"{ball_run}/eval.json: cannot be written; name a place for the numbers with --json"
    assert error == f"error: {line}\n"
    code, out, error = script("eval", ball_run, "--json", tmp_path / "all.json")
    assert code == 0 and not error and out.endswith(f"next: look at {tmp_path / 'all.json'}\n")
    assert (tmp_path / "all.json").is_file()


def test_the_terminal_survives_a_warning_in_a_bar(capsys):
    terminal = cli.Terminal()
    terminal(Event("fit", 1, 3, ""))
    terminal(Event("warning", 1, 1, "the log cannot be written"))
    terminal(Event("fit", 2, 3, ""))
    terminal.close()
    assert capsys.readouterr().out == "warning   the log cannot be written\n"
