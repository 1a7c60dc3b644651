"""Mirror ascent on the edge-gain energy, differentiable: the last steps of the learned matcher.

    Z₀ = S,    P_t = Sinkhorn(Z_t),    Z_{t+1} = Z_t + η_t ∂E_τt/∂P (P_t) + what is learned

Without anything learned this is a solver of its own, beside Frank-Wolfe (`analogy/solver.py`).
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.analogy.energy import Edges, messages
from metamodel.analogy.sinkhorn import coupling, log_sinkhorn

Correction = Callable[
    [
        Float[Tensor, "pair node theirs"],
        Float[Tensor, "pair node theirs"],
        Float[Tensor, "pair node theirs"],
        Float[Tensor, "pair node theirs"],
    ],
    Float[Tensor, "pair node theirs"],
]
"""From (Z, P, In, Out) of a step to what is added beside the gradient."""
START_RATE = 8.0
"""η of every step before learning: gradients of normalised circuits are a fraction of 1."""
START_TAU = 0.5
SINKHORN_STEPS = 8
"""Scalings of both sides, in each step."""
ANCHORED = 30.0
"""What matching an anchor to itself is worth: it then is matched, whatever is found."""


def ascend(
    edges: Edges,
    allowed: Bool[Tensor, "pair node theirs"],
    fixed: Bool[Tensor, "pair node theirs"],
    *,
    rates: Float[Tensor, " step"],
    taus: Float[Tensor, " step"],
    dustbin: Float[Tensor, " pair"],
    start: Float[Tensor, "pair node theirs"] | None = None,
    corrected: Correction | None = None,
) -> Float[Tensor, "pair node theirs"]:
    """What each pair is worth after the last step; `log_sinkhorn` makes a coupling of it.

    Args:
        allowed: pairs that may match.
        fixed: pairs of anchors, which are matched whatever is found.
        rates: η of each step.
        taus: analogy threshold of each step.
        dustbin: what leaving a node unmatched is worth, in the units of Z.
        start: S, what pairs are worth by themselves; None for nothing.
        corrected: what is learned.
    """
    held = ANCHORED * fixed.to(edges.first)
    z = held if start is None else start * ~fixed + held
    for rate, tau in zip(rates, taus, strict=True):
        p = coupling(log_sinkhorn(z, allowed, dustbin, n_steps=SINKHORN_STEPS), allowed)
        read, written = messages(edges, p, tau.expand(len(p)))
        step = rate * (read + written)
        if corrected is not None:
            step = step + corrected(z, p, read, written)
        z = z + step * (allowed & ~fixed)
    return z
