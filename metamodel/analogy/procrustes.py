"""The orthogonal map, with one scale, that brings the rows of one matrix nearest to those of another."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST = 1e-12


def procrustes(
    x: Float[Tensor, "*rest row d_model"], y: Float[Tensor, "*rest row column"]
) -> tuple[Float[Tensor, "*rest d_model column"], Float[Tensor, "*rest"]]:
    """R and s that minimise ‖s x R − y‖ (Schönemann 1966); semi-orthogonal where widths differ."""
    u, size, vh = torch.linalg.svd(x.mT @ y, full_matrices=False)
    rotation = u @ vh
    return rotation, size.sum(-1) / (x @ rotation).pow(2).sum((-2, -1)).clamp_min(_LEAST)


def evenly(
    parts: Sequence[Float[Tensor, "*rest row d_model"]],
) -> tuple[Float[Tensor, "*rest sample d_model"], Float[Tensor, "*rest item"]]:
    """Parts below each other, each divided by the norm of what varies in it, and these norms.

    Where R is fitted on such rows, `s` times the ratio of norms carries what is not divided.
    """
    norms = [(part - part.mean(-2, keepdim=True)).norm(dim=(-2, -1)).clamp_min(_LEAST) for part in parts]
    rows = torch.cat([part / norm[..., None, None] for part, norm in zip(parts, norms, strict=True)], -2)
    return rows, torch.stack(norms, -1)


def ratio(first: Float[Tensor, "*rest item"], second: Float[Tensor, "*rest item"]) -> Float[Tensor, "*rest"]:
    """How much larger the second parts are: geometric mean."""
    return (second.log() - first.log()).mean(-1).exp()
