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
"""Of the square norm of a change, as `PRICE` of the first fit is: others that are tried beside it."""
SUREST = (1.0, 0.7, 0.5, 0.35)
"""Shares of the examples, the surest ones, from whose answers those of all may follow: by the log odds of the
best answer against the next, and what is shown before all."""
SURE = 0.15
"""In nats: the surest fit is taken only if it leaves at most this entropy where no answer was shown."""
MOST_ROUNDS, ROUND_STEPS = 12, 30
"""Of telling a fit what follows from its answers, and of the fit in each: what follows is soon more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Examples of one subject without padding, and what is known of them."""

    ids: Int[Tensor, "example pos"]
    """As `token_ids` gives them."""
    answers: Int[Tensor, " answer"]
    """Tokens."""
    wanted: Int[Tensor, " example"]
    """Index of the answer, of those that are shown."""
    pair: Bool[Tensor, " example"]
    shown: Bool[Tensor, " example"]
    """Pairs and inputs to keep."""
    other: Bool[Tensor, " example"]
    """Those without an answer."""

    @classmethod
    def of(cls, told: Told, which: int, wanted: Int[Tensor, " example"]) -> "Known":
        """Args:
        wanted: tokens, of all examples, padding included; of those that are shown they are candidate answers.
        """
        real = told.role[which] != PADDING
        role, answers = told.role[which, real], told.answers[which, told.answer_mask[which]]
        return cls(
            ids=token_ids(told.tokens, told.position)[which, real],
            answers=answers,
            wanted=(wanted[real, None] == answers).int().argmax(1),
            pair=role == PAIR,
            shown=(role == PAIR) | (role == KEEP),
            other=role == UNLABELLED,
        )

    @property
    def tokens(self) -> Int[Tensor, " shown"]:
        """Wanted of what is shown."""
        return self.answers[self.wanted[self.shown]]


@torch.no_grad()
def completed(run: ComponentRun, first: Fit, known: Known, n_steps: int) -> Float[Tensor, "unit d_model"]:
    """The change of one component.

    Args:
        run: on all examples.
        first: to what is shown.
        n_steps: of a fit to what is shown.
    """
    at, shown = first.at, run.only(known.shown)
    changes = [first.change]
    changes += [fitted(shown, at, known.tokens, n_steps, price=price).change for price in PRICES]
    said = [_said(run, at, change, known) for change in changes]
    follows = [_following(one, known) for one in said]
    best = max(range(len(changes)), key=lambda i: follows[i].reach)
    if not follows[best].reach:
        left = [entropy(one[known.other].exp()) for one in said]
        surest = min(range(len(changes)), key=lambda i: left[i] if math.isfinite(left[i]) else math.inf)
        return changes[surest] if left[surest] <= SURE else first.change
    change, now = changes[best], follows[best].expected
    for _ in range(MOST_ROUNDS):
        taught = known.shown | (now != UNKNOWN)
        wanted = torch.where(known.shown, known.wanted, now.clamp_min(0))[taught]
        change = fitted(run.only(taught), at, known.answers[wanted], ROUND_STEPS, start=change).change
        before, now = now, _following(_said(run, at, change, known), known).expected
        if bool((now == UNKNOWN).all()) or bool((now == before).all()):
            break
    return change


def _said(
    run: ComponentRun, at: At, change: Float[Tensor, "unit d_model"], known: Known
) -> Float[Tensor, "example answer"]:
    """Logarithms of probabilities."""
    return run.said(at, change)[1][:, known.answers].log_softmax(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Follows:
    expected: Int[Tensor, " example"]
    """Index of the answer that follows, or UNKNOWN."""
    reach: float
    """Share of examples whose answer follows and share of proportions that are known, added; 0 where no
    answer follows."""


def _following(said: Float[Tensor, "example answer"], known: Known) -> _Follows:
    """What follows from the surest answers, of that share of them from which the most does."""
    top = said.topk(min(2, said.shape[1]), dim=1).values
    sure = torch.where(known.shown, torch.inf, top[:, 0] - top[:, -1])
    own = torch.where(known.shown, known.wanted, said.argmax(1))
    everything = torch.ones_like(known.shown)[None]
    mask = torch.ones_like(known.answers, dtype=torch.bool)[None]
    found: list[_Follows] = []
    for share in SUREST:
        least = sure.topk(max(1, round(share * len(sure)))).values[-1]
        witnesses = torch.where(sure >= least, own, UNKNOWN)
        read = proportions(known.ids[None], everything, witnesses[None], mask)
        expected = read.expected[0]
        follows = float((expected != UNKNOWN).float().mean())
        reach = follows + float(known_share(read.fourth[0])) if follows else 0.0
        found.append(_Follows(expected=expected, reach=reach))
    return max(found, key=lambda one: one.reach)
