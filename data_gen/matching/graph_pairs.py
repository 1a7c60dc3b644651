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
from metamodel.analogy.planted import feature_spread, planted_pair
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
        level = self.level(spec)
        circuit = self.circuits.stored(spec.first)
        donors = [self.circuits.stored(id).graph for id in spec.donors]
        pair = planted_pair(circuit.graph, donors, generator, level, spread=self.spread())
        pair = self.named(pair, spec, circuit.side.id, circuit.side.id + "+planted")
        yield pair
        yield from self.absent(spec, pair, donors, generator)
        try:
            yield without_edge(pair, generator)
        except InputError:  # nothing that corresponds is joined any more
            return

    def absent(
        self,
        spec: PairSpec,
        pair: MatchedPair,
        donors: Sequence[CircuitGraph] | None,
        generator: torch.Generator,
    ) -> Iterator[MatchedPair]:
        """A pair like this one whose second circuit is not the first: in turn unrelated, and rewired.

        Args:
            donors: of the pair's strangers, where the unrelated circuit is to be changed as the second was.
        """
        if spec.unrelated and spec.number % 2 == 0:
            other = self.circuits.stored(spec.unrelated)
            graph, id = other.graph, other.side.id
            if donors is not None:
                graph = planted_pair(graph, donors, generator, self.level(spec), spread=self.spread()).second
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

    def level(self, spec: PairSpec) -> PlantedLevel:
        """Of a planted pair: its number goes through all levels, in one order for all splits."""
        levels = self.config.levels.all()
        order = sorted(range(len(levels)), key=lambda i: derived_seed(self.config.seed, "level", i))
        return levels[order[spec.number % len(levels)]]

    def spread(self) -> Float[Tensor, "kind feature"]:
        """Of each feature among training circuits."""
        if self._spread is None:
            self._spread = feature_spread([self.circuits.stored(id).graph for id in self.spread_from])
        return self._spread
