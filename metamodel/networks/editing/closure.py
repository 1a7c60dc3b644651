"""Rules from the proportions of a subject's answers: what follows from a few pairs if proportions stay.

A map that carries answers to answers and keeps proportions, m(b - a + c) = m(b) - m(a) + m(c), is known
everywhere once it is known of a few: the images of two answers give that of a third, and so on. On answers
modulo a prime two pairs determine every such map, also kinds of maps that no training subject was given. One
pair is taken for a shift, x to m(x) as the old answer to the new one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.proportions import UNKNOWN, known_share

N_CLOSURE_LOOKS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Closure:
    """Maps of answers that follow from the pairs."""

    to: Float[Tensor, "subject answer answer2"]
    """One-hot rows; zero rows where nothing follows."""
    looks: Float[Tensor, "subject look"]
    """Share of all proportions that are known, and of answers whose image is; share of the proportions among
    the pairs alone that their images keep, and whether there are any to test this on."""

    @property
    def trust(self) -> Float[Tensor, " subject"]:
        """Before training: the share of answers whose image follows, times that of the proportions kept."""
        _, follows, kept, tested = self.looks.unbind(1)
        return follows * (1 - tested + kept)


@torch.no_grad()
def closure(
    proportions: Int[Tensor, "subject answer answer2 answer3"],
    seen: Float[Tensor, "subject answer answer2"],
    mask: Bool[Tensor, "subject answer"],
) -> Closure:
    """What follows for each subject.

    Args:
        seen: `seen[y, y']` counts the pairs whose old answer is y and whose wanted one is y'.
    """
    to, looks = torch.zeros_like(seen), seen.new_zeros(len(seen), N_CLOSURE_LOOKS)
    for i, n in enumerate(mask.sum(1).tolist()):
        own, start = proportions[i, :n, :n, :n], told(seen[i, :n, :n])
        images = extended(own, start)
        known = (images != UNKNOWN).nonzero()[:, 0]
        to[i, known, images[known]] = 1.0
        kept, tested = _kept(own, start)
        looks[i] = torch.stack([known_share(own), seen.new_tensor(len(known) / max(n, 1)), kept, tested])
    return Closure(to=to, looks=looks)


def told(seen: Float[Tensor, "answer answer2"]) -> Int[Tensor, " answer"]:
    """What most of the pairs with an old answer want instead; UNKNOWN where none does or they disagree."""
    most, new = seen.max(1)
    return torch.where((most > 0) & (most > seen.sum(1) / 2), new, UNKNOWN)


def extended(
    proportions: Int[Tensor, "answer answer2 answer3"], images: Int[Tensor, " answer"]
) -> Int[Tensor, " answer"]:
    """The images that follow from those given, by vote where several ways lead to one."""
    known = (images != UNKNOWN).nonzero()[:, 0]
    if len(known) == 1:
        shifted = proportions[known[0], images[known[0]]]
        return torch.where(images != UNKNOWN, images, shifted)
    while len(known):
        fourth, image, _ = _fourths(proportions, images, known)
        both = (fourth != UNKNOWN) & (image != UNKNOWN)
        votes = torch.zeros(proportions.shape[:2], device=images.device)
        votes.index_put_((fourth[both], image[both]), votes.new_ones(()), accumulate=True)
        first, second = votes.topk(2, dim=1).values.unbind(1)
        follows = torch.where((images == UNKNOWN) & (first > second), votes.argmax(1), UNKNOWN)
        if bool((follows == UNKNOWN).all()):
            break
        images = torch.where(follows != UNKNOWN, follows, images)
        known = (images != UNKNOWN).nonzero()[:, 0]
    return images


def _fourths(proportions: Tensor, images: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of all proportions among known answers the fourth term, what stands there among the images, and whether
    it is one that does not hold of any answers."""
    a, b, c = torch.cartesian_prod(known, known, known).T
    return proportions[a, b, c], proportions[images[a], images[b], images[c]], (a != b) & (a != c)


def _kept(proportions: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the proportions among four told answers that their images keep, and 1 if there are any."""
    known = (images != UNKNOWN).nonzero()[:, 0]
    none = torch.zeros((), device=images.device)
    if len(known) < 3:
        return none, none
    fourth, image, asked = _fourths(proportions, images, known)
    testable = asked & torch.isin(fourth, known)
    if not bool(testable.any()):
        return none, none
    return (images[fourth[testable]] == image[testable]).float().mean(), none + 1
