"""TransformerLens bridges: a subject from a native or GPT-2 bridge, and a native bridge from a subject.

TransformerLens names and shapes its weights as we do, so they pass through unchanged. What needs care is
which settings of a bridge a subject can express; others are refused by name, and nothing else is computed.
"""

import math

import torch
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import boot as boot_native
from transformers import GPT2Config

from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.interchange.gpt2 import gpt2_config, without_silent_mlps
from metamodel.subjects.interchange.setting import ACTIVATIONS, SUPPORTED, owned, require_setting
from metamodel.subjects.subject import Subject

NATIVE, GPT2 = "TransformerLensNative", "GPT2LMHeadModel"


def from_bridge(bridge: nn.Module, *, name: str = "bridge") -> Subject:
    """The subject that a bridge computes. Raises: InputError, naming the setting that stands in the way."""
    if not isinstance(bridge, TransformerBridge):
        raise InputError(
            name,
            expected="a TransformerBridge",
            got=type(bridge).__name__,
            do="Use TransformerBridge.boot_native or boot_transformers, or Subject.from_transformers.",
        )
    require(
        not bridge._weights_processed,
        name,
        expected="raw weights",
        got="weights that compatibility mode has folded and centred",
        do="Boot the bridge again without enable_compatibility_mode(); subjects are stored raw.",
    )
    architecture = bridge.cfg.architecture
    require_setting(f"{name}.architecture", architecture, (NATIVE, GPT2))
    if architecture == NATIVE:
        config = _native_config(bridge.cfg, name)
    else:
        theirs = bridge.original_model.config
        assert isinstance(theirs, GPT2Config)
        config = gpt2_config(theirs, name)
    given = bridge.tl_parameters()
    weights = {}
    for key, shape in weight_shapes(config).items():
        leaf = key.rsplit(".", 1)[1]
        if key in given:
            weights[key] = owned(given[key])
        else:  # LNPre is LayerNorm without parameters
            like = given["embed.W_E"]
            weights[key] = owned((torch.ones if leaf == "w" else torch.zeros)(shape).to(like))
    subject = Subject(config=config, weights=weights, name=name)
    return subject if architecture == NATIVE else without_silent_mlps(subject)


def is_native(bridge: nn.Module) -> bool:
    """Whether it is a bridge of TransformerLens's own architecture, which has no hooks at single edges."""
    return isinstance(bridge, TransformerBridge) and bridge.cfg.architecture == NATIVE


def _native_config(cfg: TransformerBridgeConfig, name: str) -> SubjectConfig:
    """The shape of a native bridge. A setting that the native architecture ignores is not looked at."""
    norm = cfg.normalization_type
    require_setting(f"{name}.normalization_type", norm and norm.upper(), ("LN", "LNPRE", None))
    require_setting(f"{name}.final_rms", cfg.final_rms, (False,))
    positions = cfg.positional_embedding_type or "standard"
    require_setting(f"{name}.positional_embedding_type", positions, ("standard",))
    require_setting(f"{name}.n_key_value_heads", cfg.n_key_value_heads or cfg.n_heads, (cfg.n_heads,))
    require_setting(f"{name}.attention_dir", cfg.attention_dir, ("causal", "bidirectional"))
    d_vocab_out = cfg.d_vocab_out if cfg.d_vocab_out > 0 else cfg.d_vocab
    require_setting(f"{name}.d_vocab_out", d_vocab_out, (cfg.d_vocab,))
    for cap in ("attn_scores_soft_cap", "output_logits_soft_cap"):
        value = float(getattr(cfg, cap))
        require(value <= 0, f"{name}.{cap}", expected="no soft cap", got=value, do=SUPPORTED)
    if cfg.use_attn_scale and cfg.attn_scale > 0:
        require(
            math.isclose(cfg.attn_scale, math.sqrt(cfg.d_head), rel_tol=1e-6),
            f"{name}.attn_scale",
            expected="the square root of d_head",
            got=cfg.attn_scale,
            do="Leave attn_scale at -1, or multiply W_Q and b_Q so that the usual scale holds.",
        )
    act_fn = "relu"
    if not cfg.attn_only:
        require_setting(f"{name}.gated_mlp", cfg.gated_mlp, (False,))
        require_setting(f"{name}.act_fn", cfg.act_fn, ("relu", "gelu", "gelu_new"))
        act_fn = ACTIVATIONS[cfg.act_fn or "relu"]
    return SubjectConfig(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=0 if cfg.attn_only else int(cfg.d_mlp or 4 * cfg.d_model),
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        act_fn=act_fn,  # pyright: ignore[reportArgumentType]  # the values of ACTIVATIONS
        normalization_type="LN" if norm else "none",
        attention_dir="causal" if cfg.attention_dir == "causal" else "bidirectional",
        eps=cfg.eps,
    )


def to_bridge(subject: Subject) -> TransformerBridge:
    """A native bridge with the subject's weights, on the subject's device and in its precision."""
    config, weights = subject.config, subject.weights
    require(
        config.norm_position == "pre",
        f"{subject.name}.norm_position",
        expected="'pre' for a bridge",
        got="'post'",
        do="Post-norm encoders have no native bridge; boot the encoder's own checkpoint instead.",
    )
    like = weights["embed.W_E"]
    cfg = TransformerBridgeConfig(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_model=config.d_model,
        d_head=config.d_head,
        d_mlp=config.d_mlp or None,
        d_vocab=config.d_vocab,
        n_ctx=config.n_ctx,
        act_fn=config.act_fn,
        normalization_type="LN" if config.has_norm else None,
        attention_dir=config.attention_dir,
        attn_only=not config.has_mlp,
        eps=config.eps,
        init_weights=False,
    )
    bridge = boot_native(cfg, device=like.device, dtype=like.dtype, model_name=subject.name)
    with torch.no_grad():
        for key, target in _native_targets(bridge, config).items():
            target.copy_(_native_layout(key, weights[key]))
    return bridge


def _native_layout(key: str, weight: Tensor) -> Tensor:
    """A weight as torch's Linear holds it: `[out, in]`, heads flattened."""
    match key.rsplit(".", 1)[1]:
        case "W_Q" | "W_K" | "W_V":
            return weight.transpose(1, 2).flatten(0, 1)
        case "W_O":
            return weight.flatten(0, 1).T
        case "b_Q" | "b_K" | "b_V":
            return weight.flatten()
        case "W_in" | "W_out" | "W_U":
            return weight.T
        case _:
            return weight


_NATIVE_NAMES = {
    "embed.W_E": "embed.weight",
    "pos_embed.W_pos": "pos_embed.weight",
    "unembed.W_U": "unembed.weight",
    "unembed.b_U": "unembed.bias",
    "ln_final.w": "ln_final.weight",
    "ln_final.b": "ln_final.bias",
}
_NATIVE_LEAVES = {
    "w": "weight",
    "b": "bias",
    "W_in": "in.weight",
    "b_in": "in.bias",
    "W_out": "out.weight",
    "b_out": "out.bias",
} | {
    f"{kind}_{x}": f"{x.lower()}.{'weight' if kind == 'W' else 'bias'}" for x in "QKVO" for kind in ("W", "b")
}


def _native_targets(bridge: TransformerBridge, config: SubjectConfig) -> dict[str, Tensor]:
    """Our name of a weight -> the bridge's own tensor, to be written to."""
    state = bridge.state_dict()
    targets = {}
    for key in weight_shapes(config):
        parent, leaf = key.rsplit(".", 1)
        targets[key] = state[_NATIVE_NAMES.get(key) or f"{parent}.{_NATIVE_LEAVES[leaf]}"]
    return targets
