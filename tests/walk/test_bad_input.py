"""Bad input as a user gives it: one line that says where, expected, got, do; exit code 2; nothing lost."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def broken(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def test_mistakes_on_the_command_line_are_one_line_with_a_suggestion(job, checkpoint, refused):
    zoo = job[0] / "data/tiny"
    assert "optim.lr" in refused("metamodel.train", "--optim.lrr", "1")
    assert "optim.lr" in refused("metamodel.train", "--optim.lr", "-1")
    assert "training.epochs" in refused("metamodel.train", "--training.epochs", "many")
    assert "data_gen.build" in refused("metamodel.train", "--zoo", job[0] / "none", "--zoo_config", "")
    assert "repeated" in refused("data_gen.build", "--config", "configs/zoo/tiny.yaml", "--cells", "[{family: repeatd, sizes: [l2h4], recipe: quick, n_subjects: 1}]", "--out", job[0] / "new")  # fmt: skip  # noqa: E501
    assert "seed" in refused("metamodel.evaluate", checkpoint, "--zoo", zoo, "--split", "sed")
    assert "none" in refused("metamodel.read", job[0] / "none", f"{zoo}#x")
    assert "Did you mean" in refused("metamodel.read", checkpoint, f"{zoo}#facts-base-l2h2-facts-000")


def test_a_zoo_of_another_schema_version_is_refused(job, checkpoint, tmp_path, refused):
    zoo = Path(shutil.copytree(job[0] / "data/tiny", tmp_path / "zoo"))
    manifest = json.loads((zoo / "manifest.json").read_text())
    manifest["schema_version"] = 999
    (zoo / "manifest.json").write_text(json.dumps(manifest))
    assert "999" in refused("metamodel.evaluate", checkpoint, "--zoo", zoo)


def test_a_corrupted_shard_is_refused(job, checkpoint, tmp_path, refused):
    zoo = Path(shutil.copytree(job[0] / "data/tiny", tmp_path / "zoo"))
    for shard in (zoo / "shards").glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-200])
    assert "corrupted file" in refused("metamodel.evaluate", checkpoint, "--zoo", zoo)


def test_a_missing_and_a_misshapen_tensor_are_named(broken, job, refused):
    subject = f"{job[0] / 'data/tiny'}#x"
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key, value in tensors.items() if value.ndim > 1)
    save_file({key: value for key, value in tensors.items() if key != name}, broken / "model.safetensors")
    assert name in refused("metamodel.read", broken, subject)
    save_file(tensors | {name: tensors[name][:1].clone()}, broken / "model.safetensors")
    assert name in refused("metamodel.read", broken, subject)


def test_an_unsupported_architecture_is_refused(checkpoint, tmp_path, refused):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    assert "llama" in refused("metamodel.read", checkpoint, tmp_path)


def test_an_unknown_label_is_refused(job, checkpoint, refused):
    subject = json.loads((checkpoint / "splits.json").read_text())["size"][0]
    said = refused("metamodel.read", checkpoint, f"{job[0] / 'data/tiny'}#{subject}", "--label", "inducton")
    assert "Did you mean 'induction'?" in said


def test_an_empty_split_is_refused(job, broken, refused):
    splits = json.loads((broken / "splits.json").read_text())
    (broken / "splits.json").write_text(json.dumps(splits | {"variant": []}))
    said = refused("metamodel.evaluate", broken, "--zoo", job[0] / "data/tiny", "--split", "variant")
    assert said.startswith("split variant: expected at least one subject, got none.")


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path, refused):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=8, vocab_size=20)
    network = GPT2LMHeadModel(small)
    network.transformer.h[0].mlp.c_fc.weight.data[0, 0] = float("nan")
    network.save_pretrained(tmp_path)
    assert "blocks.0.mlp.W_in: expected finite weights" in refused("metamodel.read", checkpoint, tmp_path)
