"""Pairs that are made of the graphs of circuits alone: changed copies, and circuits that are not there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.matching.circuits import Circuits
from data_gen.matching.config import PairZooConfig
from data_gen.matching.plan import PairSpec
from data_gen.seeds import derived_seed
from metamodel.analogy.absent import rank_matched, rewired, without_edge
from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.orbits import orbits
from metamodel.analogy.pairs import MatchedPair
from metamodel.analogy.planted import feature_spread, noisy, planted_pair, poorly_known
from metamodel.analogy.strangers import Stranger, deck_of
from metamodel.config.errors import InputError


@dataclass(slots=True, kw_only=True)
class GraphPairs:
    """Makes them from the stored circuits of a zoo."""

    config: PairZooConfig
    circuits: Circuits
    spread_from: Sequence[str]
    """Ids of training triples from whose circuits the spread of features is measured."""
    _spread: Float[Tensor, "kind feature"] | None = None

    def planted(self, spec: PairSpec, generator: torch.Generator) -> Iterator[MatchedPair]:
        """A changed copy of a circuit; an absent circuit like it; and the copy without a required edge."""
        circuit = self.circuits.stored(spec.first)
        deck = self.deck(spec, generator)
        pair = planted_pair(circuit.graph, deck, generator, self.level(spec), spread=self.spread())
        pair = self.named(pair, spec, circuit.side.id, circuit.side.id + "+planted")
        yield pair
        yield from self.absent(spec, pair, deck, generator)
        try:
            yield without_edge(pair, generator)
        except InputError:  # nothing that corresponds is joined any more
            return

    def poorly_known(self, spec: PairSpec, pair: MatchedPair, generator: torch.Generator) -> MatchedPair:
        """A pair of real networks whose second circuit is known with the noise of the level of its number."""
        level = self.level(spec)
        found = poorly_known(pair, generator, level, spread=self.spread())
        return replace(
            found, level={**pair.level, "noise": level.noise, "feature_noise": level.feature_noise}
        )

    def absent(
        self, spec: PairSpec, pair: MatchedPair, deck: list[Stranger] | None, generator: torch.Generator
    ) -> Iterator[MatchedPair]:
        """A pair like this one whose second circuit is not the first, but an unrelated or a rewired one.

        Args:
            deck: what is left of the strangers of a planted pair, whose unrelated circuit is changed as its
                second was; without it that circuit gets the noise of the level alone.
        """
        if spec.absent_is_unrelated:
            other = self.circuits.stored(spec.unrelated)
            graph, id = self._like_a_second(other.graph, self.level(spec), deck, generator), other.side.id
            graph = graph.taken(torch.randperm(len(graph), generator=generator))
            second = rank_matched(graph, pair.second, generator)
            variant, lineage = "unrelated", other.side.lineage
        else:
            second, id, variant = rewired(pair.second, generator), pair.second_side.id, "rewired"
            lineage = pair.second_side.lineage
        unknown = torch.zeros(len(second), len(self.circuits.zoo.manifest.labels), dtype=torch.bool)
        side = replace(
            pair.second_side, id=id, lineage=lineage, orbit=orbits(second), labels=unknown, known=unknown
        )
        yield replace(
            pair,
            second=second,
            second_side=side,
            truth=None,
            kind="absent",
            variant=variant,
            present=False,
            level={**pair.level, "of_partial": float(spec.kind == "partial")},
        )

    def named(self, pair: MatchedPair, spec: PairSpec, first: str, second: str) -> MatchedPair:
        """A pair at graph level, with its split, ids and orbits."""
        lineage = self.circuits.zoo.info(spec.first).lineage
        sides = []
        for graph, id in ((pair.first, first), (pair.second, second)):
            unknown = torch.zeros(len(graph), len(self.circuits.zoo.manifest.labels), dtype=torch.bool)
            sides.append(
                replace(
                    pair.first_side,
                    id=id,
                    lineage=lineage,
                    orbit=orbits(graph),
                    labels=unknown,
                    known=unknown,
                )
            )
        return replace(pair, split=spec.split, first_side=sides[0], second_side=sides[1])

    def deck(self, spec: PairSpec, generator: torch.Generator) -> list[Stranger]:
        """Strangers of a spec, none of the lineage of its unrelated circuit, which gets some, too."""
        lineage = self.circuits.zoo.info(spec.unrelated).lineage if spec.absent_is_unrelated else ""
        donors = [self.circuits.stored(id) for id in spec.donors]
        return deck_of([one.graph for one in donors if one.side.lineage != lineage], generator)

    def _like_a_second(
        self,
        graph: CircuitGraph,
        level: PlantedLevel,
        deck: list[Stranger] | None,
        generator: torch.Generator,
    ) -> CircuitGraph:
        if deck is None:
            return noisy(graph, generator, level, self.spread())
        level = level if deck else replace(level, inserted=0)
        return planted_pair(graph, deck, generator, level, spread=self.spread()).second

    def level(self, spec: PairSpec) -> PlantedLevel:
        """Of a planted or partial pair: its number goes through all levels, in one order for all splits.

        Partial pairs for training have no noise: matchers draw theirs anew.
        """
        levels = self.config.levels.all()
        order = sorted(range(len(levels)), key=lambda i: derived_seed(self.config.seed, "level", i))
        level = levels[order[spec.number % len(levels)]]
        if spec.kind == "partial" and spec.split == "train":
            return replace(level, noise=0.0, feature_noise=0.0)
        return level

    def spread(self) -> Float[Tensor, "kind feature"]:
        """Of each feature among training circuits."""
        if self._spread is None:
            self._spread = feature_spread([self.circuits.stored(id).graph for id in self.spread_from])
        return self._spread
