"""Second circuits in which the first is not there, though edge count, edge mass and kinds are as if it were.

A score that only asks how large or how dense a circuit is tells nothing about them.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.config.errors import InputError
from metamodel.subjects.config import KINDS

_AMONG = 3
"""The missing edge is one of the so many strongest."""


def rewired(graph: CircuitGraph, generator: torch.Generator) -> CircuitGraph:
    """The same edges between other nodes: each goes to a random place of its channel and of the kinds of its
    two ends, from a shallower node to a deeper one."""
    edges = torch.zeros_like(graph.edges)
    places = open_places(graph)
    for channel in range(len(graph.edges)):
        for first in graph.kinds.unique().tolist():
            for second in graph.kinds.unique().tolist():
                of_kinds = (graph.kinds == first)[:, None] & (graph.kinds == second)
                allowed = (places[channel] & of_kinds) | ((graph.edges[channel] > 0) & of_kinds)
                where = allowed.nonzero()
                order = torch.randperm(len(where), generator=generator)
                values = graph.edges[channel][where[:, 0], where[:, 1]]
                edges[channel, where[order, 0], where[order, 1]] = values
    return replace(graph, edges=edges)


def rank_matched(graph: CircuitGraph, like: CircuitGraph, generator: torch.Generator) -> CircuitGraph:
    """A circuit with the edge sizes of another: its strongest edge gets the other's strongest, and so on.

    Where it has fewer edges, the rest go to random open places; where it has more, its weakest vanish. Count,
    mass and norm are then those of `like`, unless there are no places left.
    """
    sizes = like.edges[like.edges > 0].sort(descending=True).values
    open_or_used = open_places(graph) | (graph.edges > 0)
    # strongest first, then open places in random order
    score = graph.edges + 1e-9 * torch.rand(graph.edges.shape, generator=generator)
    places = score.masked_fill(~open_or_used, -1.0).flatten().argsort(descending=True)
    places = places[: min(len(sizes), int(open_or_used.sum()))]
    edges = torch.zeros_like(graph.edges).flatten()
    edges[places] = sizes[: len(places)]
    return replace(graph, edges=edges.view_as(graph.edges))


def without_edge(pair: MatchedPair, generator: torch.Generator) -> MatchedPair:
    """A pair whose second circuit lacks one required edge: one of the strongest between corresponding nodes.

    `missing` names its two ends in the first circuit. All else corresponds as before.

    Raises: InputError where no edge joins two nodes that correspond.
    """
    if pair.truth is None or not bool(_joined(pair, pair.truth).any()):
        raise InputError(
            f"pair {pair.name}",
            expected="an edge between two nodes that correspond",
            got="none",
            do="Take a pair with a truth and fewer changes.",
        )
    size = pair.first.edges.sum(0).masked_fill(~_joined(pair, pair.truth), 0.0)
    strongest = size.flatten().argsort(descending=True)[: min(_AMONG, int((size > 0).sum()))]
    chosen = int(strongest[int(torch.randint(len(strongest), (), generator=generator))])
    source, reader = divmod(chosen, len(pair.first))
    edges = pair.second.edges.clone()
    edges[:, pair.truth[source], pair.truth[reader]] = 0.0
    norm = edges.square().sum().sqrt()
    return replace(
        pair,
        second=replace(pair.second, edges=edges / norm if norm > 0 else edges),
        kind="absent",
        variant="missing",
        present=False,
        missing=(pair.first.names[source], pair.first.names[reader]),
    )


def _joined(pair: MatchedPair, truth: Tensor) -> Bool[Tensor, "node node2"]:
    """Edges that are there in both circuits, one end at least no anchor."""
    matched = truth != NONE
    both = matched[:, None] & matched
    there = pair.second.edges.sum(0)[truth.clamp_min(0)][:, truth.clamp_min(0)] > 0
    anchor = pair.first.is_anchor
    return both & there & (pair.first.edges.sum(0) > 0) & ~(anchor[:, None] & anchor)


def open_places(graph: CircuitGraph) -> Bool[Tensor, "channel node node2"]:
    """Where an edge may be: from a shallower node to a deeper one, at an input that the reader has."""
    before = graph.depth[:, None] < graph.depth
    head = graph.kinds == KINDS.index("head")
    inputs = torch.stack([head] * 6 + [~head] * 2)
    return before[None] & inputs[:, None, :]
