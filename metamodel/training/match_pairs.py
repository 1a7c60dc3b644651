"""Pairs for the matcher, step after step: synthetic and planted ones drawn anew, and those of the zoo."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from metamodel.analogy.absent import rewired
from metamodel.analogy.graph import CircuitGraph, stacked
from metamodel.analogy.pair_batch import PairBatch, batched
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.analogy.planted import PlantedLevel, feature_spread, planted_pair, poorly_known
from metamodel.analogy.strangers import deck_of
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.config.matching import MatchTrainingConfig
from metamodel.subjects.config import KINDS
from metamodel.training.thirds import Thirds

CYCLES = 8
"""Pairs of a batch that are held against a third circuit, where cycles count: each runs the matcher twice
more."""
N_DONORS = 6
"""Circuits from which the strangers of one pair are taken."""
POOL, FRESH = 1024, 4
"""Drawn pairs that are held ready, and how many of them are drawn anew before each step: drawing takes longer
than learning."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingCircuit:
    """A real circuit of which changed copies are drawn."""

    graph: CircuitGraph
    lineage: str
    """Its strangers come from other ones."""


class MatchPairs(IterableDataset):
    """Endless batches; a seed draws them all."""

    def __init__(
        self,
        pairs: Sequence[MatchedPair],
        circuits: Sequence[TrainingCircuit],
        config: MatchTrainingConfig,
        seed: int,
    ):
        """Args:
        pairs: of the zoo, with a truth or absent.
        circuits: real ones of training lineages, of which changed copies are drawn.
        """
        self.pairs, self.circuits, self.config, self.seed = pairs, circuits, config, seed
        self.by_kind = [
            [pair for pair in pairs if pair.kind == kind] for kind in sorted({pair.kind for pair in pairs})
        ]
        graphs = [circuit.graph for circuit in circuits]
        self.spread, self.centre = feature_spread(graphs), feature_centre(graphs)

    def __iter__(self) -> Iterator[PairBatch]:
        generator = torch.Generator().manual_seed(self.seed)
        pool = [self._drawn(generator) for _ in range(POOL)]
        thirds = Thirds(self.pairs) if self.config.loss_cycle > 0 else None
        while True:
            for at in torch.randint(POOL, (FRESH,), generator=generator).tolist():
                pool[at] = self._drawn(generator)
            chosen = torch.randint(POOL, (self.config.batch_size,), generator=generator)
            taken = [pool[i] for i in chosen.tolist()]
            batch = batched(taken)
            if thirds is not None:
                third = stacked([thirds.of(pair, generator) for pair in taken[:CYCLES]])
                batch = replace(batch, third=third)
            yield batch

    def _as_real(self, graph: CircuitGraph) -> Float[Tensor, "node feature"]:
        """Standard normal features, moved to where those of real nodes of the same kind lie."""
        return self.centre[graph.kinds] + self.spread[graph.kinds] * graph.features

    def _drawn(self, generator: torch.Generator) -> MatchedPair:
        c, choice = self.config, float(torch.rand((), generator=generator))
        if choice < c.synthetic:
            pair = synthetic_pair(generator, _level(generator, c), n_features=self.spread.shape[1])
            pair = pair.with_features(self._as_real(pair.first), self._as_real(pair.second))
            return _absent_sometimes(pair, generator, c.absent)
        if choice < c.synthetic + c.planted or not self.by_kind:
            circuit = _one_of(self.circuits, generator)
            donors = [donor.graph for donor in donors_for(circuit, self.circuits, generator)]
            level = _level(generator, c) if donors else replace(_level(generator, c), inserted=0)
            deck = deck_of(donors, generator)
            pair = planted_pair(circuit.graph, deck, generator, level, spread=self.spread)
            return _absent_sometimes(pair, generator, c.absent)
        pair = _one_of(_one_of(self.by_kind, generator), generator)
        if is_well_known(pair) and float(torch.rand((), generator=generator)) < c.poorly_known:
            pair = poorly_known(pair, generator, _level(generator, c), spread=self.spread)
        swaps = pair.truth is not None and not pair.missing and _coin(generator)
        return pair.swapped() if swaps else pair


def is_well_known(pair: MatchedPair) -> bool:
    """Whether the zoo has put no noise on the second circuit, and no edge was taken out of it."""
    return not (pair.level.get("noise") or pair.level.get("feature_noise") or pair.missing)


def donors_for(
    circuit: TrainingCircuit, circuits: Sequence[TrainingCircuit], generator: torch.Generator
) -> list[TrainingCircuit]:
    """At most N_DONORS circuits of other lineages, no two of one."""
    met, found = {circuit.lineage}, []
    for i in torch.randperm(len(circuits), generator=generator).tolist():
        if len(found) == N_DONORS:
            break
        if circuits[i].lineage not in met:
            met.add(circuits[i].lineage)
            found.append(circuits[i])
    return found


def feature_centre(graphs: Sequence[CircuitGraph]) -> Float[Tensor, "kind feature"]:
    """Mean of each feature among nodes of each kind; 0 for kinds that have none."""
    features, kinds = torch.cat([g.features for g in graphs]), torch.cat([g.kinds for g in graphs])
    member = torch.nn.functional.one_hot(kinds, len(KINDS)).to(features)
    return member.T @ features / member.sum(0).clamp_min(1)[:, None]


def _one_of(things: Sequence, generator: torch.Generator):
    return things[int(torch.randint(len(things), (), generator=generator))]


def _coin(generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 0.5)


def _level(generator: torch.Generator, config: MatchTrainingConfig) -> PlantedLevel:
    noise, feature_noise = torch.rand(2, generator=generator).tolist()
    dropped, inserted = torch.randint(config.most_changed + 1, (2,), generator=generator).tolist()
    layers = int(torch.randint(config.most_layers + 1, (), generator=generator))
    return PlantedLevel(
        noise=config.most_noise * noise,
        feature_noise=config.most_feature_noise * feature_noise,
        dropped=dropped,
        inserted=inserted,
        extra_layers=layers,
    )


def _absent_sometimes(pair: MatchedPair, generator: torch.Generator, share: float) -> MatchedPair:
    if float(torch.rand((), generator=generator)) >= share:
        return pair
    truth = torch.where(pair.first.is_anchor, pair.truth, NONE) if pair.truth is not None else None
    return replace(pair, second=rewired(pair.second, generator), truth=truth, kind="absent", present=False)
