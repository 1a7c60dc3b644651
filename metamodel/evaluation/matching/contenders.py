"""A tuned opponent with the score by which it tells whether a circuit is there at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.mapping import Match, edge_score
from metamodel.analogy.pairs import MatchedPair
from metamodel.baselines.matching import Tuned
from metamodel.evaluation.matching.intervals import auroc_of
from metamodel.evaluation.matching.source import OF_SUBJECTS

Named = Mapping[str, Callable[[MatchedPair], Float[Tensor, "node theirs"] | None]]
"""Similarities of nodes, by name."""
PRESENCE: Mapping[str, Callable[[MatchedPair, Match], float]] = {
    "own": lambda pair, match: match.score,
    "energy at 0.2": lambda pair, match: edge_score(pair.first, pair.second, match.pairs, 0.2),
    "energy at 0.5": lambda pair, match: edge_score(pair.first, pair.second, match.pairs, 0.5),
    "pairs": lambda pair, match: float((match.pairs >= 0).sum()) / len(match.pairs),
}
"""Scores of presence that opponents choose from: that of the method, the energy of its map, or its size."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """An opponent as it enters the report."""

    tuned: Tuned
    presence: str
    """Name of its score in `PRESENCE`."""

    @property
    def name(self) -> str:
        return self.tuned.opponent.name

    def can(self, pair: MatchedPair, named: Named) -> bool:
        """Whether the similarity that it chose is at hand for a pair."""
        source = self.tuned.choice.source
        return source not in OF_SUBJECTS or (source in named and named[source](pair) is not None)

    def match(self, pair: MatchedPair, named: Named) -> Match:
        found = self.tuned.match(pair, named)
        return replace(found, score=PRESENCE[self.presence](pair, found))

    def said(self) -> str:
        """What it chose, in words."""
        c = self.tuned.choice
        return (
            f"{self.name}: {dict(c.setting)}, similarity {c.source} x {c.weight:g}, pruning {c.pruning.how} "
            f"{c.pruning.threshold:.2f}, presence by {self.presence}; partial F1 {self.tuned.partial_f1:.3f}"
        )


def contender(
    tuned: Tuned, present: Sequence[MatchedPair], absent: Sequence[MatchedPair], named: Named
) -> Contender:
    """The opponent with the presence score that tells these validation pairs apart best."""
    pairs = [*present, *absent]
    there = np.array([pair.present for pair in pairs], dtype=bool)
    if not absent or not present:
        return Contender(tuned=tuned, presence="own")
    matches = [tuned.match(pair, named) for pair in pairs]
    once = np.ones((1, len(pairs)))

    def auroc(name: str) -> float:
        scores = np.array([PRESENCE[name](pair, match) for pair, match in zip(pairs, matches, strict=True)])
        return float(auroc_of(there, scores)(once)[0])

    return Contender(tuned=tuned, presence=max(PRESENCE, key=auroc))
