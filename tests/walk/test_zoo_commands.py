"""Zoo commands as users run them: from a shell, stopped in the middle, with mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIG = """\
name: hurried
n_ctx: 24
sizes:
  s: {n_layers: 2, n_heads: 2, d_model: 16, d_head: 8}
recipes:
  hurried: {steps: 120, batch_size: 16, warmup_steps: 10}
cells:
  - {family: repeated, sizes: [s], recipe: hurried, n_subjects: 3}
  - {family: modular, sizes: [s], recipe: hurried, n_subjects: 1, departs: task}
subjects_per_shard: 1
harvest: {n_prompts: 8, n_behavior_prompts: 32, n_probes: 4, n_random: 16}
"""
"""Far too few steps for any subject to be accepted, so building it is quick."""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "hurried.yaml"
    path.write_text(CONFIG)
    return path


def run(command: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", command, *map(str, arguments)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_build_that_is_stopped_goes_on_to_the_same_bytes_as_arrays_and_pools(config, tmp_path):
    stopped, shared = tmp_path / "stopped", tmp_path / "shared"
    words = [sys.executable, "-m", "data_gen.build", "--config", str(config), "--workers", "1"]
    building = subprocess.Popen(
        [*words, "--out", str(stopped)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    until = time.monotonic() + 90
    while not list(stopped.glob("shards/*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(building.pid, signal.SIGINT)  # as a terminal does: to the command and all its workers
    _, errors = building.communicate(timeout=30)
    assert building.returncode == 130, errors
    assert "Interrupted. What is finished is kept: run the same command again to go on." in errors
    assert "Traceback" not in errors
    kept = {p.name for p in stopped.glob("shards/*.json")}
    assert 1 <= len(kept) < 4
    assert json.loads((stopped / "manifest.json").read_text())["finished"] is False
    assert run("data_gen.verify", stopped, code=2).stdout.startswith(f"{stopped}: unfinished;")

    again = run("data_gen.build", "--config", config, "--workers", 1, "--out", stopped)
    assert "repeated-base at size s: only 0 of 3 subjects were accepted." in again.stdout
    first = run("data_gen.build", "--config", config, "--out", shared, "--shard", "0/2", "--workers", 2)
    assert f"{shared}: 2 of 4 shards are there" in first.stdout
    run("data_gen.build", "--config", config, "--out", shared, "--shard", "1/2", "--workers", 2)
    assert bytes_of(stopped) == bytes_of(shared)


def test_a_dry_run_counts_and_writes_nothing(config, tmp_path):
    shown = run("data_gen.build", "--config", config, "--out", tmp_path / "zoo", "--dry-run")
    assert "4 subjects in 4 shards, 168 edges" in shown.stdout
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--sead=3"],
            "data_gen.build: expected a known option, got --sead. See --help. Did you mean '--seed'?",
        ),
        (["--seed=-1"], "zoo.seed: expected at least 0, got -1. Set 0 or more."),
        (["--n_ctx=long"], "--n_ctx: expected an integer, got 'long'. Correct it."),
        (["--workers=0"], "--workers: expected at least 1, got 0. Leave it out for one worker a core."),
        (["--shard=9"], "--shard: expected k/n with 0 <= k < n, got '9'. Give 0/64 … 63/64."),
        (["--executor=slurm"], "--executor: expected one of local, got 'slurm'. Correct it."),
    ],
)
def test_a_mistake_is_one_line_and_code_2(config, arguments, message):
    assert run("data_gen.build", "--config", config, *arguments, code=2).stderr == f"{message}\n"


def test_the_debug_variable_shows_where_a_mistake_was_noticed(config, monkeypatch):
    monkeypatch.setenv("METAMODEL_DEBUG", "1")
    words = [sys.executable, "-m", "data_gen.build", "--config", str(config), "--seed=-1"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith("zoo.seed: expected at least 0, got -1. Set 0 or more.\n")


def test_the_zoo_of_another_configuration_is_not_touched(config, tmp_path):
    out = tmp_path / "zoo"
    run("data_gen.build", "--config", config, "--out", out, "--shard", "3/4")
    before = bytes_of(out)
    refused = run(
        "data_gen.build", "--config", config, "--out", out, "--harvest.n_prompts=9", "--seed=4", code=2
    )
    assert refused.stderr == (
        f"{out}: expected the zoo of this configuration, got another one: harvest.n_prompts, seed differ. "
        "Choose another folder with --out, or remove this one.\n"
    )
    assert bytes_of(out) == before


def test_verifying_what_is_no_zoo_is_one_line(tmp_path):
    assert run("data_gen.verify", tmp_path / "small", code=2).stderr == (
        f"{tmp_path}/small: expected a zoo, got no manifest.json. "
        "Build it: python -m data_gen.build --config configs/zoo/small.yaml\n"
    )
