"""A finished main job, and how the tests of the walk run commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metamodel.config.command import run_command

ROOT = Path(__file__).parents[2]
PROGRESS = ("describing subjects",)


def _run(*arguments: object, code: int = 0, folder: Path = ROOT, **environment: str):
    """One command, its answer, and no traceback."""
    words = [sys.executable, "-m", *map(str, arguments)]
    environment = (
        os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "200"} | environment
    )
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=400, cwd=folder, env=environment, check=False
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def _refused(*arguments: object, **environment: str) -> str:
    """The one line with which a command refuses bad input, below what it said of its progress."""
    return _only_line(_run(*arguments, code=2, **environment).stderr)


def _only_line(errors: str) -> str:
    (line,) = (line for line in errors.strip().splitlines() if line not in PROGRESS)
    return line


@pytest.fixture(scope="session")
def run():
    return _run


@pytest.fixture(scope="session")
def refused():
    return _refused


@pytest.fixture
def called(capsys, monkeypatch):
    """`run` inside this process, which spares the seconds that a new one takes to import torch.

    Takes the `main` of a command, and returns what it wrote as `out` and `err`.
    """
    monkeypatch.chdir(ROOT)

    def call(main, *arguments: object, code: int = 0):
        capsys.readouterr()
        ended: object = 0
        try:
            run_command(main, [str(argument) for argument in arguments])
        except SystemExit as stopped:
            ended = stopped.code
        said = capsys.readouterr()
        assert ended == code, said.out + said.err
        return said

    return call


@pytest.fixture
def refused_here(called):
    """`refused` inside this process."""
    return lambda main, *arguments: _only_line(called(main, *arguments, code=2).err)


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    """A finished main job: the folder that holds `data/tiny` and `runs/function-tiny/<time>`."""
    folder = tmp_path_factory.mktemp("job")
    said = _run(
        "metamodel.train", "--config", "configs/function/tiny.yaml",
        "--zoo", folder / "data/tiny", "--out", folder / "runs",
    )  # fmt: skip
    return folder, said


@pytest.fixture(scope="session")
def checkpoint(job):
    (found,) = (job[0] / "runs/function-tiny").glob("*/checkpoint")
    return found


@pytest.fixture(scope="session")
def interruptible():
    """To be called in a child before its program: what a shell starts in the background ignores Ctrl-C."""
    return lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
