"""Preconditioned conjugate gradients through any part of a subject: what the writer does at its last matrix,
for changes whose effect is not linear.

Every step goes as far along its direction as Gauss and Newton say, from the product of the Jacobian with that
direction (Polak and Ribière's directions). A change is held down by its own size relative to `scale`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LONGEST_STEP = 10.0
"""Largest change of any logit in one step."""
TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aim:
    """What is wanted, and how dear a change is."""

    wanted: Float[Tensor, "subject example d_vocab"]
    """Distributions over tokens."""
    weight: Float[Tensor, "subject example"]
    """Of the examples; zero for padding."""
    decay: float
    """Weight of a change's square norm relative to `scale`."""
    scale: Float[Tensor, " subject"]
    """Square norm of what counts as one."""


Said = Callable[[Tensor], Tensor]
"""Logits `[subject, site, example, d_vocab]` under a change `[subject, site, row, column]`."""


@torch.no_grad()
def descended(
    said: Said,
    precondition: Callable[[Tensor], Tensor],
    start: Float[Tensor, "subject site row column"],
    aim: Aim,
    n_steps: int,
) -> tuple[Float[Tensor, "subject site row column"], Float[Tensor, "subject site example d_vocab"]]:
    """The change after all steps, and what is then said; each subject and site for itself."""
    change, direction, before = start, torch.zeros_like(start), None
    weight = aim.weight[:, None]
    shown = (weight > 0)[..., None]
    price = (aim.decay / aim.scale)[:, None]
    for _ in range(n_steps):
        at = _At.of(said, change)
        p = at.logits.softmax(-1)
        gradient = (
            at.back((p - aim.wanted[:, None]) * weight[..., None]) + 2 * price[..., None, None] * change
        )
        descent = precondition(gradient)
        if before is None:
            direction = -descent
        else:
            turn = _dot(descent, gradient - before[1]) / _dot(before[0], before[1]).clamp_min(TINY)
            direction = turn.clamp(0, 2)[..., None, None] * direction - descent
        before = descent, gradient
        moved = at.along(direction)
        bent = (p * moved.square()).sum(-1) - (p * moved).sum(-1).square()
        curvature = (weight * bent).sum(-1) + 2 * price * _dot(direction, direction)
        length = (-_dot(gradient, direction)).clamp_min(0) / curvature.clamp_min(TINY)
        longest = LONGEST_STEP / (moved.abs() * shown).amax((2, 3)).clamp_min(TINY)
        change = change + torch.minimum(length, longest)[..., None, None] * direction
    return change, said(change)


def divergence(
    logits: Float[Tensor, "subject site example d_vocab"], wanted: Float[Tensor, "subject example d_vocab"]
) -> Float[Tensor, "subject site example"]:
    """KL divergence of what is said from what is wanted, in nats."""
    wanted = wanted[:, None]
    return (wanted * (wanted.clamp_min(TINY).log() - logits.log_softmax(-1))).sum(-1)


class _At:
    """The derivative of what is said at one change, both ways.

    Forward mode would import scripted decompositions; the backward pass is linear in what it is given, and
    its own derivative is the product of the Jacobian with a direction.
    """

    def __init__(self, change: Tensor, output: Tensor):
        self._change, self._output = change, output
        self.logits = output.detach()

    @classmethod
    def of(cls, said: Said, change: Tensor) -> "_At":
        with torch.enable_grad():
            at = change.detach().requires_grad_()
            return cls(at, said(at))

    def back(self, pull: Tensor) -> Tensor:
        """`pull` times the Jacobian."""
        return torch.autograd.grad(self._output, self._change, pull, retain_graph=True)[0]

    def along(self, direction: Tensor) -> Tensor:
        """The Jacobian times `direction`."""
        with torch.enable_grad():
            pull = torch.zeros_like(self.logits).requires_grad_()
            (back,) = torch.autograd.grad(self._output, self._change, pull, create_graph=True)
            return torch.autograd.grad(back, pull, direction)[0]


def _dot(first: Tensor, second: Tensor) -> Float[Tensor, "subject site"]:
    return (first * second).sum((2, 3))
