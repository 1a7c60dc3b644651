"""What kind of change a whole specification asks for, in a few numbers.

One pair can be a fact, an instance of a rule, or an answer that damage has lost, and where else it holds is
another question for each. Which it is shows in the subject: answers that keep proportions may follow a rule,
and what is damaged is unsure and has often not forgotten.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.config.edits import KEEP, PADDING, PAIR
from metamodel.features.observed import Observed
from metamodel.features.proportions import Proportions
from metamodel.networks.editing.clues import LEAST_ENTROPY

N_DEMAND = 6
REMOVED = 1
"""Which of the numbers says that answers are to be removed."""
LEAST_LIKELY = -5.0
"""Decimal logarithm of the probability of a wanted answer below which it says no more."""
GIVEN = 0.99
"""How much of what is wanted an answer must be to count as given: where answers are to be removed none is."""
FORGOTTEN = -1.3
"""In use, a subject that finds wanted answers less likely than this, or that gives all of them already, is
read as a sound one: what was edited is unsure as what is damaged is, but has not lost what is asked for, and
no training subject was edited before."""
SOUND = -3.0
"""Such a subject is read as one that finds them at most as likely as this."""


def demand(
    seen: Observed, known: Proportions, *, in_use: bool = False, sureness: bool = True
) -> Float[Tensor, "subject look"]:
    """The numbers, `N_DEMAND` of them; the last three are 0 without `sureness`.

    How many pairs there are, as log(1 + n); share of the pairs of which no answer is wanted, a behavior being
    removed; share of the proportions of answers that are known; logarithm of how unsure the subject is, in
    nats; of how many times as unsure of pairs as of inputs to keep; and mean decimal logarithm of the
    probabilities that it gives to wanted answers.
    """
    pair, keep = (seen.role == PAIR).to(seen.old.dtype), (seen.role == KEEP).to(seen.old.dtype)
    n_pairs = pair.sum(1)
    entropy = torch.special.entr(seen.old).sum(-1)
    everywhere, of_pairs, of_keeps = (
        LEAST_ENTROPY + (entropy * among).sum(1) / among.sum(1).clamp_min(1)
        for among in ((seen.role != PADDING).to(seen.old.dtype), pair, keep)
    )
    likely = (seen.old.log10().clamp_min(LEAST_LIKELY) * seen.wanted).sum((1, 2)) / n_pairs.clamp_min(1)
    numbers = [
        n_pairs.log1p(),
        1 - seen.wanted.square().sum((1, 2)) / n_pairs.clamp_min(1),
        known.share(seen.answer_mask).to(seen.old.dtype),
    ]
    unsure = [everywhere.log(), torch.where(keep.sum(1) > 0, (of_pairs / of_keeps).log(), 0.0)]
    if in_use:
        given = seen.wanted.gather(-1, seen.old.argmax(-1, keepdim=True))[..., 0]
        wrong = (given < GIVEN) & (seen.role == PAIR)
        damaged = (likely >= FORGOTTEN) & wrong.any(1)
        sure = (math.log(LEAST_ENTROPY), 0.0)
        unsure = [torch.where(damaged, x, none) for x, none in zip(unsure, sure, strict=True)]
        likely = torch.where(damaged, likely, likely.clamp_max(SOUND))
    numbers += [*unsure, likely] if sureness else [torch.zeros_like(n_pairs)] * 3
    return torch.stack(numbers, dim=1)
