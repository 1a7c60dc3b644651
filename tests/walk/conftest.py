"""A finished main job, and how the tests of the walk run commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    lines = _run(*arguments, code=2, **environment).stderr.strip().splitlines()
    (line,) = (line for line in lines if line not in PROGRESS)
    return line


@pytest.fixture(scope="session")
def run():
    return _run


@pytest.fixture(scope="session")
def refused():
    return _refused


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
