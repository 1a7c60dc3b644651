"""The main job of editing at its smallest: zoo, training, report, release, evaluation, command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metamodel
from data_gen.episodes.config import EditZooConfig
from data_gen.episodes.shard import shards_of
from metamodel.config.editing import EditingConfig
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.report import load
from metamodel.triples.edit_store import EditZoo

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs/editing").glob("*.yaml"))


def run(folder: Path, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done


@pytest.fixture(scope="module")
def editing_job(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("editing")
    shutil.copytree(ROOT / "configs", folder / "configs")
    said = run(
        folder, "metamodel.train", "--config", "configs/editing/tiny.yaml", "--trainer.progress", "false"
    )
    assert "checkpoint  runs/editing-tiny/" in said.stdout
    return folder


@pytest.fixture(scope="module")
def checkpoint(editing_job) -> Path:
    (found,) = (editing_job / "runs/editing-tiny").glob("*/checkpoint")
    return found


def test_a_shipped_configuration_of_an_editor_is_understood_and_names_a_shipped_zoo():
    for file in CONFIGS:
        parser = command_parser(prog="x", description="")
        config, _ = parse_config(parser, EditingConfig, ["--config", str(file)])
        assert config.name == {"full": "editing"}.get(file.stem, f"editing-{file.stem}")
        assert (ROOT / config.zoo_config).is_file()


def test_a_shipped_zoo_of_edits_has_every_split_and_as_many_subjects_as_it_says():
    for file in sorted((ROOT / "configs/edits").glob("*.yaml")):
        parser = command_parser(prog="x", description="")
        config, _ = parse_config(parser, EditZooConfig, ["--config", str(file)])
        assert config.name == f"edits-{file.stem}"
        shards = shards_of(config)
        names = [name for shard in shards for name in shard.names]
        assert len(names) == len(set(names)) == sum(cell.n_subjects for cell in config.cells)
        assert {"none", "size", "task"} <= {cell.departs for cell in config.cells}


def test_the_job_leaves_a_checkpoint_with_numbers_and_a_card(checkpoint):
    report = load(checkpoint)
    assert {"edit", "seed", "size", "task"} <= set(report.scores)
    for by_metric in report.scores.values():
        assert by_metric["harmonic_mean"]["oracle"].value > by_metric["harmonic_mean"]["no_op"].value
        assert {"meta-model", "no_op", "oracle", "shuffled_specification"} <= set(by_metric["efficacy"])
    card = (checkpoint / "README.md").read_text()
    assert "python -m metamodel.train --config configs/editing/tiny.yaml" in card
    assert "| seed |" in card


def test_no_subject_is_in_training_and_in_a_test(editing_job, checkpoint):
    editor, zoo = metamodel.load(checkpoint), EditZoo.open(editing_job / "data/edits-tiny")
    lineage = {one.subject.name: one.lineage for one in zoo.subjects}
    trained = {lineage[id] for id in (*editor.splits.train, *editor.splits.validation)}
    for ids in editor.splits.tests.values():
        assert not trained & {lineage[id] for id in ids}


def test_a_finished_run_is_not_trained_again_and_a_zoo_is_built_once(editing_job):
    said = run(editing_job, "data_gen.episodes", "--config", "configs/edits/tiny.yaml")
    assert "this run took 0:0" in said.stdout
    assert "edits: rule" in said.stdout


def test_evaluation_reproduces_the_report(editing_job, checkpoint):
    said = run(editing_job, "metamodel.evaluate", str(checkpoint), "--split", "seed", "--json")
    again, first = json.loads(said.stdout)["splits"]["seed"], load(checkpoint).scores["seed"]
    for metric in ("harmonic_mean", "efficacy", "kl", "forecast_auroc"):
        for name, one in first[metric].items():
            value = again[metric][name]["value"]
            assert value == pytest.approx(one.value, abs=1e-5) if one.applies else value is None


def test_a_proposal_for_a_subject_of_another_zoo_does_what_its_pairs_say(editing_job, checkpoint):
    """The released editor: one that has trained for a dozen steps need not know where a fact ends."""
    editor, zoo = (
        metamodel.load(ROOT / "checkpoints/editing"),
        EditZoo.open(editing_job / "data/edits-tiny"),
    )
    from metamodel.evaluation.editing.episodes import episode

    held_out = {id for ids in metamodel.load(checkpoint).splits.tests.values() for id in ids}
    facts = [
        (one, edit)
        for one in zoo.subjects
        for edit in one.edits
        if one.subject.name in held_out and edit.kind == "rewrite" and edit.n_pairs == 4
    ]
    one = facts[0][0]
    asked = episode(*facts[0], 4, 0)
    proposal = editor.propose_for(one.subject, asked.examples)
    before, after = scores(asked, {}), scores(asked, proposal.changes)
    assert before.efficacy == 0
    assert after.efficacy > 0.7
    assert after.locality_far > 0.8


def test_a_zoo_of_triples_is_refused_in_one_line(editing_job):
    (editing_job / "data/none").mkdir(parents=True, exist_ok=True)
    words = ["--config", "configs/editing/tiny.yaml", "--zoo", "data/none", "--zoo_config", ""]
    said = run(editing_job, "metamodel.train", *words, ok=False)
    (line,) = said.stderr.splitlines()
    assert line.startswith("data/none: expected a finished zoo of edits, got an unfinished one.")


@pytest.mark.parametrize(
    ("name", "words", "keys"),
    [
        ("case_memory", ["--edits", "2", "--cases", "2"], {"training/seed", "training/edit"}),
        ("damage", ["--subjects", "1", "--tuning", "2"], set()),
        (
            "damage_clues",
            ["--subjects", "3", "--sequences", "3"],
            {"left", "odd", "AUROC, in use"},
        ),
        ("mend_per_subject", ["--subjects", "1", "--steps", "2", "--tuning", "2"], {"S", "gap", "subjects"}),
    ],
)
def test_the_benchmarks_of_editors_end_in_a_line_of_json(editing_job, checkpoint, name, words, keys):
    done = subprocess.run(
        [sys.executable, str(ROOT / f"benchmarks/{name}.py"), str(checkpoint), *words],
        cwd=editing_job,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert keys <= set(json.loads(done.stdout.splitlines()[-1]))


def test_a_device_is_compared_with_the_cpu_or_refused_in_one_line_where_there_is_none(
    editing_job, checkpoint
):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks/editing_device.py"),
            str(checkpoint),
            "--edits",
            "2",
            "--steps",
            "4",
        ],
        cwd=editing_job,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    if torch.cuda.is_available():
        assert json.loads(done.stdout.splitlines()[-1])["difference"]["median"] < 1e-3
    else:
        assert done.returncode == 2
        assert done.stderr.startswith("device: expected a CUDA device that torch sees")
