"""Similarities of nodes that opponents choose from, and those that single opponents are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import MatchedPair
from metamodel.config.errors import require
from metamodel.features.registry import FEATURES
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
    def of(
        cls, graphs: Sequence[CircuitGraph], columns: Int[Tensor, " kept"] | None = None
    ) -> "FeatureScale":
        """Measured on circuits of training pairs.

        Args:
            columns: features that are looked at; None for all.

        Raises: InputError without circuits or features.
        """
        n = graphs[0].features.shape[1] if graphs else 0
        require(
            n > 0, "features of circuits", expected="at least one", got=n, do="Give circuits with features."
        )
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


def prompt_columns(names: Sequence[str]) -> Int[Tensor, " kept"]:
    """Columns of features that are computed from what components do on prompts of the task, and nothing else.

    Args:
        names: of all columns, as a zoo of pairs gives them.
    """
    asking = {feature.name for feature in FEATURES if feature.asks}
    return torch.tensor([i for i, name in enumerate(names) if name in asking], dtype=torch.int64)


def correlation(
    first: Float[Tensor, "node sample"], second: Float[Tensor, "theirs sample"]
) -> Float[Tensor, "node theirs"]:
    """Pearson correlation of one number of each node over inputs that both subjects were run on.

    It makes the similarity `activations`. Pairs carry no activations, so whoever has both subjects runs them,
    for instance taking the norm of what each component writes, by input and position.
    """
    ours, theirs = (x - x.mean(1, keepdim=True) for x in (first, second))
    norms = ours.norm(dim=1)[:, None] * theirs.norm(dim=1)[None, :]
    return ours @ theirs.T / norms.clamp_min(torch.finfo(norms.dtype).tiny)
