"""The canonical form: the representative of a subject's gauge class in which features are computed.

Weights are stored raw; this is computed from them, in float64, and gives the same logits. Recipes, with their
numerical checks: Elhage et al. 2021 for the circuits that it leaves alone, and the design's gauge table.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject

_SMALLEST_EIGENVALUE = 1e-8
"""Relative to the largest: below it a direction counts as outside the embeddings' span."""
UNSPANNED = "embeddings do not span the residual stream: the canonical form is unique inside their span only"


def folded(subject: Subject) -> Subject:
    """The cheap part of the canonical form: all that zero ablation depends on, and no spectral work.

    LayerNorm biases, then gains, go into the readers; writes and readers lose their mean over `d_model` (with
    LayerNorm only); value biases go into `b_O`, key biases vanish, the mean of `W_pos` goes into `W_E`.
    Post-norm subjects keep gains and embeddings: there only the biases inside heads are free.
    """
    weights, config = dict(subject.weights), subject.config
    for layer in range(config.n_layers):
        _fold_block(weights, config, f"blocks.{layer}")
    if config.norm_position == "post":
        return subject.with_weights(weights)
    if config.has_norm:
        _fold_unembedding(weights)
    _fold_positions(weights, centre=config.has_norm)
    return subject.with_weights(weights)


def canonical(subject: Subject) -> Subject:
    """The representative of a subject's gauge class, with the same logits, in the dtype of its input.

    After `folded`: without a norm the residual stream is whitened by the embeddings' second moment; the two
    factors of each head's QK and OV are balanced by SVD; ReLU neurons read and write with the same norm.
    What stays free is order (heads, neurons), signs inside heads, and a rotation of the residual stream.

    Without a norm, and with embeddings that do not span the residual stream (as when
    `d_vocab + n_ctx - 1 < d_model`), directions outside their span are left alone and a note says so.
    """
    whole = folded(subject)
    weights, config, notes = dict(whole.weights), whole.config, whole.notes
    if not config.has_norm:
        write, read, spanned = whitening(whole)
        weights |= residual_map(weights, config, write, read)
        if not spanned and UNSPANNED not in notes:
            notes = (*notes, UNSPANNED)
    for layer in range(config.n_layers):
        _balance_heads(weights, f"blocks.{layer}.attn")
        if config.has_mlp and config.act_fn == "relu":
            _balance_neurons(weights, f"blocks.{layer}.mlp")
    return Subject(config=config, weights=weights, name=subject.name, notes=notes)


def _fold_block(weights: dict[str, Tensor], config: SubjectConfig, block: str) -> None:
    attn, mlp = f"{block}.attn", f"{block}.mlp"
    foldable = config.has_norm and config.norm_position == "pre"
    dtype = weights[f"{attn}.W_Q"].dtype
    read = {x: weights[f"{attn}.W_{x}"].double() for x in "QKV"}
    bias = {x: weights[f"{attn}.b_{x}"].double() for x in "QKV"}
    write, constant = weights[f"{attn}.W_O"].double(), weights[f"{attn}.b_O"].double()
    if foldable:
        gain, offset = weights[f"{block}.ln1.w"].double(), weights[f"{block}.ln1.b"].double()
        for x in "QKV":
            bias[x] = bias[x] + offset @ read[x]
            read[x] = _centred(gain[:, None] * read[x], dim=1)
        _reset_norm(weights, f"{block}.ln1")
    constant = constant + torch.einsum("hd,hdm->m", bias["V"], write)
    if foldable:
        write, constant = _centred(write, dim=-1), _centred(constant, dim=-1)
    for x in "QKV":
        weights[f"{attn}.W_{x}"] = read[x].to(dtype)
    weights[f"{attn}.b_Q"] = bias["Q"].to(dtype)
    weights[f"{attn}.b_K"] = torch.zeros_like(weights[f"{attn}.b_K"])
    weights[f"{attn}.b_V"] = torch.zeros_like(weights[f"{attn}.b_V"])
    weights[f"{attn}.W_O"], weights[f"{attn}.b_O"] = write.to(dtype), constant.to(dtype)
    if foldable and config.has_mlp:
        gain, offset = weights[f"{block}.ln2.w"].double(), weights[f"{block}.ln2.b"].double()
        reader = weights[f"{mlp}.W_in"].double()
        weights[f"{mlp}.b_in"] = (weights[f"{mlp}.b_in"].double() + offset @ reader).to(dtype)
        weights[f"{mlp}.W_in"] = _centred(gain[:, None] * reader, dim=0).to(dtype)
        weights[f"{mlp}.W_out"] = _centred(weights[f"{mlp}.W_out"].double(), dim=-1).to(dtype)
        weights[f"{mlp}.b_out"] = _centred(weights[f"{mlp}.b_out"].double(), dim=-1).to(dtype)
        _reset_norm(weights, f"{block}.ln2")


def _fold_unembedding(weights: dict[str, Tensor]) -> None:
    dtype = weights["unembed.W_U"].dtype
    gain, offset = weights["ln_final.w"].double(), weights["ln_final.b"].double()
    reader = weights["unembed.W_U"].double()
    weights["unembed.b_U"] = (weights["unembed.b_U"].double() + offset @ reader).to(dtype)
    weights["unembed.W_U"] = _centred(gain[:, None] * reader, dim=0).to(dtype)
    _reset_norm(weights, "ln_final")


def _fold_positions(weights: dict[str, Tensor], *, centre: bool) -> None:
    dtype = weights["embed.W_E"].dtype
    positions = weights["pos_embed.W_pos"].double()
    mean = positions.mean(0)
    tokens, positions = weights["embed.W_E"].double() + mean, positions - mean
    if centre:
        tokens, positions = _centred(tokens, dim=-1), _centred(positions, dim=-1)
    weights["embed.W_E"], weights["pos_embed.W_pos"] = tokens.to(dtype), positions.to(dtype)


def _centred(x: Tensor, *, dim: int) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _reset_norm(weights: dict[str, Tensor], norm: str) -> None:
    weights[f"{norm}.w"] = torch.ones_like(weights[f"{norm}.w"])
    weights[f"{norm}.b"] = torch.zeros_like(weights[f"{norm}.b"])


def residual_map(
    weights: dict[str, Tensor], config: SubjectConfig, write: Tensor, read: Tensor
) -> dict[str, Tensor]:
    """Weights after a change of basis of the residual stream: writes · `write`, `read` · readers.

    `write`, `read`: `[d_model, d_model]` in float64, with `write @ read` the identity.
    """
    mapped = {}
    for key, value in weights.items():
        leaf = key.rsplit(".", 1)[1]
        if leaf in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            mapped[key] = (value.double() @ write).to(value.dtype)
        elif leaf in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            mapped[key] = (read @ value.double()).to(value.dtype)
        else:
            mapped[key] = value
    return mapped


def whitening(subject: Subject) -> tuple[Tensor, Tensor, bool]:
    """What makes the second moment of a folded subject's embeddings the identity.

    Returns: the maps of writes and of readers `[d_model, d_model]` in float64, each the other's inverse, and
        whether the embeddings span the stream; directions that they do not span are left alone.
    """
    weights, config = subject.weights, subject.config
    tokens, positions = weights["embed.W_E"].double(), weights["pos_embed.W_pos"].double()
    moment = tokens.T @ tokens / config.d_vocab + positions.T @ positions / config.n_ctx
    eigenvalue, basis = torch.linalg.eigh(moment)
    spanned = eigenvalue > _SMALLEST_EIGENVALUE * eigenvalue[-1].clamp(min=torch.finfo(torch.float64).tiny)
    scale = torch.where(spanned, eigenvalue, torch.ones_like(eigenvalue)).sqrt()
    return (basis / scale) @ basis.T, (basis * scale) @ basis.T, bool(spanned.all())


def _balanced(
    left: Float[Tensor, "head row d_head"], right: Float[Tensor, "head column d_head"]
) -> tuple[Tensor, Tensor]:
    """Factors `U√S`, `V√S` of `left @ rightᵀ = U S Vᵀ`, without that product and without an inverse."""
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right)
    u, s, vh = torch.linalg.svd(r_left @ r_right.mT)
    root, width = s.sqrt().unsqueeze(-2), left.shape[-1]
    rank = s.shape[-1]
    made = (q_left @ u[..., :rank] * root, q_right @ vh.mT[..., :rank] * root)
    # Fewer rows than d_head leave a head of smaller rank: its other directions are zero.
    balanced = (torch.nn.functional.pad(x, (0, width - rank)) for x in made)
    left, right = balanced
    return left, right


def _balance_heads(weights: dict[str, Tensor], attn: str) -> None:
    """Balances QK and OV. The query bias counts as one more row of `W_Q`, so that any rank is exact."""
    dtype = weights[f"{attn}.W_Q"].dtype
    bias = weights[f"{attn}.b_Q"].double().unsqueeze(1)
    queries, keys = _balanced(
        torch.cat([weights[f"{attn}.W_Q"].double(), bias], dim=1), weights[f"{attn}.W_K"].double()
    )
    values, outputs = _balanced(weights[f"{attn}.W_V"].double(), weights[f"{attn}.W_O"].double().mT)
    weights[f"{attn}.W_Q"] = queries[:, :-1].to(dtype)
    weights[f"{attn}.b_Q"] = queries[:, -1].to(dtype)
    weights[f"{attn}.W_K"] = keys.to(dtype)
    weights[f"{attn}.W_V"] = values.to(dtype)
    weights[f"{attn}.W_O"] = outputs.mT.contiguous().to(dtype)


def _balance_neurons(weights: dict[str, Tensor], mlp: str) -> None:
    """Makes each ReLU neuron read (bias included) and write with the same norm."""
    dtype = weights[f"{mlp}.W_in"].dtype
    reader, bias, write = (weights[f"{mlp}.{x}"].double() for x in ("W_in", "b_in", "W_out"))
    read_norm = torch.cat([reader, bias.unsqueeze(0)]).norm(dim=0)
    write_norm = write.norm(dim=-1)
    # A dead neuron has no ratio to balance: whatever side is left gets norm one.
    one = torch.ones_like(read_norm)
    read_safe = torch.where(read_norm > 0, read_norm, torch.where(write_norm > 0, 1 / write_norm, one))
    write_safe = torch.where(write_norm > 0, write_norm, torch.where(read_norm > 0, 1 / read_norm, one))
    scale = (write_safe / read_safe).sqrt()
    weights[f"{mlp}.W_in"] = (reader * scale).to(dtype)
    weights[f"{mlp}.b_in"] = (bias * scale).to(dtype)
    weights[f"{mlp}.W_out"] = (write / scale.unsqueeze(-1)).to(dtype)
