"""Pairs for the matcher, step after step: synthetic and planted ones drawn anew, and those of the zoo."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from metamodel.analogy.absent import rewired
from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pair_batch import PairBatch, batched
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.analogy.planted import PlantedLevel, feature_spread, planted_pair
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.config.matching import MatchTrainingConfig
from metamodel.subjects.config import KINDS

MOST_NOISE, MOST_FEATURE_NOISE, MOST_CHANGED, MOST_LAYERS = 1.0, 4.0, 4, 3
"""Largest levels that training draws, uniformly from 0."""
ABSENT = 0.15
"""Share of drawn pairs whose second circuit is rewired, so that nothing corresponds."""
POOL, FRESH = 1024, 4
"""Drawn pairs that are held ready, and how many of them are drawn anew before each step: drawing takes longer
than learning."""


class MatchPairs(IterableDataset):
    """Endless batches; a seed draws them all."""

    def __init__(
        self,
        pairs: Sequence[MatchedPair],
        circuits: Sequence[CircuitGraph],
        config: MatchTrainingConfig,
        seed: int,
    ):
        """Args:
        pairs: of the zoo, with a truth or absent.
        circuits: real ones of training lineages, of which changed copies are drawn.
        """
        self.circuits, self.config, self.seed = circuits, config, seed
        self.by_kind = [
            [pair for pair in pairs if pair.kind == kind] for kind in sorted({pair.kind for pair in pairs})
        ]
        self.spread, self.centre = feature_spread(circuits), feature_centre(circuits)

    def __iter__(self) -> Iterator[PairBatch]:
        generator = torch.Generator().manual_seed(self.seed)
        pool = [self._drawn(generator) for _ in range(POOL)]
        while True:
            for at in torch.randint(POOL, (FRESH,), generator=generator).tolist():
                pool[at] = self._drawn(generator)
            chosen = torch.randint(POOL, (self.config.batch_size,), generator=generator)
            yield batched([pool[i] for i in chosen.tolist()])

    def _as_real(self, graph: CircuitGraph) -> Float[Tensor, "node feature"]:
        """Standard normal features, moved to where those of real nodes of the same kind lie."""
        return self.centre[graph.kinds] + self.spread[graph.kinds] * graph.features

    def _drawn(self, generator: torch.Generator) -> MatchedPair:
        c, choice = self.config, float(torch.rand((), generator=generator))
        if choice < c.synthetic:
            pair = synthetic_pair(generator, _level(generator), n_features=self.spread.shape[1])
            pair = pair.with_features(self._as_real(pair.first), self._as_real(pair.second))
            return _absent_sometimes(pair, generator)
        if choice < c.synthetic + c.planted or not self.by_kind:
            graph = _one_of(self.circuits, generator)
            others = [circuit for circuit in self.circuits if circuit is not graph]
            pair = planted_pair(graph, others, generator, _level(generator), spread=self.spread)
            return _absent_sometimes(pair, generator)
        pair = _one_of(_one_of(self.by_kind, generator), generator)
        swaps = pair.truth is not None and not pair.missing and _coin(generator)
        return pair.swapped() if swaps else pair


def feature_centre(graphs: Sequence[CircuitGraph]) -> Float[Tensor, "kind feature"]:
    """Mean of each feature among nodes of each kind; 0 for kinds that have none."""
    features, kinds = torch.cat([g.features for g in graphs]), torch.cat([g.kinds for g in graphs])
    member = torch.nn.functional.one_hot(kinds, len(KINDS)).to(features)
    return member.T @ features / member.sum(0).clamp_min(1)[:, None]


def _one_of(things: Sequence, generator: torch.Generator):
    return things[int(torch.randint(len(things), (), generator=generator))]


def _coin(generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 0.5)


def _level(generator: torch.Generator) -> PlantedLevel:
    noise, feature_noise = torch.rand(2, generator=generator).tolist()
    dropped, inserted = torch.randint(MOST_CHANGED + 1, (2,), generator=generator).tolist()
    layers = int(torch.randint(MOST_LAYERS + 1, (), generator=generator))
    return PlantedLevel(
        noise=MOST_NOISE * noise,
        feature_noise=MOST_FEATURE_NOISE * feature_noise,
        dropped=dropped,
        inserted=inserted,
        extra_layers=layers,
    )


def _absent_sometimes(pair: MatchedPair, generator: torch.Generator) -> MatchedPair:
    if float(torch.rand((), generator=generator)) >= ABSENT:
        return pair
    truth = torch.where(pair.first.is_anchor, pair.truth, NONE) if pair.truth is not None else None
    return replace(pair, second=rewired(pair.second, generator), truth=truth, kind="absent", present=False)
