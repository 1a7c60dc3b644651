"""A repair completed by what follows from the subject's own answers.

Pairs and inputs to keep leave many changes of a component that make them come right. A fit that is nearly
right is surest where it is right, and of a subject that adds, a part of its answers tells the others by their
proportions (`features/proportions.py`). So the fit is told what follows and made anew, until nothing new
does: self-training (Yarowsky 1995) in which a label must follow from others. Where none does, of fits at
several prices the one is taken that leaves the subject surest.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features.observed import Told
from metamodel.features.prompt_kernels import token_ids
from metamodel.features.proportions import UNKNOWN, known_share, proportions
from metamodel.networks.editing.clues import entropy
from metamodel.networks.editing.component_fit import At, ComponentRun, Fit, fitted

PRICES = (1e-5, 3e-3)
"""Of the size of a change, beside that of the first fit."""
SUREST = (1.0, 0.7, 0.5, 0.35)
"""Shares of the examples, the surest ones, from whose answers those of all may follow."""
SURE = 0.15
"""In nats: a fit that leaves the subject less sure of what was not shown is not preferred for it."""
MOST_ROUNDS, ROUND_STEPS = 12, 30
"""Of telling a fit what follows from its answers, and of the fit in each: what follows is soon more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """Examples of one subject, and what is known of them."""

    ids: Int[Tensor, "example pos"]
    """As `token_ids` gives them."""
    answers: Int[Tensor, " answer"]
    """Tokens."""
    known: Bool[Tensor, " example"]
    wanted: Int[Tensor, " example"]
    """Index of the answer, of those that are known."""
    pair: Bool[Tensor, " example"]
    other: Bool[Tensor, " example"]
    """Those without an answer."""

    @classmethod
    def of(cls, told: Told, which: int, wanted: Int[Tensor, " example"]) -> "Asked":
        """Args:
        wanted: tokens, of all examples, padding included.
        """
        real = told.role[which] != PADDING
        role, answers = told.role[which, real], told.answers[which, told.answer_mask[which]]
        return cls(
            ids=token_ids(told.tokens, told.position)[which, real],
            answers=answers,
            known=(role == PAIR) | (role == KEEP),
            wanted=(wanted[real, None] == answers).int().argmax(1),
            pair=role == PAIR,
            other=role == UNLABELLED,
        )


@torch.no_grad()
def completed(everywhere: ComponentRun, first: Fit, asked: Asked, n_steps: int) -> Tensor:
    """The change of one component, `[unit, d_model]`.

    Args:
        everywhere: run on all examples.
        first: of what is known.
        n_steps: of a fit to what is known.
    """
    shown, at = everywhere.only(asked.known), first.at
    tokens = asked.answers[asked.wanted]
    fits = [first.change]
    fits += [fitted(shown, at, tokens[asked.known], n_steps, price=price).change for price in PRICES]
    said = [_said(everywhere, at, change, asked) for change in fits]
    follows = [_following(one, asked) for one in said]
    best = max(range(len(fits)), key=lambda i: follows[i].share)
    change, now = fits[best], follows[best]
    if not now.share:
        left = [entropy(one[asked.other].exp()) for one in said]
        surest = min(range(len(fits)), key=lambda i: left[i] if math.isfinite(left[i]) else math.inf)
        return fits[surest] if left[surest] <= SURE else first.change
    for _ in range(MOST_ROUNDS):
        taught = asked.known | (now.expected != UNKNOWN)
        index = torch.where(asked.known, asked.wanted, now.expected.clamp_min(0))
        wanted = asked.answers[index[taught]]
        change = fitted(everywhere.only(taught), at, wanted, ROUND_STEPS, start=change).change
        before, now = now, _following(_said(everywhere, at, change, asked), asked)
        if not now.share or bool((now.expected == before.expected).all()):
            break
    return change


def _said(run: ComponentRun, at: At, change: Tensor, asked: Asked) -> Float[Tensor, "example answer"]:
    """Logarithms of probabilities."""
    return run.said(at, change)[1][:, asked.answers].log_softmax(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Follows:
    share: float
    """Of examples whose answer follows, and that of proportions that are known; 0 where no answer follows."""
    expected: Int[Tensor, " example"]
    """Index of the answer that follows, or UNKNOWN."""


def _following(said: Float[Tensor, "example answer"], asked: Asked) -> _Follows:
    """What follows from the surest answers, of that share of them from which the most does."""
    top = said.topk(min(2, said.shape[1]), dim=1).values
    sure = torch.where(asked.known, torch.inf, top[:, 0] - top[:, -1])
    own = torch.where(asked.known, asked.wanted, said.argmax(1))
    shown = torch.ones_like(asked.known)[None]
    mask = torch.ones_like(asked.answers, dtype=torch.bool)[None]
    found: list[_Follows] = []
    for share in SUREST:
        n = max(1, round(share * len(sure)))
        least = sure.topk(n).values[-1]
        witnesses = torch.where(sure >= least, own, UNKNOWN)[None]
        one = proportions(asked.ids[None], shown, witnesses, mask)
        expected = one.expected[0]
        follows = float((expected != UNKNOWN).float().mean())
        share = follows + float(known_share(one.fourth[0])) if follows else 0.0
        found.append(_Follows(share=share, expected=expected))
    return max(found, key=lambda one: one.share)
