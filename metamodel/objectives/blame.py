"""What an editor is taught of the component that is to blame: the one whose change puts most inputs right."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import UNLABELLED
from metamodel.features.observed import Told
from metamodel.losses.editing import LEAST
from metamodel.networks.editing.answers import one_hot
from metamodel.networks.editing.sites import Blamed

SHARPNESS = 20.0
"""Components are to blame by the softmax of so many times the share of inputs that they put right."""
MARGIN = 0.02
"""By how much the blamed component must be better than none."""


def blame_loss(
    blamed: Blamed,
    old: Float[Tensor, "subject example answer"],
    told: Told,
    wanted: Int[Tensor, "subject example"],
    inside: Bool[Tensor, "subject example"],
) -> Float[Tensor, " subject"]:
    """Cross entropies of blaming the components whose change answers most inputs as is right, and of using
    the one that is blamed where it does so better than what is wanted without it.

    Args:
        old: what the subject says before the edit; inputs out of scope are to be answered so.
    """
    token = (wanted[:, :, None] == told.answers[:, None]) & told.answer_mask[:, None]
    right = torch.where(inside[..., None], token.to(old.dtype), one_hot(old))
    other = told.role == UNLABELLED

    def reached(answers: Tensor) -> Tensor:
        hit = (answers * right[:, None]).sum(-1)
        parts = []
        for among in (other & inside, other & ~inside):
            weight = among[:, None].to(hit.dtype)
            share = (hit * weight).sum(-1) / weight.sum(-1).clamp_min(1)
            parts.append(torch.where(among.any(1)[:, None], share, 1.0).clamp_min(LEAST))
        return 2 / (1 / parts[0] + 1 / parts[1])

    with torch.no_grad():
        each = reached(blamed.votes)
        best = (SHARPNESS * each).softmax(1)
        taken = each.gather(1, blamed.share.argmax(1, keepdim=True))
        better = (taken > reached(one_hot(blamed.instead)[:, None]) + MARGIN).squeeze(1)
    chosen = -(best * blamed.share.clamp_min(LEAST).log()).sum(1)
    return chosen + F.binary_cross_entropy_with_logits(
        blamed.logit, better.to(blamed.logit.dtype), reduction="none"
    )
