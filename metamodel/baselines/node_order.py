"""Puts what encoders of opponents find of each kind of component into the order of nodes."""

import torch
from jaxtyping import Float
from torch import Tensor


def by_node(
    *,
    tokens: Float[Tensor, "subject width"],
    positions: Float[Tensor, "subject width"],
    heads: Float[Tensor, "subject layer head width"],
    mlps: Float[Tensor, "subject layer width"] | None,
    unembedding: Float[Tensor, "subject width"],
) -> Float[Tensor, "subject node width"]:
    """The order of `metamodel.subjects.components`; `mlps` is None for attention-only subjects."""
    blocks = heads if mlps is None else torch.cat([heads, mlps.unsqueeze(2)], dim=2)
    return torch.cat(
        [tokens.unsqueeze(1), positions.unsqueeze(1), blocks.flatten(1, 2), unembedding.unsqueeze(1)], dim=1
    )
