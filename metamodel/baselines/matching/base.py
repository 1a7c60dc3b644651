"""What every opponent of the matcher offers: a partial map of one circuit onto another, with confidences."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE
from metamodel.baselines.matching.problem import Problem, as_matrix, assigned, overlap
from metamodel.config.errors import require

Setting = Mapping[str, float | int | str]
"""What a method can be told, by name."""
MOST_SETTINGS = 16
"""That any method may be tuned among, beside similarity and pruning: every opponent has the same budget."""
STRUCTURE = ("none", "raw", "learned")
"""Similarities among which methods that look at edges choose."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingPair:
    """Two circuits with their true map, for opponents that learn."""

    first: CircuitGraph
    second: CircuitGraph
    truth: Int[Tensor, " node"]
    """Partner of each node of the first circuit; -1 for none."""
    similarity: Float[Tensor, "node theirs"] | None = None
    """Standardised; None for none."""


class MatchingOpponent(ABC):
    """Matches one pair of circuits after the other. Which setting is best is for `tuned` to say."""

    soft = False
    """Whether `worth` is substochastic by itself; otherwise only what the map takes of it is kept."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in reports."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Similarities among which it may choose, by name; `none` for going without."""
        return STRUCTURE

    def settings(self) -> tuple[Setting, ...]:
        """All that are tried, at most `MOST_SETTINGS`."""
        return ({},)

    def fit(self, pairs: Sequence[TrainingPair]) -> None:  # noqa: B027, most learn nothing
        """Learns from training pairs, if it learns at all. Deterministic."""

    @abstractmethod
    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        """What each pair is worth, 0 to 1."""

    def solve(
        self,
        first: CircuitGraph,
        second: CircuitGraph,
        similarity: Float[Tensor, "node theirs"] | None,
        setting: Setting,
    ) -> Match:
        """The map before anything is pruned from it; its score is the edge mass that it carries.

        Args:
            similarity: standardised (`problem.standardised`), times how strongly it counts; None for none.

        Raises: InputError for a similarity of another shape.
        """
        if similarity is not None:
            require(
                similarity.shape == (len(first), len(second)),
                f"{self.name}: similarity",
                expected=f"shape {(len(first), len(second))}",
                got=tuple(similarity.shape),
                do="Give a row for each node of the first circuit, a column for each of the second.",
            )
        problem = Problem.of(first, second, similarity)
        worth = np.clip(np.nan_to_num(self.worth(problem, setting)), 0.0, 1.0) * problem.allowed
        pairs = assigned(worth, problem.allowed)
        pairs[worth[np.arange(len(pairs)), pairs] <= 0] = NONE
        p = worth if self.soft else worth * as_matrix(pairs, len(second))
        return Match(
            p=torch.tensor(p, dtype=torch.float32),
            pairs=torch.tensor(pairs, dtype=torch.int64),
            score=overlap(problem, pairs),
        )


def grid(**values: Sequence[float | int | str]) -> tuple[Setting, ...]:
    """All combinations of values."""
    return tuple(dict(zip(values, each, strict=True)) for each in product(*values.values()))
