"""Folders in transformers' format: whatever is missing, damaged or makes no sense is one line."""

import json
import os
import re
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from metamodel.config import InputError
from metamodel.subjects import Subject

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import huggingface_hub.constants
    from transformers import BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=9, n_embd=12, n_layer=2, n_head=3))


def bert(kind: type = BertModel) -> nn.Module:
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    return kind(BertConfig(vocab_size=13, max_position_embeddings=9, pad_token_id=0, **sizes))


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path):
    absent, file = tmp_path / "absent", tmp_path / "file"
    file.write_text("")
    expected = "subject: expected a folder in transformers' format or a hub name, got "
    for path in (absent, Path("./nowhere"), Path("a/b/c")):
        text = "./nowhere" if path == Path("nowhere") else str(path)
        message = refusal(lambda text=text: Subject.from_pretrained(text))
        assert message == f"{expected}{text!r}, which is not there. Check the path."
    message = refusal(lambda: Subject.from_pretrained(file))
    assert message == f"{expected}{str(file)!r}, which is a file. Check the path."
    assert refusal(lambda: Subject.from_pretrained(tmp_path)) == (
        f"{tmp_path}: expected a folder with a config.json in transformers' format, got none in it. "
        "Name the folder that save_pretrained wrote."
    )


def test_a_hub_name_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(lambda: Subject.from_pretrained("nobody/nothing-of-that-name"))
    assert message.startswith(
        "nobody/nothing-of-that-name: config.json: expected a folder, or a hub name that can be reached, got "
    )
    assert message.endswith(". Check the name and the network.")


def damaged(folder: Path, damage: str) -> Path:
    gpt2().save_pretrained(folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    match damage:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "missing":
            del tensors["transformer.h.1.ln_1.bias"]
            save_file(tensors, weights, metadata={"format": "pt"})
        case "misshapen":
            tensors["transformer.h.1.ln_1.bias"] = torch.zeros(13)
            save_file(tensors, weights, metadata={"format": "pt"})
        case "not finite":
            tensors["transformer.h.1.ln_1.bias"][0] = torch.nan
            save_file(tensors, weights, metadata={"format": "pt"})
        case "config":
            (folder / "config.json").write_text("{not json")
        case "gone":
            weights.unlink()
    return folder


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", "weights: expected a readable checkpoint, got "),
        ("missing", "weights: expected transformer.h.1.ln_1.bias, got no such tensor."),
        ("misshapen", "weights: expected transformer.h.1.ln_1.bias of shape (12,), got shape (13,)."),
        ("config", "config.json: expected a readable checkpoint, got "),
        ("gone", "weights: expected a readable checkpoint, got "),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path: Path, damage: str, said: str):
    folder = damaged(tmp_path, damage)
    message = refusal(lambda: Subject.from_pretrained(folder))
    assert message.startswith(f"{folder}: {said}")
    assert message.endswith(" Save the network again with save_pretrained.")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    folder = damaged(tmp_path, "not finite")
    name = "/".join(folder.parts[-2:])
    assert refusal(lambda: Subject.from_pretrained(folder)) == (
        f"{name}: blocks.1.ln1.b: expected finite weights, got nan or inf. Retrain or drop this subject."
    )


def test_a_masked_language_model_s_folder_is_read_as_its_encoder(tmp_path: Path):
    module = bert(BertForMaskedLM)
    module.save_pretrained(tmp_path)
    assert (
        Subject.from_pretrained(tmp_path).fingerprint()
        == Subject.from_transformers(module.bert).fingerprint()
    )


AGAIN = "Save the network again with save_pretrained."
HEADS = "Set the number of heads that was trained."


@pytest.mark.parametrize(
    ("network", "changes", "file", "got"),
    [
        (gpt2, {"n_layer": "two"}, "config.json", "Validation error for field 'n_layer': .* 'two'"),
        (gpt2, {"layer_norm_epsilon": "x"}, "config.json", ".* 'layer_norm_epsilon': .* 'x'"),
        (gpt2, {"activation_function": None}, "config.json", ".* 'activation_function': .* None"),
        (gpt2, {"dtype": "bad"}, "config.json", ".* 'bad'"),
        (gpt2, [], "config.json", "a list in place of an object"),
        (gpt2, 3, "config.json", ""),
        (gpt2, {"attn_pdrop": 3.0}, "weights", "dropout probability"),
        (bert, {"layer_norm_eps": "x"}, "config.json", ".* 'layer_norm_eps': .* 'x'"),
        (bert, {"pad_token_id": 99}, "weights", "Padding_idx"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(tmp_path: Path, network, changes, file, got):
    reconfigured(tmp_path, network, changes)
    message = refusal(lambda: Subject.from_pretrained(tmp_path))
    start = f"{tmp_path}: {file}: expected a readable checkpoint, got "
    assert re.match(re.escape(start) + got, message), message
    assert message.endswith(f". {AGAIN}")


@pytest.mark.parametrize("n_heads", [0, -3, 5])
@pytest.mark.parametrize(("network", "key"), [(gpt2, "n_head"), (bert, "num_attention_heads")])
def test_heads_that_do_not_share_the_width_are_one_line(tmp_path: Path, network, key: str, n_heads: int):
    reconfigured(tmp_path, network, {key: n_heads})
    assert refusal(lambda: Subject.from_pretrained(tmp_path)) == (
        f"{tmp_path}.{key}: expected a positive divisor of the width 12, got {n_heads}. {HEADS}"
    )


def reconfigured(folder: Path, network, changes: object) -> None:
    """A folder of that network whose config.json has the changes, or is something else altogether."""
    network().save_pretrained(folder)
    path = folder / "config.json"
    changed = {**json.loads(path.read_text()), **changes} if isinstance(changes, dict) else changes
    path.write_text(json.dumps(changed))
