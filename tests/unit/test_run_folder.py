"""A run goes on in its own folder only: same configuration, same zoo, and nobody else at work there."""

import dataclasses
from datetime import datetime

import pytest

from metamodel.config import InputError
from metamodel.config.function import FunctionConfig
from metamodel.training.run_folder import CARD, CHECKPOINT, claim_folder

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def config(tmp_path):
    return FunctionConfig(out=str(tmp_path))


def test_an_interrupted_run_goes_on_and_a_finished_one_is_left_alone(config):
    first, held = claim_folder(config, "zoo", now=NOW)
    held.release()
    again, held = claim_folder(config, "zoo")
    assert again == first
    held.release()
    (first / CHECKPOINT).mkdir()
    (first / CHECKPOINT / CARD).write_text("done")
    assert claim_folder(config, "zoo")[0] != first


def test_another_zoo_or_configuration_does_not_go_on(config):
    first, held = claim_folder(config, "zoo", now=NOW)
    held.release()
    assert claim_folder(config, "rebuilt", now=NOW)[0] != first
    assert claim_folder(dataclasses.replace(config, seed=1), "zoo", now=NOW)[0] != first


def test_two_processes_never_share_a_folder(config):
    first, held = claim_folder(config, "zoo", now=NOW)
    assert claim_folder(config, "zoo", now=NOW)[0] != first
    held.release()


def test_a_folder_that_cannot_be_written_is_one_line(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: expected a folder that can be written"):
        claim_folder(dataclasses.replace(config, out=str(tmp_path / "file")), "zoo")
