"""The edge-gain energy of a partial map between two circuits, in closed form, never over pairs of pairs.

    E_τ(P) = Σ_c [2⟨A_c, P B_c Pᵀ⟩ − τ(rᵀ A_c∘² r + sᵀ B_c∘² s)] + λ⟨S − κ, P⟩,   r = P1, s = Pᵀ1

It sums gains 2ab − τ(a² + b²) of matched edges: one is positive where the ratio similarity 2ab/(a² + b²)
exceeds τ, and what is not matched costs nothing. `P` is substochastic, `P1 ≤ 1` and `Pᵀ1 ≤ 1`; then
E ≤ N = (1 − τ)Σ_c(‖A_c‖² + ‖B_c‖²) with λ = 0. Cost O(C·n·m·(n + m)).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edges:
    """Edges of two circuits, or of two batches of them, and their squares, added over channels."""

    first: Float[Tensor, "*rest channel node node2"]
    second: Float[Tensor, "*rest channel theirs theirs2"]
    first_square: Float[Tensor, "*rest node node2"]
    second_square: Float[Tensor, "*rest theirs theirs2"]

    @classmethod
    def of(
        cls,
        first: Float[Tensor, "*rest channel node node2"],
        second: Float[Tensor, "*rest channel theirs theirs2"],
    ) -> "Edges":
        return cls(
            first=first,
            second=second,
            first_square=first.pow(2).sum(-3),
            second_square=second.pow(2).sum(-3),
        )


def carried(edges: Edges, p: Float[Tensor, "*rest node theirs"]) -> Float[Tensor, "*rest channel node node2"]:
    """`P B_c Pᵀ`: edges of the second circuit among the nodes of the first."""
    across = p.unsqueeze(-3)
    return across @ edges.second @ across.mT


def energy(
    edges: Edges,
    p: Float[Tensor, "*rest node theirs"],
    tau: float | Float[Tensor, "*rest"],
    *,
    linear: Float[Tensor, "*rest node theirs"] | None = None,
) -> Float[Tensor, "*rest"]:
    """`E_τ(P)`, differentiable in everything.

    Args:
        linear: `λ(S − κ)`, what matching two nodes is worth by themselves.
    """
    row, column = p.sum(-1), p.sum(-2)
    gained = 2 * (edges.first * carried(edges, p)).sum((-3, -2, -1))
    cost = _quadratic(edges.first_square, row) + _quadratic(edges.second_square, column)
    found = gained - tau * cost
    return found if linear is None else found + (linear * p).sum((-2, -1))


def bound(edges: Edges, tau: float | Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """`N`: the energy of a complete match of two equal circuits, which no map exceeds."""
    return (1 - tau) * (edges.first_square.sum((-2, -1)) + edges.second_square.sum((-2, -1)))


def messages(
    edges: Edges, p: Float[Tensor, "*rest node theirs"], tau: float | Float[Tensor, "*rest"]
) -> tuple[Float[Tensor, "*rest node theirs"], Float[Tensor, "*rest node theirs"]]:
    """(In, Out): what matching i with j gains by the edges that they read along, and write along.

    Their sum is ∂E/∂P without the linear term; at a 0/1 map without self-loops it is exactly what the energy
    loses when (i, j) is taken out.
    """
    across = p.unsqueeze(-3)
    row, column = p.sum(-1), p.sum(-2)
    t = tau if isinstance(tau, float | int) else tau[..., None, None]
    read = 2 * (edges.first.mT @ across @ edges.second).sum(-3)
    read = read - t * (
        _times(edges.first_square.mT, row)[..., :, None]
        + _times(edges.second_square.mT, column)[..., None, :]
    )
    written = 2 * (edges.first @ across @ edges.second.mT).sum(-3)
    written = written - t * (
        _times(edges.first_square, row)[..., :, None] + _times(edges.second_square, column)[..., None, :]
    )
    return read, written


def gradient(
    edges: Edges,
    p: Float[Tensor, "*rest node theirs"],
    tau: float | Float[Tensor, "*rest"],
    *,
    linear: Float[Tensor, "*rest node theirs"] | None = None,
) -> Float[Tensor, "*rest node theirs"]:
    """∂E/∂P. Without the linear term, ⟨P, ∂E/∂P⟩ = 2E."""
    read, written = messages(edges, p, tau)
    return read + written if linear is None else read + written + linear


def _times(square: Float[Tensor, "*rest row column"], x: Float[Tensor, "*rest column"]) -> Tensor:
    return torch.einsum("...ij,...j->...i", square, x)


def _quadratic(square: Float[Tensor, "*rest row column"], x: Float[Tensor, "*rest column"]) -> Tensor:
    return torch.einsum("...i,...ij,...j->...", x, square, x)
