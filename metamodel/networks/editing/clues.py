"""How much surer a change of one component must leave a subject to count as a repair of it.

What was edited is unsure too, and any change that makes what is known come right leaves it a little surer. So
the less else speaks for damage, the surer a repair must leave the subject of what was not shown.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.config.edits import KEEP, PAIR
from metamodel.features.observed import Observed, Told


class Clues(NamedTuple):
    """What speaks for damage of a component; or, the weight of each."""

    pairs: float
    """Logarithm of how many times as unsure the subject is of pairs as of inputs to keep."""
    odd: float
    """How far the size of a head is out of line."""


WEIGHT = Clues(pairs=4.0, odd=8.0)
LEFT = 1.25
"""A repair leaves at most LEFT exp(sum of weighted clues) times the entropy, and never more than LEFT times,
as where the component was removed. Chosen on damaged training subjects and on edits of sound ones in sequence
(`benchmarks/damage_clues.py`)."""
MOST_ODD = 1.0
"""Beyond it a size says no more."""
LEAST_ENTROPY = 0.01
"""In nats: less is none, beside pairs and inputs to keep."""


def clues(told: Told, seen: Observed, which: int, oddness: float) -> Clues:
    """Of one subject of a batch.

    Args:
        seen: of the weights that were told, with no change of them.
        oddness: of the component.
    """
    role, old = told.role[which], seen.old[which].double()
    pair, keep = role == PAIR, role == KEEP
    unsure = LEAST_ENTROPY + entropy(old[pair])
    of_keeps = LEAST_ENTROPY + entropy(old[keep]) if keep.any() else unsure
    return Clues(pairs=math.log(unsure / of_keeps), odd=min(oddness, MOST_ODD))


def most_left(of: Clues) -> float:
    """How many times the entropy a repair may leave."""
    return min(LEFT, LEFT * math.exp(sum(w * clue for w, clue in zip(WEIGHT, of, strict=True))))


def entropy(said: Float[Tensor, "example answer"]) -> float:
    """Mean, in nats."""
    return float(torch.special.entr(said).sum(-1).mean())
