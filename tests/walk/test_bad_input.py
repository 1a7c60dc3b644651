"""Bad input as a user gives it: one line that says where, expected, got, do; exit code 2; nothing lost."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from data_gen import build
from metamodel import evaluate, read, train

TINY_ZOO = "configs/zoo/tiny.yaml"


@pytest.fixture
def broken(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["metamodel.train", "--optim.lrr", "1"],
            "metamodel.train: expected a known option, got --optim.lrr. See --help. "
            "Did you mean '--optim.lr'?",
        ),
        (
            ["metamodel.evaluate", "x", "--split", "sed"],
            "--split: expected one of seed, variant, size, recipe, origin, task, edit, kind, got 'sed'. "
            "Name one of them."
            " Did you mean 'seed'?",
        ),
        (
            ["metamodel.read", "x", "y", "--lable", "z"],
            "metamodel.read: expected a known option, got --lable. See --help. Did you mean '--label'?",
        ),
        (
            ["metamodel.release", "../x", "run"],
            "name: expected the name of a checkpoint, such as function-small, got '../x'. Leave out folders.",
        ),
        (
            ["data_gen.build", "--config", "configs/zoo/tiy.yaml"],
            "--config: expected a YAML file, got no file configs/zoo/tiy.yaml. Check the path. "
            "Did you mean 'configs/zoo/tiny.yaml'?",
        ),
        (
            ["data_gen.verify", "x", "--measurd", "1"],
            "data_gen.verify: expected a known option, got --measurd. See --help. Did you mean '--measured'?",
        ),
    ],
)
def test_every_command_refuses_a_mistake_in_a_process_of_its_own(words, line, refused):
    assert refused(*words) == line


def test_a_value_out_of_range_and_one_of_another_type_name_their_key(refused_here):
    said = refused_here(train.main, "--optim.lr", "-1")
    assert said == "optim.lr: expected > 0, got -1.0. Set a positive value."
    said = refused_here(train.main, "--training.epochs", "many")
    assert said == "--training.epochs: expected an integer, got 'many'. Correct it."


def test_a_zoo_that_is_not_there_is_refused_where_it_may_not_be_built(tmp_path, refused_here):
    said = refused_here(train.main, "--zoo", tmp_path / "zoo", "--zoo_config", "")
    assert said.startswith(f"{tmp_path}/zoo: expected a finished zoo, got none. Build it with ")


def test_an_unknown_task_is_refused_with_a_suggestion_and_writes_nothing(tmp_path, refused_here):
    cells = "[{family: repeatd, sizes: [l2h4], recipe: quick, n_subjects: 1}]"
    said = refused_here(build.main, "--config", TINY_ZOO, "--cells", cells, "--out", tmp_path / "zoo")
    assert said.startswith("task.family: expected one of ")
    assert said.endswith(", got 'repeatd'. Name a known family. Did you mean 'repeated'?")
    assert not (tmp_path / "zoo").exists()


def test_a_checkpoint_and_a_subject_that_are_not_there_are_refused(job, checkpoint, tmp_path, refused_here):
    zoo = job[0] / "data/tiny"
    said = refused_here(read.main, tmp_path / "away", f"{zoo}#x")
    assert said.startswith(f"{tmp_path}/away: expected the folder of a checkpoint, got no such folder.")
    said = refused_here(read.main, checkpoint, f"{zoo}#facts-base-l2h4-quick-000")
    assert said.startswith(f"{zoo}#facts-base-l2h4-quick-000: expected the id of a subject in this zoo, got ")
    assert "Did you mean 'facts-base-l2h4-quick-000" in said


def test_a_zoo_of_another_schema_version_is_refused(job, checkpoint, tmp_path, refused_here):
    zoo = Path(shutil.copytree(job[0] / "data/tiny", tmp_path / "zoo"))
    manifest = json.loads((zoo / "manifest.json").read_text())
    (zoo / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 999}))
    said = refused_here(evaluate.main, checkpoint, "--zoo", zoo)
    assert said.startswith(f"{zoo}/manifest.json: expected schema version ")
    assert ", got 999. " in said


def test_a_corrupted_shard_is_refused(job, checkpoint, tmp_path, refused_here):
    zoo = Path(shutil.copytree(job[0] / "data/tiny", tmp_path / "zoo"))
    for shard in (zoo / "shards").glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-200])
    said = refused_here(evaluate.main, checkpoint, "--zoo", zoo)
    assert said.startswith(f"{zoo}/shards/shard-0")
    assert ": a corrupted file. " in said


def test_a_missing_and_a_misshapen_tensor_are_named(broken, job, refused_here):
    subject, weights = f"{job[0] / 'data/tiny'}#x", broken / "model.safetensors"
    tensors = load_file(weights)
    name = next(key for key, value in tensors.items() if value.ndim > 1)
    shape = tuple(tensors[name].shape)
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    said = refused_here(read.main, broken, subject)
    assert said.startswith(f"{weights}: {name}: expected shape {shape}, got no tensor.")
    save_file(tensors | {name: tensors[name][:1].clone()}, weights)
    said = refused_here(read.main, broken, subject)
    assert said.startswith(f"{weights}: {name}: expected shape {shape}, got {(1, *shape[1:])}.")


def test_an_unsupported_architecture_is_refused(checkpoint, tmp_path, refused_here):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    said = refused_here(read.main, checkpoint, tmp_path)
    assert said.startswith(f"{tmp_path}: architecture: expected ")
    assert ", got 'llama'. " in said


def test_an_unknown_label_is_refused(job, checkpoint, refused_here):
    subject = json.loads((checkpoint / "splits.json").read_text())["size"][0]
    said = refused_here(read.main, checkpoint, f"{job[0] / 'data/tiny'}#{subject}", "--label", "inducton")
    assert said.startswith("label: expected one of ")
    assert said.endswith(", got 'inducton'. Name one of them. Did you mean 'induction'?")


def test_an_empty_split_is_refused(job, broken, refused_here):
    splits = json.loads((broken / "splits.json").read_text())
    (broken / "splits.json").write_text(json.dumps(splits | {"variant": []}))
    said = refused_here(evaluate.main, broken, "--zoo", job[0] / "data/tiny", "--split", "variant")
    assert said.startswith("split variant: expected at least one subject, got none.")


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path, refused_here):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=8, vocab_size=20)
    network = GPT2LMHeadModel(small)
    network.transformer.h[0].mlp.c_fc.weight.data[0, 0] = float("nan")
    network.save_pretrained(tmp_path)
    said = refused_here(read.main, checkpoint, tmp_path)
    assert "blocks.0.mlp.W_in: expected finite weights, got " in said
