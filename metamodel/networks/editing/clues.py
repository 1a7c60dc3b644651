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
    likely: float
    """Mean logarithm of the probabilities of wanted answers: what is damaged has often not forgotten."""
    odd: float
    """How far the size of a head is out of line."""


LEFT, WEIGHT = -1.5, Clues(pairs=1.0, likely=0.33, odd=7.0)
"""A repair leaves at most exp(LEFT + sum of weighted clues) times the entropy, and never more than there was.
Chosen on damaged training subjects and on edits of sound ones in sequence; `benchmarks/damage_clues.py` has
them beside a logistic regression."""
LEFT_REMOVED = 1.25
"""Where the component was removed, a repair leaves at most so many times it, whatever the clues."""
LEAST_LIKELY, MOST_ODD = -12.0, 1.0
"""Clues beyond these say no more."""
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
    wanted = told.wanted[which, pair][:, None] == told.answers[which]
    likely = (old[pair] * wanted).sum(-1).clamp_min(math.exp(LEAST_LIKELY))
    unsure = LEAST_ENTROPY + entropy(old[pair])
    of_keeps = LEAST_ENTROPY + entropy(old[keep]) if keep.any() else unsure
    return Clues(
        pairs=math.log(unsure / of_keeps), likely=float(likely.log().mean()), odd=min(oddness, MOST_ODD)
    )


def most_left(of: Clues) -> float:
    """How many times the entropy a repair may leave."""
    return math.exp(min(0.0, LEFT + sum(w * clue for w, clue in zip(WEIGHT, of, strict=True))))


def entropy(said: Float[Tensor, "example answer"]) -> float:
    """Mean, in nats."""
    return float(torch.special.entr(said).sum(-1).mean())
