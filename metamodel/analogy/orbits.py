"""Nodes of a circuit that nothing tells apart: to match one is as right as to match the other."""

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph

TOLERANCE = 1e-3
"""Largest difference of two edges that count as equal; all edges of a circuit have norm 1."""


def orbits(graph: CircuitGraph, *, tolerance: float = TOLERANCE) -> Int[Tensor, " node"]:
    """For each node the first of those that it can be swapped with, all else unchanged; mostly itself.

    Two nodes are interchangeable if they agree in kind, depth and features and no edge moves by more than
    `tolerance` when they swap places. That is finer than the orbits of all automorphisms, in which several
    nodes may have to move at once: a map is never called right that no swap of two nodes makes right.
    """
    n = len(graph)
    found = torch.arange(n)
    totals = torch.stack([graph.edges.sum((0, 1)), graph.edges.sum((0, 2))], dim=1)
    scale = graph.features.abs().amax(0).clamp_min(1e-9) if n and graph.features.shape[1] else None
    for i in range(n):
        if found[i] != i:
            continue
        for j in range(i + 1, n):
            alike = (
                bool(graph.kinds[i] == graph.kinds[j])
                and bool((graph.depth[i] - graph.depth[j]).abs() < 1e-6)
                and bool((totals[i] - totals[j]).abs().max() <= tolerance * n)
                and (
                    scale is None
                    or bool(((graph.features[i] - graph.features[j]).abs() <= tolerance * scale).all())
                )
            )
            if alike and found[j] == j and _swap_changes(graph, i, j) <= tolerance:
                found[j] = i
    return found


def _swap_changes(graph: CircuitGraph, i: int, j: int) -> float:
    order = torch.arange(len(graph))
    order[i], order[j] = j, i
    return float((graph.edges - graph.edges[:, order][:, :, order]).abs().max())
