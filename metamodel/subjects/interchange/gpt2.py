"""GPT-2 in transformers: a subject from a `GPT2LMHeadModel`, and a GPT-2 folder from a subject.

    transformer.wte.weight                  embed.W_E             transformer.wpe.weight   pos_embed.W_pos
    transformer.h.{l}.ln_1 / ln_2           blocks.{l}.ln1 / ln2  transformer.ln_f         ln_final
    transformer.h.{l}.attn.c_attn           W_Q, W_K, W_V side by side, heads flattened
    transformer.h.{l}.attn.c_proj           W_O, b_O
    transformer.h.{l}.mlp.c_fc / c_proj     W_in, b_in / W_out, b_out
    lm_head.weight                          W_U, transposed

GPT-2 has no bias of the unembedding: `b_U` moves into the bias of the last LayerNorm where
`delta @ W_U = b_U` has a solution, and the subject is refused otherwise. GPT-2 has no attention-only form
either (transformers cannot run an MLP without neurons): such a subject gets one neuron a block whose weights
are all zero, and is recognised by that when it comes back.
"""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.interchange.quiet import quiet
from metamodel.subjects.interchange.setting import ACTIVATIONS, head_width, owned, require_setting
from metamodel.subjects.subject import Subject

ABSORPTION_TOLERANCE = 1e-5
"""Largest change of a logit, relative to the largest `b_U`, that absorbing `b_U` may leave."""


def gpt2_config(config: GPT2Config, name: str) -> SubjectConfig:
    """The shape of a GPT-2. Raises: InputError for a variant that a subject cannot express."""
    require_setting(f"{name}.scale_attn_weights", config.scale_attn_weights, (True,))
    require_setting(
        f"{name}.scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx, (False,)
    )
    require_setting(f"{name}.add_cross_attention", config.add_cross_attention, (False,))
    d_mlp = 4 * config.n_embd if config.n_inner is None else config.n_inner
    require_setting(f"{name}.activation_function", config.activation_function, ACTIVATIONS)
    return SubjectConfig(
        n_layers=config.n_layer,
        n_heads=config.n_head,
        d_model=config.n_embd,
        d_head=head_width(f"{name}.n_head", config.n_embd, config.n_head),
        d_mlp=d_mlp,
        d_vocab=config.vocab_size,
        n_ctx=config.n_positions,
        act_fn=ACTIVATIONS[config.activation_function],  # pyright: ignore[reportArgumentType]
        eps=config.layer_norm_epsilon,
    )


def from_gpt2(module: GPT2LMHeadModel, *, name: str) -> Subject:
    """The subject that a GPT-2 computes; weights are copied."""
    config = gpt2_config(module.config, name)
    state = module.state_dict()
    weights = {
        "embed.W_E": owned(state["transformer.wte.weight"]),
        "pos_embed.W_pos": owned(state["transformer.wpe.weight"]),
        "ln_final.w": owned(state["transformer.ln_f.weight"]),
        "ln_final.b": owned(state["transformer.ln_f.bias"]),
        "unembed.W_U": owned(state["lm_head.weight"].T),
        "unembed.b_U": owned(state["lm_head.weight"].new_zeros(config.d_vocab)),
    }
    for layer in range(config.n_layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        head = (config.n_heads, config.d_head)
        matrices = state[f"{theirs}.attn.c_attn.weight"].chunk(3, dim=1)
        biases = state[f"{theirs}.attn.c_attn.bias"].chunk(3)
        for x, matrix, bias in zip("QKV", matrices, biases, strict=True):
            weights[f"{ours}.attn.W_{x}"] = owned(matrix.unflatten(1, head).transpose(0, 1))
            weights[f"{ours}.attn.b_{x}"] = owned(bias.unflatten(0, head))
        weights[f"{ours}.attn.W_O"] = owned(state[f"{theirs}.attn.c_proj.weight"].unflatten(0, head))
        weights[f"{ours}.attn.b_O"] = owned(state[f"{theirs}.attn.c_proj.bias"])
        weights[f"{ours}.ln1.w"] = owned(state[f"{theirs}.ln_1.weight"])
        weights[f"{ours}.ln1.b"] = owned(state[f"{theirs}.ln_1.bias"])
        weights[f"{ours}.ln2.w"] = owned(state[f"{theirs}.ln_2.weight"])
        weights[f"{ours}.ln2.b"] = owned(state[f"{theirs}.ln_2.bias"])
        weights[f"{ours}.mlp.W_in"] = owned(state[f"{theirs}.mlp.c_fc.weight"])
        weights[f"{ours}.mlp.b_in"] = owned(state[f"{theirs}.mlp.c_fc.bias"])
        weights[f"{ours}.mlp.W_out"] = owned(state[f"{theirs}.mlp.c_proj.weight"])
        weights[f"{ours}.mlp.b_out"] = owned(state[f"{theirs}.mlp.c_proj.bias"])
    return without_silent_mlps(Subject(config=config, weights=weights, name=name))


def _with_silent_mlps(subject: Subject) -> Subject:
    """The same function with one neuron a block that does nothing, unless the subject has MLPs already."""
    if subject.config.has_mlp:
        return subject
    config = replace(subject.config, d_mlp=1)
    like = subject.weights["embed.W_E"]
    filled = {}
    for key, shape in weight_shapes(config).items():
        silent = like.new_ones(shape) if key.endswith("ln2.w") else like.new_zeros(shape)
        filled[key] = subject.weights.get(key, silent)
    return subject.with_weights(filled, config=config)


def without_silent_mlps(subject: Subject) -> Subject:
    """The attention-only subject that was written with one zero neuron a block; others unchanged."""
    mlps = {key: weight for key, weight in subject.weights.items() if ".mlp." in key}
    if subject.config.d_mlp != 1 or any(bool(weight.any()) for weight in mlps.values()):
        return subject
    config = replace(subject.config, d_mlp=0, act_fn="relu")
    kept = {key: subject.weights[key] for key in weight_shapes(config)}
    return subject.with_weights(kept, config=config)


def save_gpt2(subject: Subject, folder: Path) -> Path:
    """Writes the subject as a GPT-2 folder. Raises: InputError where it has no GPT-2 form."""
    module = to_gpt2(subject)
    with quiet():
        module.save_pretrained(folder)
    return folder


def to_gpt2(subject: Subject) -> GPT2LMHeadModel:
    """A GPT-2 with the subject's logits. Raises: InputError where it has no GPT-2 form."""
    _require_gpt2_form(subject)
    subject = _with_silent_mlps(subject)
    config, weights = subject.config, subject.weights
    bias = _last_bias(weights["ln_final.b"], weights["unembed.W_U"], weights["unembed.b_U"], subject.name)
    state = {
        "transformer.wte.weight": weights["embed.W_E"],
        "transformer.wpe.weight": weights["pos_embed.W_pos"],
        "transformer.ln_f.weight": weights["ln_final.w"],
        "transformer.ln_f.bias": bias,
        "lm_head.weight": weights["unembed.W_U"].T,
    }
    for layer in range(config.n_layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        matrices = [weights[f"{ours}.attn.W_{x}"].transpose(0, 1).flatten(1) for x in "QKV"]
        biases = [weights[f"{ours}.attn.b_{x}"].flatten() for x in "QKV"]
        state[f"{theirs}.attn.c_attn.weight"] = torch.cat(matrices, dim=1)
        state[f"{theirs}.attn.c_attn.bias"] = torch.cat(biases)
        state[f"{theirs}.attn.c_proj.weight"] = weights[f"{ours}.attn.W_O"].flatten(0, 1)
        state[f"{theirs}.attn.c_proj.bias"] = weights[f"{ours}.attn.b_O"]
        state[f"{theirs}.ln_1.weight"] = weights[f"{ours}.ln1.w"]
        state[f"{theirs}.ln_1.bias"] = weights[f"{ours}.ln1.b"]
        state[f"{theirs}.ln_2.weight"] = weights[f"{ours}.ln2.w"]
        state[f"{theirs}.ln_2.bias"] = weights[f"{ours}.ln2.b"]
        state[f"{theirs}.mlp.c_fc.weight"] = weights[f"{ours}.mlp.W_in"]
        state[f"{theirs}.mlp.c_fc.bias"] = weights[f"{ours}.mlp.b_in"]
        state[f"{theirs}.mlp.c_proj.weight"] = weights[f"{ours}.mlp.W_out"]
        state[f"{theirs}.mlp.c_proj.bias"] = weights[f"{ours}.mlp.b_out"]
    with torch.device("meta"):  # no random initialisation, which the weights would replace at once
        module = GPT2LMHeadModel(_transformers_config(config, weights["embed.W_E"].dtype))
    module.load_state_dict({key: owned(value) for key, value in state.items()}, strict=True, assign=True)
    return module.eval()


def _transformers_config(config: SubjectConfig, dtype: torch.dtype) -> GPT2Config:
    return GPT2Config(
        vocab_size=config.d_vocab,
        n_positions=config.n_ctx,
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_inner=config.d_mlp,
        activation_function=config.act_fn,
        layer_norm_epsilon=config.eps,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
        dtype=dtype,
    )


def _require_gpt2_form(subject: Subject) -> None:
    config = subject.config
    where, do = f"{subject.name}: GPT-2 form", "Use Subject.to_bridge, which keeps it."
    for setting, got, expected in (
        ("normalization_type", config.normalization_type, "LN"),
        ("norm_position", config.norm_position, "pre"),
        ("attention_dir", config.attention_dir, "causal"),
    ):
        require(got == expected, f"{where}.{setting}", expected=repr(expected), got=repr(got), do=do)
    width = config.n_heads * config.d_head
    require(
        width == config.d_model,
        f"{where}.d_head",
        expected=f"n_heads * d_head = d_model = {config.d_model}",
        got=width,
        do=do,
    )


def _last_bias(
    bias: Float[Tensor, " d_model"],
    w_u: Float[Tensor, "d_model d_vocab"],
    b_u: Float[Tensor, " d_vocab"],
    name: str,
) -> Float[Tensor, " d_model"]:
    """Bias of the last LayerNorm that also adds `b_U` to the logits."""
    if not b_u.any():
        return bias
    wanted = b_u.double()
    solution = wanted @ torch.linalg.pinv(w_u.double())
    left = float((solution @ w_u.double() - wanted).abs().max() / wanted.abs().max())
    if left > ABSORPTION_TOLERANCE:
        raise InputError(
            f"{name}: GPT-2 form.b_U",
            expected="a bias of the logits in the row space of W_U",
            got=f"one of which {left:.1%} is left over",
            do="GPT-2 has no such bias: set b_U to zero and retrain, or use Subject.to_bridge.",
        )
    return bias + solution.to(bias)
