"""One functional forward over stacked weights, with taps, so that circuits and edits need no hooks.

Weights are a mapping from TransformerLens's names to tensors `[subject, ...]`. Any named site of the
computation can be recorded (`taps`), replaced (`replace`) or, where a destination reads the residual stream,
given an input of its own (`addends`). Their names and shapes are the legend of `metamodel.subjects.sites`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.config.errors import require
from metamodel.subjects.checks import check_names
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.sites import Replacement, Sites, destinations, sites

Weights = Mapping[str, Tensor]
_NOTHING: Mapping[str, Tensor] = {}
_NO_REPLACEMENT: Mapping[str, Replacement] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a forward returns."""

    logits: Float[Tensor, "subject batch pos d_vocab"]
    taps: dict[str, Tensor]
    """Recorded sites, by name; shapes in the legend of `metamodel.subjects.sites`."""


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


def _read(x: Tensor, weights: Weights, norm: str, w: Tensor, b: Tensor, config: SubjectConfig) -> Tensor:
    """`_project` of the normalised `x`. The norm's gain and bias act on the weights, which are fewer."""
    if not config.has_norm:
        return _project(x, w, b)
    gain, bias = weights[f"{norm}.w"], weights[f"{norm}.b"]
    b = torch.baddbmm(b.unsqueeze(1), bias.unsqueeze(1), w).squeeze(1)
    return _project(F.layer_norm(x, x.shape[-1:], eps=config.eps), gain.unsqueeze(2) * w, b)


def _fused_qkv(weights: Weights, block: str) -> tuple[Tensor, Tensor]:
    """Q, K and V of all heads as one matrix `[subject, d_model, 3·head·d_head]` and its bias."""
    matrices = [weights[f"{block}.attn.W_{x}"].transpose(1, 2).flatten(2) for x in "QKV"]
    biases = [weights[f"{block}.attn.b_{x}"].flatten(1) for x in "QKV"]
    return torch.cat(matrices, dim=2), torch.cat(biases, dim=1)


def _qkv(
    weights: Weights, config: SubjectConfig, layer: int, resid: Tensor, addends: Mapping[str, Tensor]
) -> list[Tensor]:
    """Queries, keys and values `[subject, batch, pos, head, d_head]`, each head's contiguous in memory."""
    block = f"blocks.{layer}"
    names = [f"{block}.hook_{x}_input" for x in "qkv"]
    if not any(name in addends for name in names):
        fused = _read(resid, weights, f"{block}.ln1", *_fused_qkv(weights, block), config)
        fused = fused.unflatten(-1, (3, config.n_heads, config.d_head)).permute(3, 0, 1, 4, 2, 5)
        return [x.transpose(2, 3) for x in fused.contiguous().unbind(0)]

    def normed(x: Tensor) -> Tensor:
        if not config.has_norm:
            return x
        return layer_norm(x, weights[f"{block}.ln1.w"], weights[f"{block}.ln1.b"], config.eps)

    projected = []
    for name, x in zip(names, "QKV", strict=True):
        w, b = weights[f"{block}.attn.W_{x}"], weights[f"{block}.attn.b_{x}"]
        if name in addends:
            own = normed(resid.unsqueeze(3) + addends[name])
            projected.append(torch.einsum("sbphm,shmd->sbphd", own, w) + b[:, None, None])
        else:
            projected.append(torch.einsum("sbpm,shmd->sbphd", normed(resid), w) + b[:, None, None])
    return projected


def _mask(config: SubjectConfig, n_pos: int, like: Tensor) -> Tensor:
    """What is added to attention scores, `[query, key]`: minus infinity where a query may not look."""
    mask = like.new_zeros(n_pos, n_pos)
    if config.attention_dir == "causal":
        mask.masked_fill_(torch.ones_like(mask, dtype=torch.bool).triu(1), -torch.inf)
    return mask


def _attention(
    weights: Weights,
    config: SubjectConfig,
    layer: int,
    resid: Tensor,
    addends: Mapping[str, Tensor],
    site: Sites,
) -> Tensor:
    """Output of one attention layer, `[subject, batch, pos, d_model]`."""
    attn = f"blocks.{layer}.attn"
    q, k, v = (
        site(f"{attn}.hook_{name}", value)
        for name, value in zip("qkv", _qkv(weights, config, layer, resid, addends), strict=True)
    )
    q, k, v = (x.transpose(2, 3).flatten(0, 2) for x in (q, k, v))  # (subject batch head) pos d_head
    outer = (*resid.shape[:2], config.n_heads)
    mask = _mask(config, resid.shape[2], resid)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=config.d_head**-0.5).unflatten(0, outer)
    scores = site(f"{attn}.hook_attn_scores", scores)
    pattern = site(f"{attn}.hook_pattern", scores.softmax(-1)).flatten(0, 2)
    # Twice as fast as pattern @ v: batched products of tiny matrices are slow when the result is narrow.
    z = (v.transpose(1, 2) @ pattern.transpose(1, 2)).unflatten(0, outer).permute(0, 1, 4, 2, 3)
    z = site(f"{attn}.hook_z", z)
    if f"{attn}.hook_result" in site:
        result = torch.einsum("sbphd,shdm->sbphm", z, weights[f"{attn}.W_O"])
        result = site(f"{attn}.hook_result", result)
        return result.sum(3) + weights[f"{attn}.b_O"][:, None, None]
    return _project(z.flatten(3), weights[f"{attn}.W_O"].flatten(1, 2), weights[f"{attn}.b_O"])


def _mlp(
    weights: Weights, config: SubjectConfig, layer: int, read: Tensor, site: Sites
) -> Float[Tensor, "subject batch pos d_model"]:
    mlp = f"blocks.{layer}.mlp"
    w, b = weights[f"{mlp}.W_in"], weights[f"{mlp}.b_in"]
    pre = site(f"{mlp}.hook_pre", _read(read, weights, f"blocks.{layer}.ln2", w, b, config))
    post = site(f"{mlp}.hook_post", activation(pre, config.act_fn))
    return _project(post, weights[f"{mlp}.W_out"], weights[f"{mlp}.b_out"])


def _embed(weights: Weights, config: SubjectConfig, tokens: Tensor, site: Sites) -> Tensor:
    """The residual stream before the first block, `[subject, batch, pos, d_model]`."""
    n_pos = tokens.shape[-1]
    require(
        n_pos <= config.n_ctx,
        "tokens",
        expected=f"at most {config.n_ctx} positions, those the subject embeds",
        got=n_pos,
        do="Shorten the prompts.",
    )
    embedding = weights["embed.W_E"]
    if tokens.ndim == 2:
        embedded = embedding[:, tokens]
    else:
        # One lookup in the stacked table: its backward is several times cheaper than advanced indexing's.
        first_row = torch.arange(embedding.shape[0], device=tokens.device)[:, None, None] * config.d_vocab
        embedded = F.embedding(tokens + first_row, embedding.flatten(0, 1))
    position = weights["pos_embed.W_pos"][:, None, :n_pos].expand_as(embedded)
    return site("hook_embed", embedded) + site("hook_pos_embed", position)


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
        taps: names of sites to record, in the shapes of the legend.
        addends: destination name -> what is added to the residual stream that it alone reads.
        replace: site name -> function from the site's value to the value that is used in its place.

    Raises: InputError for an unknown name, a post-norm subject, or more than `n_ctx` positions.
    """
    check_names(config, "taps", taps, sites(config))
    check_names(config, "replace", replace, sites(config))
    check_names(config, "addends", addends, destinations(config))
    site = Sites(taps, replace)
    resid = _embed(weights, config, tokens, site)
    return run_blocks(weights, config, resid, first_layer=0, site=site, addends=addends)


def run_blocks(
    weights: Weights,
    config: SubjectConfig,
    resid: Float[Tensor, "subject batch pos d_model"],
    *,
    first_layer: int,
    addends: Mapping[str, Tensor] = _NOTHING,
    site: Sites | None = None,
) -> Run:
    """The rest of a forward, from the residual stream before block `first_layer`."""
    site = Sites((), {}) if site is None else site
    for layer in range(first_layer, config.n_layers):
        block = f"blocks.{layer}"
        resid = site(f"{block}.hook_resid_pre", resid)
        out = _attention(weights, config, layer, resid, addends, site)
        resid = _end_block(weights, config, layer, resid, out, addends, site)
    if "hook_unembed_in" in addends:
        resid = resid + addends["hook_unembed_in"]
    return Run(logits=unembed(weights, config, resid, site), taps=site.recorded)


def run_from_heads(
    weights: Weights,
    config: SubjectConfig,
    resid: Float[Tensor, "subject batch pos d_model"],
    z: Float[Tensor, "subject batch pos head d_head"],
    *,
    layer: int,
    site: Sites | None = None,
) -> Run:
    """The rest of a forward, from the residual stream before block `layer` and its heads' `hook_z`."""
    site = Sites((), {}) if site is None else site
    attn = f"blocks.{layer}.attn"
    out = _project(z.flatten(3), weights[f"{attn}.W_O"].flatten(1, 2), weights[f"{attn}.b_O"])
    resid = _end_block(weights, config, layer, resid, out, _NOTHING, site)
    return run_blocks(weights, config, resid, first_layer=layer + 1, site=site)


def _end_block(
    weights: Weights,
    config: SubjectConfig,
    layer: int,
    resid: Tensor,
    attn_out: Tensor,
    addends: Mapping[str, Tensor],
    site: Sites,
) -> Float[Tensor, "subject batch pos d_model"]:
    """Adds attention's output and then the MLP's to the residual stream."""
    block = f"blocks.{layer}"
    resid = site(f"{block}.hook_resid_mid", resid + site(f"{block}.hook_attn_out", attn_out))
    if config.has_mlp:
        own = addends.get(f"{block}.hook_mlp_in")
        out = _mlp(weights, config, layer, resid if own is None else resid + own, site)
        resid = resid + site(f"{block}.hook_mlp_out", out)
    return site(f"{block}.hook_resid_post", resid)


def unembed(
    weights: Weights,
    config: SubjectConfig,
    resid: Float[Tensor, "subject *rest d_model"],
    site: Sites | None = None,
) -> Float[Tensor, "subject *rest d_vocab"]:
    """Logits of a final residual stream: the last LayerNorm, then `W_U` and `b_U`."""
    w, b = weights["unembed.W_U"], weights["unembed.b_U"]
    if site is None or "ln_final.hook_out" not in site:
        return _read(resid, weights, "ln_final", w, b, config)
    if config.has_norm:
        resid = layer_norm(resid, weights["ln_final.w"], weights["ln_final.b"], config.eps)
    return _project(site("ln_final.hook_out", resid), w, b)


def logits_at(
    weights: Weights,
    config: SubjectConfig,
    tokens: Int[Tensor, "subject batch pos"],
    rows: Int[Tensor, "subject row"],
) -> Float[Tensor, "subject row d_vocab"]:
    """Logits at a few flat positions, `batch index * n_pos + pos`, as training needs them.

    What reads only its own position, the last MLP and the unembedding, runs on these rows alone.
    """
    site = Sites((), {})
    resid = _embed(weights, config, tokens, site)
    for layer in range(config.n_layers):
        resid = resid + _attention(weights, config, layer, resid, _NOTHING, site)
        if layer == config.n_layers - 1:
            chosen = rows.unsqueeze(2).expand(-1, -1, config.d_model)
            resid = resid.flatten(1, 2).gather(1, chosen).unsqueeze(1)
        if config.has_mlp:
            resid = resid + _mlp(weights, config, layer, resid, site)
    return unembed(weights, config, resid).squeeze(1)
