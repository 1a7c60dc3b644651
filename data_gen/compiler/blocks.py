"""Small matrices between the blocks of the residual stream that hold variables."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.programs.language import Program


def eye(n: int) -> Float[Tensor, "row column"]:
    return torch.eye(n, dtype=torch.float64)


def indices(block: slice) -> Tensor:
    return torch.arange(block.start, block.stop)


def amplitude(program: Program) -> float:
    """What a mean of 1 is stored as: large enough that neighbouring fractions stay apart under noise."""
    return math.sqrt((program.length + 1) * program.length)


def factor(
    matrix: Float[Tensor, "row column"],
) -> tuple[Float[Tensor, "row rank"], Float[Tensor, "column rank"]]:
    """`left @ right.T` of lowest rank and equal norms."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = max(1, int((s > 1e-9 * s[0].clamp(min=1e-9)).sum()))
    root = s[:rank].sqrt()
    return u[:, :rank] * root, vh[:rank].T * root
