"""Similarities of nodes that opponents choose from, and those that single opponents are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import MatchedPair
from metamodel.config.errors import require
from metamodel.features.registry import registered
from metamodel.subjects.config import KINDS

LEAST_SPREAD = 1e-4
"""Standard deviation below which a feature tells nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureScale:
    """Mean and spread of features within each kind, and which of them count."""

    mean: Float[Tensor, "kind feature"]
    spread: Float[Tensor, "kind feature"]
    columns: Int[Tensor, " kept"]

    @classmethod
    def of(cls, graphs: Sequence[CircuitGraph], columns: Int[Tensor, " kept"] | None = None) -> "FeatureScale":
        """Measured on circuits of training pairs.

        Args:
            columns: features that are looked at; None for all.

        Raises: InputError without circuits or features.
        """
        n = graphs[0].features.shape[1] if graphs else 0
        require(n > 0, "features of circuits", expected="at least one", got=n, do="Give circuits with features.")
        features, kinds = torch.cat([g.features for g in graphs]), torch.cat([g.kinds for g in graphs])
        mean, spread = torch.zeros(len(KINDS), n), torch.zeros(len(KINDS), n)
        for kind in kinds.unique().tolist():
            own = features[kinds == kind]
            mean[kind], spread[kind] = own.mean(0), own.std(0, correction=0)
        return cls(mean=mean, spread=spread, columns=torch.arange(n) if columns is None else columns)

    def standardised(self, graph: CircuitGraph) -> Float[Tensor, "node feature"]:
        """What varies within the node's kind in deviations, the rest 0."""
        spread = self.spread[graph.kinds]
        found = (graph.features - self.mean[graph.kinds]) / spread.clamp_min(LEAST_SPREAD)
        return (found * (spread > LEAST_SPREAD))[:, self.columns]

    def __call__(self, pair: MatchedPair) -> Float[Tensor, "node theirs"]:
        """Negative distance of standardised features: the similarity `raw`, or `prompts` of such columns."""
        ours, theirs = self.standardised(pair.first), self.standardised(pair.second)
        # by difference, not by inner products: equal nodes are at distance 0 whatever the order of sums
        return -(ours[:, None] - theirs[None, :]).pow(2).mean(-1).sqrt()


