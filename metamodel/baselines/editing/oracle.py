"""The reference of what is possible: fine-tuning on the whole edited function, whose truth it knows."""

import torch
from torch import Tensor

from metamodel.baselines.editing.adam import trained
from metamodel.baselines.editing.aims import old_logits, truth
from metamodel.baselines.editing.base import Changes, Episode
from metamodel.triples.edits import CHANCE, DERIVED, IN_SCOPE

ENOUGH = 0.995
"""Share of inputs answered as wanted, of those that change and of those that stay, at which it stops."""
MOST_STEPS = 300
RATE = 3e-3
UNLIKELY = 1.5
"""An answer is removed when it is at most so many times as likely as chance; stricter than scores are."""


def oracle(
    episode: Episode, *, subset: str = "all", learning_rate: float = RATE, max_steps: int = MOST_STEPS
) -> Changes:
    """Adam on all inputs of the domain with what is wanted of them."""
    aims, edit = truth(episode), episode.edit
    before = old_logits(episode.editable.subject, aims.tokens, aims.position).argmax(-1)
    wanted, chance = aims.target.argmax(-1), edit.wanted == CHANCE
    changes = (edit.scope == IN_SCOPE) | (edit.scope == DERIVED)
    most = UNLIKELY / len(episode.editable.answers)

    def stop(logits: Tensor) -> bool:
        likely = logits[0].softmax(-1).gather(1, before[:, None]).squeeze(1)
        right = torch.where(changes & chance, likely <= most, logits[0].argmax(-1) == wanted)
        shares = [right[among].float().mean() for among in (changes, ~changes) if bool(among.any())]
        return all(float(share) >= ENOUGH for share in shares)

    how = [(learning_rate, subset)]
    return trained(episode.editable.subject, aims, how, [max_steps], stop)[max_steps][0]
