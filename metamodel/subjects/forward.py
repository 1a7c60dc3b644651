"""One functional forward over stacked weights, with taps, so that circuits and edits need no hooks.

Weights are a mapping from TransformerLens's names to tensors `[subject, ...]`. Any named site of the
computation can be recorded (`taps`), replaced (`replace`) or, where a destination reads the residual stream,
given an input of its own (`addends`). Sites, all with a leading `subject` axis:

    hook_embed, hook_pos_embed                       batch pos d_model
    blocks.{l}.hook_resid_pre / _mid / _post         batch pos d_model
    blocks.{l}.attn.hook_q / hook_k / hook_v         batch pos head d_head
    blocks.{l}.attn.hook_attn_scores / hook_pattern  batch head query key
    blocks.{l}.attn.hook_z                           batch pos head d_head
    blocks.{l}.attn.hook_result                      batch pos head d_model     (without b_O)
    blocks.{l}.hook_attn_out, hook_mlp_out           batch pos d_model
    blocks.{l}.mlp.hook_pre / hook_post              batch pos d_mlp
    ln_final.hook_normalized                         batch pos d_model

Destinations, for `addends`; each is added to the residual stream that this destination alone reads:

    blocks.{l}.hook_q_input / hook_k_input / hook_v_input   batch pos head d_model
    blocks.{l}.hook_mlp_in                                  batch pos d_model
    hook_unembed_in                                         batch pos d_model
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.config.errors import require, suggestion
from metamodel.subjects.config import SubjectConfig

Weights = Mapping[str, Tensor]
Replacement = Callable[[Tensor], Tensor]
_NOTHING: Mapping[str, Tensor] = {}
_NO_REPLACEMENT: Mapping[str, Replacement] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a forward returns."""

    logits: Float[Tensor, "subject batch pos d_vocab"]
    taps: dict[str, Tensor]
    """Recorded sites, by name; shapes in the legend of this module."""


def sites(config: SubjectConfig) -> tuple[str, ...]:
    """Every name that `taps` and `replace` accept."""
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        names += [f"{block}.hook_resid_pre"]
        attn = ("q", "k", "v", "attn_scores", "pattern", "z", "result")
        names += [f"{block}.attn.hook_{site}" for site in attn]
        names += [f"{block}.hook_attn_out", f"{block}.hook_resid_mid"]
        if config.has_mlp:
            names += [f"{block}.mlp.hook_pre", f"{block}.mlp.hook_post", f"{block}.hook_mlp_out"]
        names += [f"{block}.hook_resid_post"]
    return (*names, "ln_final.hook_normalized")


def destinations(config: SubjectConfig) -> tuple[str, ...]:
    """Every name that `addends` accepts."""
    names = []
    for layer in range(config.n_layers):
        names += [f"blocks.{layer}.hook_{x}_input" for x in "qkv"]
        if config.has_mlp:
            names += [f"blocks.{layer}.hook_mlp_in"]
    return (*names, "hook_unembed_in")


class _Sites:
    """Records and replaces named sites while a forward runs."""

    def __init__(self, taps: Collection[str], replace: Mapping[str, Replacement]):
        self.wanted, self.replace, self.recorded = frozenset(taps), replace, {}

    def __contains__(self, name: str) -> bool:
        return name in self.wanted or name in self.replace

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.replace:
            value = self.replace[name](value)
        if name in self.wanted:
            self.recorded[name] = value
        return value


def activation(x: Tensor, act_fn: str) -> Tensor:
    """The MLP's nonlinearity, elementwise."""
    match act_fn:
        case "relu":
            return F.relu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_new":
            return F.gelu(x, approximate="tanh")
    raise AssertionError(act_fn)


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis; `w`, `b` `[subject, d_model]` broadcast over the axes in between."""
    inner = (slice(None), *([None] * (x.ndim - 2)))
    return F.layer_norm(x, x.shape[-1:], eps=eps) * w[inner] + b[inner]


def _project(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """`[subject, ..., in] @ [subject, in, out] + [subject, out]`, as one batched product."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.baddbmm(b.unsqueeze(1), flat, w).view(*x.shape[:-1], w.shape[-1])


def _fused_qkv(weights: Weights, block: str) -> tuple[Tensor, Tensor]:
    """Q, K and V of all heads as one matrix `[subject, d_model, 3·head·d_head]` and its bias."""
    matrices = [weights[f"{block}.attn.W_{x}"].transpose(1, 2).flatten(2) for x in "QKV"]
    biases = [weights[f"{block}.attn.b_{x}"].flatten(1) for x in "QKV"]
    return torch.cat(matrices, dim=2), torch.cat(biases, dim=1)


def _qkv(
    weights: Weights, config: SubjectConfig, layer: int, resid: Tensor, addends: Mapping[str, Tensor]
) -> list[Tensor]:
    """Queries, keys and values `[subject, batch, pos, head, d_head]`."""
    block = f"blocks.{layer}"

    def normed(x: Tensor) -> Tensor:
        if not config.has_norm:
            return x
        return layer_norm(x, weights[f"{block}.ln1.w"], weights[f"{block}.ln1.b"], config.eps)

    names = [f"{block}.hook_{x}_input" for x in "qkv"]
    if not any(name in addends for name in names):
        w, b = _fused_qkv(weights, block)
        fused = _project(normed(resid), w, b)
        return list(fused.unflatten(-1, (3, config.n_heads, config.d_head)).unbind(-3))
    projected = []
    for name, x in zip(names, "QKV", strict=True):
        w, b = weights[f"{block}.attn.W_{x}"], weights[f"{block}.attn.b_{x}"]
        if name in addends:
            own = normed(resid.unsqueeze(3) + addends[name])
            projected.append(torch.einsum("sbphm,shmd->sbphd", own, w) + b[:, None, None])
        else:
            projected.append(torch.einsum("sbpm,shmd->sbphd", normed(resid), w) + b[:, None, None])
    return projected


def _attention(
    weights: Weights,
    config: SubjectConfig,
    layer: int,
    resid: Tensor,
    addends: Mapping[str, Tensor],
    site: _Sites,
) -> Tensor:
    """Output of one attention layer, `[subject, batch, pos, d_model]`."""
    attn = f"blocks.{layer}.attn"
    q, k, v = (
        site(f"{attn}.hook_{name}", value)
        for name, value in zip("qkv", _qkv(weights, config, layer, resid, addends), strict=True)
    )
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))  # subject batch head pos d_head
    scores = q @ k.transpose(-1, -2) / math.sqrt(config.d_head)
    if config.attention_dir == "causal":
        n_pos = scores.shape[-1]
        future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    scores = site(f"{attn}.hook_attn_scores", scores)
    pattern = site(f"{attn}.hook_pattern", scores.softmax(-1))
    z = site(f"{attn}.hook_z", (pattern @ v).transpose(2, 3))
    if f"{attn}.hook_result" in site:
        result = torch.einsum("sbphd,shdm->sbphm", z, weights[f"{attn}.W_O"])
        result = site(f"{attn}.hook_result", result)
        return result.sum(3) + weights[f"{attn}.b_O"][:, None, None]
    return _project(z.flatten(3), weights[f"{attn}.W_O"].flatten(1, 2), weights[f"{attn}.b_O"])


def _mlp(
    weights: Weights, config: SubjectConfig, layer: int, read: Tensor, site: _Sites
) -> Float[Tensor, "subject batch pos d_model"]:
    block = f"blocks.{layer}"
    if config.has_norm:
        read = layer_norm(read, weights[f"{block}.ln2.w"], weights[f"{block}.ln2.b"], config.eps)
    pre = _project(read, weights[f"{block}.mlp.W_in"], weights[f"{block}.mlp.b_in"])
    pre = site(f"{block}.mlp.hook_pre", pre)
    post = site(f"{block}.mlp.hook_post", activation(pre, config.act_fn))
    return _project(post, weights[f"{block}.mlp.W_out"], weights[f"{block}.mlp.b_out"])


def _check_names(config: SubjectConfig, where: str, given: Collection[str], known: tuple[str, ...]) -> None:
    require(
        config.norm_position == "pre",
        "subject.norm_position",
        expected="'pre' to run a subject",
        got="'post'",
        do="Post-norm encoders can be read on the weights track only.",
    )
    for name in given:
        require(
            name in known,
            where,
            expected="a site of this subject",
            got=repr(name),
            do=f"See metamodel.subjects.forward.{suggestion(name, known)}",
        )


def forward(
    weights: Weights,
    config: SubjectConfig,
    tokens: Int[Tensor, "*subject batch pos"],
    *,
    taps: Collection[str] = (),
    addends: Mapping[str, Tensor] = _NOTHING,
    replace: Mapping[str, Replacement] = _NO_REPLACEMENT,
) -> Run:
    """Runs stacked subjects on tokens, their own `[subject, batch, pos]` or shared `[batch, pos]`.

    Args:
        taps: names of sites to record, in shapes of this module's legend.
        addends: destination name -> what is added to the residual stream that it alone reads.
        replace: site name -> function from the site's value to the value that is used in its place.

    Raises: InputError for an unknown name, or a post-norm subject.
    """
    _check_names(config, "taps", taps, sites(config))
    _check_names(config, "replace", replace, sites(config))
    _check_names(config, "addends", addends, destinations(config))
    site = _Sites(taps, replace)
    embedding = weights["embed.W_E"]
    if tokens.ndim == 2:
        embedded = embedding[:, tokens]
    else:
        # One lookup in the stacked table: its backward is several times cheaper than advanced indexing's.
        first_row = torch.arange(embedding.shape[0], device=tokens.device)[:, None, None] * config.d_vocab
        embedded = F.embedding(tokens + first_row, embedding.flatten(0, 1))
    position = weights["pos_embed.W_pos"][:, None, : tokens.shape[-1]].expand_as(embedded)
    resid = site("hook_embed", embedded) + site("hook_pos_embed", position)
    return run_blocks(weights, config, resid, first_layer=0, site=site, addends=addends)


def run_blocks(
    weights: Weights,
    config: SubjectConfig,
    resid: Float[Tensor, "subject batch pos d_model"],
    *,
    first_layer: int,
    addends: Mapping[str, Tensor] = _NOTHING,
    site: _Sites | None = None,
) -> Run:
    """The rest of a forward, from the residual stream before block `first_layer`."""
    site = _Sites((), {}) if site is None else site
    for layer in range(first_layer, config.n_layers):
        block = f"blocks.{layer}"
        resid = site(f"{block}.hook_resid_pre", resid)
        out = _attention(weights, config, layer, resid, addends, site)
        resid = site(f"{block}.hook_resid_mid", resid + site(f"{block}.hook_attn_out", out))
        if config.has_mlp:
            own = addends.get(f"{block}.hook_mlp_in")
            out = _mlp(weights, config, layer, resid if own is None else resid + own, site)
            resid = resid + site(f"{block}.hook_mlp_out", out)
        resid = site(f"{block}.hook_resid_post", resid)
    if "hook_unembed_in" in addends:
        resid = resid + addends["hook_unembed_in"]
    return Run(logits=unembed(weights, config, resid, site), taps=site.recorded)


def unembed(
    weights: Weights,
    config: SubjectConfig,
    resid: Float[Tensor, "subject *rest d_model"],
    site: _Sites | None = None,
) -> Float[Tensor, "subject *rest d_vocab"]:
    """Logits of a final residual stream: the last LayerNorm, then `W_U` and `b_U`."""
    if config.has_norm:
        resid = layer_norm(resid, weights["ln_final.w"], weights["ln_final.b"], config.eps)
    if site is not None:
        resid = site("ln_final.hook_normalized", resid)
    return _project(resid, weights["unembed.W_U"], weights["unembed.b_U"])
