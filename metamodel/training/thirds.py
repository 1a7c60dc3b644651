"""A third circuit for each pair, so that its map can be held against going round by the third.

Nothing of the third is known to the loss; all that is asked is that A→B→C and A→C agree. Of natural pairs it
is another circuit that is natural to both: one that is joined to them by natural pairs, and so has learnt the
same task. Of all others it is a changed copy of the second circuit: fewer nodes, other edge sizes, another
order.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from metamodel.analogy.graph import CircuitGraph, normalised
from metamodel.analogy.pairs import MatchedPair

NOISE = 0.5
"""Largest noise of the logarithm of edges."""
MOST_GONE = 2
"""Nodes that the third lacks, at most."""


class Thirds:
    """Draws them."""

    def __init__(self, pairs: Sequence[MatchedPair]):
        """Args:
        pairs: of the zoo; the natural ones among them say which circuits belong together.
        """
        self._group: dict[str, str] = {}
        self._circuits: dict[str, CircuitGraph] = {}
        for pair in pairs:
            if pair.kind == "natural":
                ids = pair.first_side.id, pair.second_side.id
                self._circuits |= dict(zip(ids, (pair.first, pair.second), strict=True))
                old, new = (self._group.setdefault(id, id) for id in ids)
                self._group = {id: new if group == old else group for id, group in self._group.items()}

    def of(self, pair: MatchedPair, generator: torch.Generator) -> CircuitGraph:
        """A circuit with which the pair makes a triple."""
        if pair.kind == "natural":
            others = self.others(pair)
            if others:
                return self._circuits[others[int(torch.randint(len(others), (), generator=generator))]]
        return changed(pair.second, generator)

    def others(self, pair: MatchedPair) -> list[str]:
        """Ids of further circuits that are natural to both of a natural pair."""
        group, own = self._group.get(pair.first_side.id), (pair.first_side.id, pair.second_side.id)
        return [id for id, other in self._group.items() if other == group and id not in own]


def changed(graph: CircuitGraph, generator: torch.Generator) -> CircuitGraph:
    """A copy with noisy edges, without a few nodes, in random order."""
    inner = (~graph.is_anchor).nonzero().squeeze(1)
    n_gone = int(torch.randint(MOST_GONE + 1, (), generator=generator))
    gone = inner[torch.randperm(len(inner), generator=generator)[: min(n_gone, max(len(inner) - 2, 0))]]
    stay = torch.ones(len(graph), dtype=torch.bool)
    stay[gone] = False
    left = stay.nonzero().squeeze(1)
    found = graph.taken(left[torch.randperm(len(left), generator=generator)])
    noise = NOISE * float(torch.rand((), generator=generator))
    size = (noise * torch.randn(found.edges.shape, generator=generator)).exp()
    return replace(found, edges=normalised(found.edges * size))
