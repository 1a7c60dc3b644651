"""A release copies one finished run, and touches nothing else."""

from pathlib import Path

import pytest

from metamodel.config import InputError
from metamodel.release import FILES, SPLITS, newest_run, release

WHOLE = (*FILES, SPLITS)


@pytest.fixture
def runs(tmp_path) -> Path:
    for name, files in (("2026-01-01", WHOLE), ("2026-01-02", WHOLE), ("2026-01-03", FILES[:2])):
        folder = tmp_path / "runs/small" / name / "checkpoint"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text(name)
    return tmp_path / "runs"


def test_the_newest_finished_run_is_released_and_replaces_the_old_one(runs, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    for file in ("other/config.json", "small/stale"):
        (checkpoints / file).parent.mkdir(parents=True)
        (checkpoints / file).write_text("old")
    target = release("small", newest_run("small", runs), checkpoints)
    assert {path.name for path in target.iterdir()} == set(WHOLE)
    assert (target / FILES[0]).read_text() == "2026-01-02"
    assert {path.name for path in checkpoints.iterdir()} == {"other", "small"}


def test_the_checkpoint_of_a_matcher_has_no_splits_and_every_other_must(runs, tmp_path):
    folder = runs / "small/2026-01-02/checkpoint"
    (folder / SPLITS).unlink()
    assert newest_run("small", runs).name == "2026-01-01"
    with pytest.raises(InputError, match=r"expected a file splits\.json, got none"):
        release("small", runs / "small/2026-01-02", tmp_path / "checkpoints")
    (folder / "config.json").write_text('{"kind": "matching"}')
    assert newest_run("small", runs).name == "2026-01-02"
    release("small", newest_run("small", runs), tmp_path / "checkpoints")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../other"])
def test_a_name_that_is_no_name_is_refused(runs, tmp_path, name):
    with pytest.raises(InputError, match="name: expected the name of a checkpoint"):
        release(name, newest_run("small", runs), tmp_path / "checkpoints")


def test_an_unfinished_run_and_no_run_are_refused(runs, tmp_path):
    with pytest.raises(InputError, match=r"expected a file metrics\.json, got none"):
        release("small", runs / "small/2026-01-03", tmp_path / "checkpoints")
    with pytest.raises(InputError, match="expected a finished run, got none"):
        newest_run("large", runs)


def test_a_checkpoint_too_large_to_commit_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("metamodel.release.LARGEST", 3)
    with pytest.raises(InputError, match="expected at most 3 bytes"):
        release("small", newest_run("small", runs), tmp_path / "checkpoints")
