"""The circuit of somebody's Llama, from a folder in transformers' format."""

import json

import pytest
import torch

from metamodel import circuit
from tests.reference.bridges import SIZES, drawn, hf


@pytest.fixture
def prompts(tmp_path):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(8):
        clean, corrupt = torch.randint(11, (2, 8), generator=generator).tolist()
        rows.append({"clean": clean, "corrupt": corrupt, "answer": 1, "corrupt_answer": 2})
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_circuit_of_a_llama_with_grouped_queries_is_found(prompts, tmp_path, called):
    config = hf.LlamaConfig(
        **(SIZES | {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2})
    )
    drawn(hf.LlamaForCausalLM(config)).save_pretrained(tmp_path / "llama")
    said = called(circuit.main, tmp_path / "llama", "--prompts", prompts, "--metric", "kl", "--json").out
    found = json.loads(said)
    assert found["subject"].endswith("/llama")
    assert found["n_edges_of_subject"] == 137
    assert found["recovered"] >= 0.9
    assert "from" in called(circuit.main, tmp_path / "llama", "--prompts", prompts, "--edges", 3).out


def test_other_models_are_refused_in_one_line(prompts, tmp_path, called):
    gemma = hf.Gemma2Config(**SIZES, num_key_value_heads=3, head_dim=4)
    drawn(hf.Gemma2ForCausalLM(gemma)).save_pretrained(tmp_path / "gemma2")
    refused = called(circuit.main, tmp_path / "gemma2", "--prompts", prompts, code=2).err
    assert "gemma2.blocks.0.ln1_post: expected no norm behind attention or MLP" in refused
    assert refused.count("\n") == 1
    t5 = hf.T5Config(vocab_size=11, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    hf.T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    refused = called(circuit.main, tmp_path / "t5", "--prompts", prompts, code=2).err
    assert "t5: weights: expected a readable checkpoint, got " in refused
    assert refused.count("\n") == 1
