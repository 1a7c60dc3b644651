"""What lies in the repository beside the packages: every configuration is one, every benchmark runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import metamodel
from data_gen.config import ZooConfig
from data_gen.population import shard_specs
from data_gen.student.config import ARMS, StudentConfig
from metamodel.config.function import FunctionConfig
from metamodel.config.parser import command_parser, parse_config
from metamodel.triples import Zoo

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def parsed(file: Path, config_class):
    parser = command_parser(prog="x", description="")
    return parse_config(parser, config_class, ["--config", str(file)])[0]


EXAMPLES = "circuits"
"""The zoo of a worked example: nothing is trained on it or tested."""


def of(kind: str) -> list[Path]:
    return [file for file in CONFIGS if file.parent.name == kind]


def test_every_configuration_is_of_a_kind_that_is_parsed_here():
    kinds = {"zoo", "function", "edits", "editing", "pairs", "matching", "student"}
    assert {file.parent.name for file in CONFIGS} == kinds


@pytest.mark.parametrize("file", of("student"), ids=lambda file: file.stem)
def test_a_shipped_zoo_of_students_is_parsed(file):
    config = parsed(file, StudentConfig)
    assert config.name == f"students-{file.stem}"
    assert config.arms == ARMS


@pytest.mark.parametrize("file", of("zoo"), ids=lambda file: file.stem)
def test_a_shipped_zoo_can_be_built(file):
    config = parsed(file, ZooConfig)
    assert config.name == file.stem
    shards = shard_specs(config)
    ids = [subject.id for shard in shards for subject in shard.subjects]
    assert len(ids) == len(set(ids)) == sum(len(cell.sizes) * cell.n_subjects for cell in config.cells)
    departures = {"none", "variant", "size", "task"} | ({"recipe", "origin"} if len(ids) > 400 else set())
    departures = {"none"} if file.stem == EXAMPLES else departures
    assert {shard.cell.departs for shard in shards} == departures


def test_the_full_zoo_is_as_deep_wide_and_mixed_as_it_is_meant_to_be():
    config = parsed(ROOT / "configs/zoo/full.yaml", ZooConfig)
    subjects = [
        (config.sizes[size], cell)
        for cell in config.cells
        for size in cell.sizes
        for _ in range(cell.n_subjects)
    ]
    n = len(subjects)
    trained = [cell for _, cell in subjects if cell.origin == "trained"]
    assert n >= 1200
    assert sum(size.n_layers >= 3 for size, _ in subjects) >= 0.15 * n
    assert sum(size.d_model >= 64 for size, _ in subjects) >= 0.1 * n
    assert sum(cell.origin == "siit" for _, cell in subjects) >= 60
    assert sum(len(cell.families) > 1 for cell in trained) >= 0.2 * len(trained)


@pytest.mark.parametrize("file", of("function"), ids=lambda file: file.stem)
def test_a_shipped_reader_names_a_shipped_zoo(file):
    config = parsed(file, FunctionConfig)
    assert config.name == {"full": "function"}.get(file.stem, f"function-{file.stem}")
    assert ROOT / config.zoo_config in of("zoo")
    assert config.zoo == f"data/{parsed(ROOT / config.zoo_config, ZooConfig).name}"


def test_a_released_checkpoint_is_loaded_and_reads_as_the_run_does(job, checkpoint, tmp_path, run):
    said = run("metamodel.release", "function-tiny", checkpoint.parent, folder=tmp_path).stdout
    assert said == f"{checkpoint.parent} -> checkpoints/function-tiny\n"
    released, original = metamodel.load(tmp_path / "checkpoints/function-tiny"), metamodel.load(checkpoint)
    zoo = Zoo.open(job[0] / "data/tiny")
    first, second = (zoo.subject(id) for id in released.splits.tests["task"][:2])
    assert released.read(first).to_json() == original.read(first).to_json()
    assert released.read(first).to_dict()["components"] != released.read(second).to_dict()["components"]


def benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, f"benchmarks/{name}", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False)


def test_the_benchmark_of_stacked_training_ends_in_a_line_of_json():
    ended = benchmark(
        "stacked_training.py",
        "--rounds",
        "1",
        "--steps",
        "1",
        "--subjects",
        "2",
        "--processes",
        "1",
        "--loop-subjects",
        "1",
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    ms = found["ms_per_subject_step"]
    assert set(ms) == {"bridge_loop", "module_loop", "vmap", "stacked"}
    assert min(ms.values()) > 0
    # the figures are rounded: a millisecond to 3 places, a ratio to 2
    assert found["ratio_to_bridge_loop"] == pytest.approx(ms["bridge_loop"] / ms["stacked"], rel=0.05)
    assert found["ratio_to_vmap"] == pytest.approx(ms["vmap"] / ms["stacked"], rel=0.05)
    assert found["ratio_to_arithmetic"] == pytest.approx(ms["stacked"] / found["arithmetic_ms"], rel=0.05)


def test_the_benchmark_of_stacks_on_a_device_ends_in_a_line_of_json():
    ended = benchmark("device_training.py", "--subjects", "1,2", "--steps", "2", "--rounds", "1")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert set(found["stacks"]) == {"1", "2"}
    loop = found["loop_over_bridges"]["subjects_per_minute"]
    for stack in found["stacks"].values():
        assert stack["ratio_to_loop"] == pytest.approx(stack["subjects_per_minute"] / loop, rel=0.1)
        assert 0 < stack["drawing_share"] < 1


def test_the_benchmark_of_mechanisms_refuses_an_unknown_family_in_one_line(job):
    ended = benchmark("mechanisms.py", str(job[0] / "data/tiny"), "--family", "sortin")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("--family: expected one of ")
    assert line.endswith(" Did you mean 'sorting'?")


def test_the_studies_of_reading_refuse_a_zoo_without_other_origins_in_one_line(job):
    ended = benchmark("reading_studies.py", str(job[0] / "data/tiny"), "--study", "origins", "--epochs", "1")
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("split origin: expected at least one subject, got none. Use the medium zoo: ")


def test_the_study_of_ingredients_ends_in_a_line_of_json(job):
    ended = benchmark("reading_studies.py", str(job[0] / "data/tiny"), "--epochs", "1")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["study"] == "ablations"
    assert {"whole", "without prompts", "without relations"} <= set(found["variants"])
    value = found["variants"]["whole"]["seed"]["circuit_average_precision"]["meta-model"]["value"]
    assert 0 < value <= 1
