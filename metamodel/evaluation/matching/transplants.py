"""What matched components are worth when they stand in for each other: transplants of natural pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.exchange import LEAST_ROOM
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.analogy.transplant import transplant
from metamodel.subjects.config import components
from metamodel.triples.store import Zoo

MOST_PROMPTS = 64
"""Prompts on which one pair of subjects is run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchanged:
    """How well every component of one circuit stands in for every one of another."""

    gained: Float[Tensor, "node theirs"]
    """Share of places where it does, above that of others of its kind and depth; NaN where nothing can be
    said."""
    room: Float[Tensor, "node theirs"]
    """The same of the second's own component: what can be gained."""

    def ratio(self, pairs: Int[Tensor, " node"]) -> float:
        """TR of a map: all that its pairs gain, by what there is to gain in the second circuit.

        A component that is left unmatched gains nothing, so that a map of few safe pairs is no better for it.
        NaN where no component of the second circuit can be judged.
        """
        room = torch.where(self.room >= LEAST_ROOM, self.room, torch.nan).nanmean(0)
        there = room[~room.isnan()].sum()
        held = (pairs != NONE).nonzero().squeeze(1)
        gained = self.gained[held, pairs[held]]
        counted = ~gained.isnan() & ~room[pairs[held]].isnan()
        return float(gained[counted].sum() / there) if bool(there > 0) else float("nan")


def exchanged(pair: MatchedPair, zoo: Zoo) -> Exchanged:
    """Transplants of all pairs of heads, and of all pairs of MLPs, of two circuits of one task.

    Args:
        zoo: that the two triples are in.
    """
    one, other = zoo.triple(pair.first_side.id), zoo.triple(pair.second_side.id)
    places = [
        torch.tensor([names.index(name) if name in names else NONE for name in graph.names])
        for graph, triple in ((pair.first, one), (pair.second, other))
        for names in [[node.name for node in components(triple.subject.config)]]
    ]
    inner = ~pair.first.is_anchor & (places[0] != NONE)
    theirs = ~pair.second.is_anchor & (places[1] != NONE)
    asked = ((pair.first.kinds[:, None] == pair.second.kinds) & inner[:, None] & theirs).nonzero()
    behavior = other.behavior
    tokens = behavior.probe_tokens[:MOST_PROMPTS]
    found = transplant(
        one.subject,
        other.subject,
        torch.stack([places[0][asked[:, 0]], places[1][asked[:, 1]]], 1),
        tokens,
        tokens.roll(1, 0),
        behavior.probe_position[:MOST_PROMPTS],
        probes=behavior.shown_tokens,
    )
    gained = torch.full((len(pair.first), len(pair.second)), torch.nan)
    room = gained.clone()
    for (i, j), score in zip(asked.tolist(), found, strict=True):
        gained[i, j], room[i, j] = score.match - score.null, score.within - score.null
    return Exchanged(gained=gained, room=room)


def transplant_ratios(
    pairs: Sequence[MatchedPair],
    maps: Mapping[str, Sequence[Int[Tensor, " node"] | None]],
    zoo: Zoo,
) -> dict[str, Float[np.ndarray, " pair"]]:
    """Of each method the ratio of its map of each pair, NaN where it has none or nothing can be said.

    Args:
        zoo: that the pairs were made from.
    """
    found = {name: np.full(len(pairs), np.nan) for name in maps}
    for i, pair in enumerate(pairs):
        table = exchanged(pair, zoo)
        for name, of in maps.items():
            one = of[i]
            found[name][i] = np.nan if one is None else table.ratio(one)
    return found
