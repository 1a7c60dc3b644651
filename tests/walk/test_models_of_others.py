"""Models that others trained, as docs/reading.md reads them: the benchmarks run, at the smallest size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reading_large
import train_text_model
import zero_shot

import metamodel

ROOT = Path(__file__).parents[2]


def benchmark(name: str, *arguments: object) -> tuple[dict, str]:
    """The last line of a benchmark, and what it wrote to stderr."""
    words = [sys.executable, f"benchmarks/{name}.py", *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A GPT-2 of characters after two steps, and what its training said."""
    folder = tmp_path_factory.mktemp("text") / "model"
    said, _ = benchmark(
        "train_text_model", folder, "--text", "README.md",
        "--steps", "2", "--layers", "2", "--heads", "4", "--width", "16", "--context", "24", "--batch", "2",
    )  # fmt: skip
    return folder, said


def test_a_text_model_is_trained_by_transformers_and_opens_there(text_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, said = text_model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = "| a `table` |\n"
    assert tokenizer.decode(tokenizer(words).input_ids) == words
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == said["d_vocab"]
    assert said["steps"] == 2
    assert said["bits_by_pairs"] < said["bits_by_frequency"] < said["bits_per_character"]


def test_models_that_others_trained_are_read_and_measured(job, checkpoint, text_model):
    trained = metamodel.load(checkpoint).splits.train[0]
    own = f"{job[0] / 'data/tiny'}#{trained}"
    said, shown = benchmark(
        "zero_shot", checkpoint, text_model[0], own, "--text", "README.md", "--prompts", "4"
    )
    others, exported = said["models"]
    assert (others["origin"], exported["origin"]) == ("zero-shot", "exported")
    assert (others["n"], exported["n"]) == (8, 8)
    assert exported["split"] == "train"
    measured = {(row["label"], row["source"]) for row in others["rows"]}
    assert {("previous_token", "random"), ("induction", "text"), ("copying", "weights"), ("mean", "text")} <= measured  # fmt: skip  # noqa: E501
    assert {row["source"] for row in exported["rows"]} == {"random", "weights"}  # it has no tokenizer
    for row in others["rows"]:
        values = {name: one["value"] for name, one in row["methods"].items() if one["value"] is not None}
        assert row["best"] == max(values, key=values.__getitem__)
        assert all(-1 <= value <= 1 for value in values.values())
    assert "previous_token" in shown


def test_bad_input_is_one_line(refused_here, checkpoint, text_model, tmp_path):
    assert refused_here(zero_shot.main, checkpoint) == (
        "folders: expected at least one model, got none. Name folders, or add --minilm."
    )
    assert refused_here(zero_shot.main, checkpoint, tmp_path / "none") == (
        f"folders: expected a folder, got no folder {tmp_path / 'none'}. "
        "Name the folder that save_pretrained wrote."
    )
    said = refused_here(zero_shot.main, checkpoint, tmp_path)
    assert said.startswith(f"{tmp_path}: expected a folder with a config.json in transformers' format")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"schema_version": 1, "kind": "matching"}')
    said = refused_here(zero_shot.main, other, text_model[0])
    assert said.startswith(f"{other / 'config.json'}: ")
    said = refused_here(reading_large.main, tmp_path / "none")
    assert said.startswith("checkpoint: expected a folder, got no folder")
    said = refused_here(train_text_model.main, text_model[0], "--text", "README.md")
    assert said.startswith("out: expected a new folder, got ")


def test_the_cost_of_a_reading_is_that_of_processes_of_their_own(checkpoint):
    said, _ = benchmark(
        "reading_large", checkpoint, "--layers", "1", "--heads", "2", "--width", "16",
        "--vocabulary", "50", "--context", "16", "--threads", "1",
    )  # fmt: skip
    whole, alone = said["command"], said["reading"]
    assert said["subject"]["components"] == 6
    assert 0 < alone["cpu_s"] < whole["cpu_s"]
    assert 0.1 < whole["peak_gib"] < 4
