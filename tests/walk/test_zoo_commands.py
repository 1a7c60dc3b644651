"""Zoo commands as users run them: from a shell, stopped in the middle, with mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_gen import build, harvest, pairs, verify

CONFIG = """\
name: hurried
n_ctx: 16
sizes:
  s: {n_layers: 2, n_heads: 4, d_model: 32, d_head: 8, d_mlp: 64}
recipes:
  hurried: {steps: 200, batch_size: 32, learning_rate: 0.015, warmup_steps: 30}
cells:
  - {family: sorting, variant: short, sizes: [s], recipe: hurried, n_subjects: 3}
subjects_per_shard: 2
harvest: {n_prompts: 8, n_behavior_prompts: 32, n_probes: 4, n_shown: 8, n_random: 16}
"""
"""As few steps as subjects need to be accepted, so that weights and all that is harvested are compared."""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "hurried.yaml"
    path.write_text(CONFIG)
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_build_that_is_stopped_goes_on_to_the_same_bytes_as_arrays_and_pools(
    config, tmp_path, called, interruptible
):
    stopped, pooled = tmp_path / "stopped", tmp_path / "pooled"
    words = [sys.executable, "-m", "data_gen.build", "--config", str(config), "--workers", "1"]
    building = subprocess.Popen(
        [*words, "--out", str(stopped)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=interruptible,
    )
    until = time.monotonic() + 90
    while not list(stopped.glob("shards/*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(building.pid, signal.SIGINT)  # as a terminal does: to the command and all its workers
    _, errors = building.communicate(timeout=30)
    assert building.returncode == 130, errors
    assert "Interrupted. What is finished is kept: run the same command again to go on." in errors
    assert "Traceback" not in errors
    assert {p.name for p in stopped.glob("shards/*.json")} == {"shard-00000.json"}
    assert json.loads((stopped / "manifest.json").read_text())["finished"] is False
    assert called(verify.main, stopped, code=2).out.startswith(f"{stopped}: unfinished;")

    kept = (stopped / "shards/shard-00000.safetensors").stat().st_mtime_ns
    array = called(build.main, "--config", config, "--out", stopped, "--shard", "1/2", "--workers", 1)
    assert f"{stopped} holds 3 triples of 3 subjects." in array.out
    assert (stopped / "shards/shard-00000.safetensors").stat().st_mtime_ns == kept
    called(build.main, "--config", config, "--out", pooled, "--workers", 2)
    assert len(list(pooled.glob("shards/*.safetensors"))) == len(list(pooled.glob("shards/*.arrow"))) == 2
    assert bytes_of(stopped) == bytes_of(pooled)
    assert called(verify.main, pooled).out.startswith(
        f"{pooled}: ok, 2 shards, 3 triples of 3 subjects (0 rejected), "
    )


def test_a_dry_run_counts_and_writes_nothing(config, tmp_path, called):
    shown = called(build.main, "--config", config, "--out", tmp_path / "zoo", "--dry-run")
    assert "3 subjects in 2 shards, 411 edges" in shown.out
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
        (["--executor=slurm"], "--executor: expected one of local, ray, got 'slurm'. Correct it."),
    ],
)
def test_a_mistake_is_one_line_and_code_2(config, arguments, message, called):
    assert called(build.main, "--config", config, *arguments, code=2).err == f"{message}\n"


def test_the_debug_variable_shows_where_a_mistake_was_noticed(config, monkeypatch, called):
    monkeypatch.setenv("METAMODEL_DEBUG", "1")
    said = called(build.main, "--config", config, "--seed=-1", code=2).err
    assert said.startswith("Traceback")
    assert said.endswith("zoo.seed: expected at least 0, got -1. Set 0 or more.\n")


def test_the_zoo_of_another_configuration_is_not_touched(config, tmp_path, called):
    out = tmp_path / "zoo"
    begun = called(build.main, "--config", config, "--out", out, "--shard", "3/4")  # a share without a shard
    assert begun.out == f"{out}: 0 of 2 shards are there; the last build completes the zoo.\n"
    before = bytes_of(out)
    assert set(before) == {"manifest.json"}
    refused = called(
        build.main, "--config", config, "--out", out, "--harvest.n_prompts=9", "--seed=4", code=2
    )
    assert refused.err == (
        f"{out}: expected the zoo of this configuration, got another one (there -> here): "
        "harvest.n_prompts: 8 -> 9, seed: 0 -> 4. "
        "Choose another folder with --out, or remove this one.\n"
    )
    assert bytes_of(out) == before


def test_a_folder_that_cannot_be_written_is_one_line(config, tmp_path, called):
    (tmp_path / "file").write_text("mine")
    refused = called(build.main, "--config", config, "--out", tmp_path / "file", code=2)
    assert refused.err == (
        f"{tmp_path}/file: expected a folder that can be written, got File exists. "
        "Choose another folder with --out.\n"
    )


def test_verifying_what_is_no_zoo_is_one_line(tmp_path, run):
    assert run("data_gen.verify", tmp_path / "small", code=2).stderr == (
        f"{tmp_path}/small: expected a zoo, got no manifest.json. "
        "Build it: python -m data_gen.build --config configs/zoo/small.yaml\n"
    )


def test_pairs_are_added_to_a_finished_zoo_and_leave_it_whole(job, tmp_path, called):
    zoo = tmp_path / "tiny"
    shutil.copytree(job[0] / "data/tiny", zoo)
    before = bytes_of(zoo)
    told = called(pairs.main, zoo, "--most", 7).out
    counts = dict(line.split()[:2] for line in told.splitlines()[:-1])
    assert counts["seed"] == counts["size"] == counts["unrelated"] == "7"
    assert counts["pruned"] == "0"
    assert {name: value for name, value in bytes_of(zoo).items() if not name.startswith("tables/")} == before
    assert called(verify.main, zoo).out.startswith(f"{zoo}: ok, ")
    (zoo / "tables/pairs.arrow").write_bytes(b"")
    found = called(verify.main, zoo, code=2)
    assert found.out == f"{zoo}/tables/pairs.arrow: rows that are not those of its record\n"
    refused = called(pairs.main, tmp_path / "none", code=2).err
    assert refused.startswith(f"{tmp_path}/none: expected a zoo, got no manifest.json.")


def test_peoples_own_networks_are_harvested_into_a_zoo(tmp_path, called):
    nets, prompts = tmp_path / "nets", tmp_path / "words.jsonl"
    for seed in range(2):
        torch.manual_seed(seed)
        shape = GPT2Config(vocab_size=40, n_positions=12, n_embd=8, n_layer=1, n_head=2)
        GPT2LMHeadModel(shape).save_pretrained(nets / f"net{seed}")
    made = [
        {
            "clean": [0, 1 + i, 2, 3, 4, 5],
            "corrupt": [0, 2 + i, 2, 3, 4, 5],
            "answer": 1 + i,
            "corrupt_answer": 2 + i,
        }
        for i in range(16)
    ]
    prompts.write_text("".join(f"{json.dumps(one)}\n" for one in made))
    words = (nets, "--prompts", prompts, "--out", tmp_path / "zoo", "--workers", 1)
    said = called(harvest.main, *words)
    assert said.out.startswith(f"{tmp_path}/zoo holds 2 of 2 networks. Check it with:")
    assert called(verify.main, tmp_path / "zoo").out.startswith(f"{tmp_path}/zoo: ok, 2 shards, 2 triples")
    card = (tmp_path / "zoo/README.md").read_text()
    assert "license: other" in card
    assert "python -m data_gen.harvest" in card
    # the same again finds everything there; another network under the same name is another zoo
    called(harvest.main, *words)
    torch.manual_seed(9)
    GPT2LMHeadModel(shape).save_pretrained(nets / "net1")
    refused = called(harvest.main, *words, code=2).err
    assert (
        "expected the zoo of this configuration, got another one (there -> here): imported.net1: " in refused
    )
    assert called(harvest.main, nets, "--prompts", tmp_path / "no.jsonl", code=2).err == (
        f"{tmp_path}/no.jsonl: expected a file of JSON lines, got no file. Check the path.\n"
    )
