"""The main job takes the zoo that it finds, and says so where its configuration asks for another one."""

import json
from pathlib import Path

import pytest
import yaml

from data_gen.config import ZooConfig
from metamodel.config import InputError
from metamodel.config.function import FunctionConfig
from metamodel.config.parser import command_parser, parse_config, plain
from metamodel.train import zoo_of
from metamodel.triples import begin, finish

TINY = Path(__file__).parents[2] / "configs/zoo/tiny.yaml"


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A finished zoo of the configuration of tiny.yaml, without subjects."""
    config, _ = parse_config(command_parser(prog="x", description=""), ZooConfig, ["--config", str(TINY)])
    begin(tmp_path / "tiny", name="tiny", config=plain(config), labels=(), n_shards=0)
    finish(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_zoo_of_another_configuration_is_used_with_a_note(tiny, tmp_path, capsys):
    edited = tmp_path / "edited.yaml"
    values = yaml.safe_load(TINY.read_text())
    values["harvest"]["n_probes"] = 5
    edited.write_text(yaml.safe_dump(values | {"seed": 4}))
    assert zoo_of(FunctionConfig(zoo=str(tiny), zoo_config=str(edited))).name == "tiny"
    assert capsys.readouterr().err == (
        f"note: {tiny} was built from another configuration than {edited} (harvest.n_probes, seed differ) "
        "and is used as it is. To build that one, name another folder with --zoo.\n"
    )


@pytest.mark.parametrize("zoo_config", [str(TINY), "", "nowhere/none.yaml"])
def test_the_zoo_of_its_configuration_and_a_zoo_without_one_are_used_without_a_word(tiny, zoo_config, capsys):
    assert zoo_of(FunctionConfig(zoo=str(tiny), zoo_config=zoo_config)).name == "tiny"
    assert capsys.readouterr().err == ""


def test_a_finished_zoo_is_used_where_its_configuration_cannot_be_read(tiny, tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    assert zoo_of(FunctionConfig(zoo=str(tiny), zoo_config=str(broken))).name == "tiny"
    said = capsys.readouterr().err
    assert said.startswith(
        f"note: {tiny} is used as it is, without comparing it with {broken}. {broken}, line "
    )
    assert said.count("\n") == 1


def test_an_unfinished_zoo_without_a_configuration_is_refused(tiny):
    manifest = json.loads((tiny / "manifest.json").read_text())
    (tiny / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    with pytest.raises(InputError, match="expected a finished zoo, got an unfinished one"):
        zoo_of(FunctionConfig(zoo=str(tiny), zoo_config=""))
