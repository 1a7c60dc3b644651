"""What a matcher says of two circuits, and how the map grows until the analogy breaks down.

Growth (after Falkenhainer, Forbus & Gentner 1989, whose mappings grow from local hypotheses): beginning with
anchors, the pair that gains most is added next. A pair's gain is exactly what the edge-gain energy rises by.
The breakdown point is the number of pairs before the first that gains nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.energy import Edges, bound, energy, gradient
from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import NONE
from metamodel.analogy.solver import as_map


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """A partial map from one circuit to another."""

    p: Float[Tensor, "node theirs"]
    """Confidence of each pair, 0 to 1; of what is left in a row or column, that there is no counterpart."""
    pairs: Int[Tensor, " node"]
    """Index of each node's counterpart, or NONE. Anchors are matched to themselves."""
    score: float
    """How well the circuits correspond, higher for better: for telling presence from absence."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Growth:
    """Pairs in the order in which the map takes them, anchors left out."""

    nodes: tuple[int, ...]
    """Of the first circuit."""
    gains: tuple[float, ...]
    """What each adds to the energy when it is taken, as a share of the largest energy there could be."""

    @property
    def breakdown(self) -> int:
        """How many pairs there are before the first without a positive gain."""
        return next((i for i, gain in enumerate(self.gains) if gain <= 0), len(self.gains))


@torch.no_grad()
def grown(
    first: CircuitGraph,
    second: CircuitGraph,
    pairs: Int[Tensor, " node"],
    tau: float,
    *,
    linear: Float[Tensor, "node theirs"] | None = None,
) -> Growth:
    """The pairs of a map in best-first order, with what each gains beside those before it.

    Args:
        pairs: index of each node's counterpart, or NONE; those that gain nothing are to be among them,
            or no breakdown can be seen.
        linear: what matching two nodes is worth beside edges.
    """
    edges = Edges.of(first.edges, second.edges)
    whole = as_map(pairs, len(second), dtype=first.edges.dtype)
    anchor = first.is_anchor & (pairs != NONE)
    p = whole * anchor[:, None]
    left = [i for i in range(len(first)) if int(pairs[i]) != NONE and not bool(anchor[i])]
    total = float(bound(edges, tau)) or 1.0
    nodes, gains = [], []
    while left:
        slope = gradient(edges, p, tau, linear=linear)
        gain, i = max((float(slope[i, pairs[i]]), -i) for i in left)
        left.remove(-i)
        nodes.append(-i)
        gains.append(gain / total)
        p[-i, pairs[-i]] = 1
    return Growth(nodes=tuple(nodes), gains=tuple(gains))


def edge_score(first: CircuitGraph, second: CircuitGraph, pairs: Int[Tensor, " node"], tau: float) -> float:
    """Share of the energy of a complete match that a map reaches, 0 to 1: one minus the circuit loss."""
    edges = Edges.of(first.edges, second.edges)
    p = as_map(pairs, len(second), dtype=first.edges.dtype)
    most = float(bound(edges, tau))
    return max(float(energy(edges, p, tau)), 0.0) / most if most > 0 else 0.0


def matched_edges(
    first: CircuitGraph, second: CircuitGraph, pairs: Int[Tensor, " node"]
) -> list[tuple[int, int, int, float, float]]:
    """Edges that the map carries onto edges, largest first: (channel, source, reader, size, size there)."""
    found = []
    for c, i, k in first.edges.nonzero().tolist():
        j, m = int(pairs[i]), int(pairs[k])
        if j != NONE and m != NONE and float(second.edges[c, j, m]) > 0:
            found.append((c, i, k, float(first.edges[c, i, k]), float(second.edges[c, j, m])))
    return sorted(found, key=lambda edge: -min(edge[3], edge[4]))
