"""How strongly a head reads, in its queries, keys or values, what one earlier head writes.

Weights are in canonical form, where the ratio is that of the edge features: without a norm it means nothing
before the residual stream is whitened. Source: Elhage et al. 2021, composition scores.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights

CHANNELS = ("q", "k", "v")
_LEAST = math.exp(-6.0)
"""Smallest ratio to chance that is told from none."""

Moment = Float[Tensor, "subject head d_model d_model"]


def composition(
    weights: Weights, config: SubjectConfig
) -> tuple[Float[Tensor, "subject layer head channel"], Int[Tensor, "subject layer head channel"]]:
    """Largest over earlier heads of log(‖A B‖² / (‖A‖² ‖B‖²) / chance), and the number of that earlier head,
    `layer · n_heads + head`. NaN and -1 in the first layer.

    With M = AᵀA of the writer and N = B Bᵀ of the reader, ‖A B‖² = ΣMN. Chance is 1/(d_model-1) for centred
    residual streams under LayerNorm, and 1/d_model without.
    """
    n_subjects, n_heads = weights["embed.W_E"].shape[0], config.n_heads
    like = weights["embed.W_E"]
    best = like.new_full((n_subjects, config.n_layers, n_heads, len(CHANNELS)), torch.nan)
    source = torch.full(best.shape, -1, device=like.device)
    chance = 1.0 / max(config.d_model - 1, 1) if config.has_norm else 1.0 / config.d_model
    written: list[Tensor] = []
    for layer in range(config.n_layers):
        Q, K, V, W_O = (weights[f"blocks.{layer}.attn.W_{x}"] for x in "QKVO")
        if layer > 0:
            before = torch.cat(written, dim=1)
            reads = (_moment(Q, K), _moment(K, Q), _moment(V, W_O.transpose(-1, -2)))
            for i, read in enumerate(reads):
                square = before.flatten(2) @ read.flatten(2).transpose(1, 2)
                ratio = (square / chance).clamp_min(_LEAST).log()
                best[:, layer, :, i], source[:, layer, :, i] = ratio.max(1)
        written.append(_moment(W_O.transpose(-1, -2), V))
    return best, source


def _moment(
    outer: Float[Tensor, "subject head d_model d_head"], inner: Float[Tensor, "subject head d_model d_head"]
) -> Moment:
    """`outer innerᵀ inner outerᵀ` with trace one."""
    found = outer @ (inner.transpose(-1, -2) @ inner) @ outer.transpose(-1, -2)
    return found / found.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(1e-24)
