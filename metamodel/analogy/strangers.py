"""Strangers in a circuit: components of other circuits, each put in once, into one circuit of a pair.

A stranger that were on both sides would have a counterpart that the truth does not know of.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.analogy.graph import LEAST_SHARE, CircuitGraph, mass, normalised

Stranger = tuple[CircuitGraph, int]
"""A circuit and the index of one of its nodes."""
_JITTER = 0.2
"""How far a stranger's neighbours may differ in depth from those that it had, on average."""


def active(graph: CircuitGraph, least_share: float = LEAST_SHARE) -> Int[Tensor, " kept"]:
    """Heads and MLPs that a circuit keeps: those that touch at least this share of its edge mass."""
    return ((mass(graph.edges) >= least_share) & ~graph.is_anchor).nonzero().squeeze(1)


def deck_of(
    donors: Sequence[CircuitGraph], generator: torch.Generator, *, least_share: float = LEAST_SHARE
) -> list[Stranger]:
    """All components that circuits keep, in random order, to be taken from the end.

    Args:
        donors: circuits of other lineages than those that strangers go to, and no two of one lineage: a
            fine-tuned copy has nearly the same components.
    """
    found = [(donor, node) for donor in donors for node in active(donor, least_share).tolist()]
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def with_strangers(
    graph: CircuitGraph,
    deck: list[Stranger],
    generator: torch.Generator,
    n: int,
    *,
    least_share: float = LEAST_SHARE,
) -> CircuitGraph:
    """A circuit with `n` components of a deck behind its own, or as many as find neighbours.

    Those that are looked at are taken out of the deck, so that no other circuit gets them.
    """
    there = 0
    while deck and there < n:
        found = _with_stranger(graph, deck.pop(), generator, f"stranger{there}", least_share)
        if found is not None:
            graph, there = found, there + 1
    return graph


def _with_stranger(
    graph: CircuitGraph, stranger: Stranger, generator: torch.Generator, name: str, least_share: float
) -> CircuitGraph | None:
    """A circuit with one component of another; its neighbours are of the kinds and depths that it had there.

    Its edges touch as much mass as those of some component that this circuit keeps. None where it finds no
    neighbours.
    """
    donor, node = stranger
    hosts = active(graph, least_share)
    if not len(hosts):
        return None
    depth = donor.depth[node]
    side = (donor.depth - depth).sign()[:, None] == (graph.depth - depth).sign()
    same = donor.kinds[:, None] == graph.kinds
    distance = (donor.depth[:, None] - graph.depth).abs()
    distance = distance + _JITTER * torch.rand(distance.shape, generator=generator)
    distance = distance.masked_fill(~(side & same), torch.inf)
    nearest, place = distance.min(1)
    fits = nearest.isfinite()
    written, read = (
        donor.edges.new_zeros(len(donor.edges), len(graph)).index_add(1, place[fits], part[:, fits])
        for part in (donor.edges[:, node], donor.edges[:, :, node])
    )
    total = written.sum() + read.sum()
    host = int(hosts[int(torch.randint(len(hosts), (), generator=generator))])
    wanted = graph.edges[:, host].sum() + graph.edges[:, :, host].sum()
    if not bool(total > 0) or not bool(wanted > 0):
        return None
    n = len(graph)
    edges = torch.nn.functional.pad(graph.edges, (0, 1, 0, 1))
    edges[:, n, :n], edges[:, :n, n] = written * wanted / total, read * wanted / total
    return CircuitGraph(
        edges=normalised(edges),
        features=torch.cat([graph.features, donor.features[node : node + 1]]),
        kinds=torch.cat([graph.kinds, donor.kinds[node : node + 1]]),
        depth=torch.cat([graph.depth, donor.depth[node : node + 1]]),
        names=(*graph.names, name),
    )
