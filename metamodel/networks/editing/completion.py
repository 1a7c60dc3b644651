"""A repair completed by what follows from the subject's own answers.

Pairs and inputs to keep leave many changes of a component that make them come right. A fit that is nearly
right is surest where it is right, and of a subject that adds, a part of its answers tells the others by their
proportions (`features/proportions.py`). So the fit is told what follows and made anew, until nothing new
does: self-training (Yarowsky 1995) in which a label must follow from others. Where answers are sums, most
follow from what is known alone (`features/sums.py`). Where none does, of several
fits the one is taken that leaves the subject surest, and told what it is sure of where inputs of the same
tokens agree on it: plain self-training, which makes a subject that is nearly right a little more so.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Told, in_own_order
from metamodel.features.prompt_kernels import token_ids
from metamodel.features.proportions import UNKNOWN, known_share, proportions
from metamodel.features.sums import Sums, sums
from metamodel.networks.editing.clues import entropy
from metamodel.networks.editing.component_fit import PRICE, At, ComponentRun, Fit, fitted

FITS = ((1e-5, False), (3e-3, False), (3e-3, True))
"""What is tried beside the first fit: the price of a change, as `PRICE` of that, and whether it is the lower,
the more what the component reads varies."""
SUREST = (1.0, 0.7, 0.5, 0.35)
"""Shares of the examples, the surest ones, from whose answers those of all may follow: by the log odds of the
best answer against the next, and what is shown before all."""
SURE = 0.15
"""In nats: the surest fit is taken only if it leaves at most this entropy where no answer was shown."""
LEAST_RIGHT = 0.9
"""Share of the pairs that a repair must answer as wanted."""
MOST_ROUNDS, ROUND_STEPS = 12, 30
"""Of telling a fit what follows from its answers, and of the fit in each: what follows is soon more."""
AGREED = 0.9
"""Mean probability of one answer from which on inputs of the same tokens agree on it."""
AGREED_ROUNDS = 4
"""Of telling a fit what they agree on; all together take the steps of one fit."""


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
    sums: Sums | None = None
    """What answers are, if they are sums and this was asked."""

    @classmethod
    def of(cls, told: Told, which: int, wanted: Int[Tensor, " example"]) -> "Known":
        """Args:
        wanted: tokens, of all examples, padding included; of those that are shown they are candidate answers.

        Returns: in the order of `in_own_order`.
        """
        own = in_own_order(told, which)
        role, answers = told.role[which, own], told.answers[which, told.answer_mask[which]]
        return cls(
            ids=token_ids(told.tokens, told.position)[which, own],
            answers=answers,
            wanted=(wanted[own, None] == answers).int().argmax(1),
            pair=role == PAIR,
            shown=(role == PAIR) | (role == KEEP),
            other=role == UNLABELLED,
        )

    def without_pairs(self) -> "Known":
        """With what is wanted of pairs unknown."""
        return replace(self, shown=self.shown & ~self.pair)

    def with_sums(self) -> "Known":
        """With the solutions, where answers are sums."""
        said = torch.where(self.shown, self.wanted, UNKNOWN)
        return replace(self, sums=sums(self.ids, said, len(self.answers)))

    @property
    def follows(self) -> Int[Tensor, " example"]:
        """Index of the answer that follows from what is shown alone, or UNKNOWN."""
        return torch.full_like(self.wanted, UNKNOWN) if self.sums is None else self.sums.follows

    def fitted(
        self,
        run: ComponentRun,
        at: At,
        expected: Int[Tensor, " example"],
        n_steps: int,
        *,
        price: float = PRICE,
        varied: Float[Tensor, "unit unit2"] | None = None,
        start: Float[Tensor, "unit d_model"] | None = None,
    ) -> Fit:
        """The change of one component that fits what is shown, and what is expected elsewhere.

        Args:
            run: on all examples.
        """
        taught = self.shown | (expected != UNKNOWN)
        wanted = self.answers[torch.where(self.shown, self.wanted, expected.clamp_min(0))[taught]]
        shown, among = self.shown[taught], run.only(taught)
        return fitted(among, at, wanted, n_steps, price=price, varied=varied, start=start, shown=shown)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Follows:
    """What follows from a subject's answers by their proportions, or by sums."""

    expected: Int[Tensor, " example"]
    """As of a `Candidate`."""
    reach: float
    """As of a `Candidate`: from 0 to 2."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A change of one component, and what the subject then says."""

    change: Float[Tensor, "unit d_model"]
    left: float
    """Entropy of what was not shown, in nats; NaN where the pairs do not come right."""
    expected: Int[Tensor, " example"]
    """Index of the answer that follows from the surest ones, or by sums from those that are known, or
    UNKNOWN."""
    reach: float
    """Share of examples whose answer follows and share of proportions that are known, added; 0 where no
    answer follows. By sums, all proportions are known, and so is what is shown."""

    @classmethod
    def of(
        cls, run: ComponentRun, at: At, change: Float[Tensor, "unit d_model"], known: Known
    ) -> "Candidate":
        said = run.said(at, change)[1]
        right = said[known.pair].argmax(-1) == known.answers[known.wanted[known.pair]]
        among = said[:, known.answers].log_softmax(-1)
        left = entropy(among[known.other].exp()) if right.double().mean() >= LEAST_RIGHT else math.nan
        follows = following(among, known)
        return cls(change=change, left=left, expected=follows.expected, reach=follows.reach)

    @property
    def right(self) -> bool:
        """Whether the pairs come right, and all is finite."""
        return math.isfinite(self.left)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Repair:
    """Of which component, and of what is known."""

    run: ComponentRun
    """On all examples."""
    at: At
    known: Known

    def fitted(self, n_steps: int, price: float, *, by_variance: bool) -> Candidate:
        """To what is shown and follows from it, as of `FITS`."""
        varied = self.run.varied(self.at) if by_variance else None
        fit = self.known.fitted(self.run, self.at, self.known.follows, n_steps, price=price, varied=varied)
        return Candidate.of(self.run, self.at, fit.change, self.known)

    def told_too(self, one: Candidate, expected: Int[Tensor, " example"], n_steps: int) -> Candidate:
        """Fitted anew from there, to what is expected beside what is shown."""
        fit = self.known.fitted(self.run, self.at, expected, n_steps, start=one.change)
        return Candidate.of(self.run, self.at, fit.change, self.known)

    def said(self, one: Candidate) -> Float[Tensor, "example answer"]:
        """As a distribution over answers."""
        return self.run.said(self.at, one.change)[1][:, self.known.answers].softmax(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completed:
    """A repair, and whether other fits to what is known are like it."""

    best: Candidate
    said: Int[Tensor, " example"]
    """Index of the answer behind it."""
    undisputed: Bool[Tensor, " example"]
    """Whether the first fits, or the one there is, all give that answer too."""


@torch.no_grad()
def completed(run: ComponentRun, at: At, first: Candidate, known: Known, n_steps: int) -> Completed:
    """The change of one component.

    Args:
        run: on all examples.
        first: of a fit to what is shown and follows by sums; its pairs come right.
        n_steps: of such a fit.
    """
    repair = _Repair(run=run, at=at, known=known)
    tried = [first, *(repair.fitted(n_steps, price, by_variance=by) for price, by in FITS)]
    tried = [one for one in tried if one.right]
    best = max(tried, key=lambda one: one.reach)
    if best.reach:
        best = _told_what_follows(repair, best, n_steps)
    else:
        surest = min(tried, key=lambda one: one.left)
        best = _told_what_agrees(repair, surest if surest.left <= SURE else first, n_steps)
    said = repair.said(best).argmax(1)
    alike = torch.stack([repair.said(one).argmax(1) == said for one in tried])
    return Completed(best=best, said=said, undisputed=alike.all(0))


def _told_what_follows(repair: _Repair, best: Candidate, n_steps: int) -> Candidate:
    now = best
    for _ in range(MOST_ROUNDS):
        before, now = now, repair.told_too(now, now.expected, ROUND_STEPS)
        if now.right and now.reach >= best.reach:
            best = now
        if not now.reach or bool((now.expected == before.expected).all()):
            break
    # short rounds can leave what is shown not quite right
    last = repair.told_too(best, best.expected, n_steps)
    return last if last.right and last.reach >= best.reach else best


def _told_what_agrees(repair: _Repair, best: Candidate, n_steps: int) -> Candidate:
    told = torch.full_like(repair.known.wanted, UNKNOWN)
    for _ in range(AGREED_ROUNDS):
        before, told = told, _agreed(repair.said(best), repair.known)
        if bool((told == before).all()):
            break
        then = repair.told_too(best, told, max(1, n_steps // AGREED_ROUNDS))
        if not (then.right and then.left <= best.left):
            break
        best = then
    return best


def _agreed(said: Float[Tensor, "example answer"], known: Known) -> Int[Tensor, " example"]:
    """The answer that inputs of the same tokens, in whatever order, are sure of, one alone too; UNKNOWN where
    they are not, and of what is shown."""
    shown = torch.nn.functional.one_hot(known.wanted, said.shape[1]).to(said.dtype)
    said = torch.where(known.shown[:, None], shown, said)
    bag = known.ids.sort(1).values.unique(dim=0, return_inverse=True)[1]
    votes = said.new_zeros(int(bag.max()) + 1, said.shape[1]).index_add_(0, bag, said)[bag]
    share, best = (votes / votes.sum(1, keepdim=True)).max(1)
    return torch.where((share >= AGREED) & ~known.shown, best, UNKNOWN)


def following(said: Float[Tensor, "example answer"], known: Known, *, pairs: bool = True) -> Follows:
    """What follows from the surest answers, of that share of them from which the most does.

    Args:
        said: log probabilities, or logits; examples as of `known`.
        pairs: whether what is wanted of pairs is among what it follows from.
    """
    if pairs and known.sums is not None:
        expected = known.sums.settled(said.argmax(1))
        if (expected != UNKNOWN).any():
            # sums have all proportions
            told = (expected != UNKNOWN) | known.shown
            return Follows(expected=expected, reach=float(told.float().mean()) + 1)
    top = said.topk(min(2, said.shape[1]), dim=1).values
    sure = torch.where(known.shown, torch.inf, top[:, 0] - top[:, -1])
    own = torch.where(known.shown, known.wanted, said.argmax(1))
    n = len(own)
    if not pairs:
        sure, own = sure.masked_fill(known.pair, -torch.inf), own.masked_fill(known.pair, UNKNOWN)
        n -= int(known.pair.sum())
    everything = torch.ones_like(known.shown)[None]
    mask = torch.ones_like(known.answers, dtype=torch.bool)[None]
    found: list[Follows] = []
    for share in SUREST:
        least = sure.topk(max(1, round(share * n))).values[-1]
        witnesses = torch.where(sure >= least, own, UNKNOWN)
        read = proportions(known.ids[None], everything, witnesses[None], mask)
        expected = read.expected[0]
        follows = float((expected != UNKNOWN).float().mean())
        reach = follows + float(known_share(read.fourth[0])) if follows else 0.0
        found.append(Follows(expected=expected, reach=reach))
    return max(found, key=lambda one: one.reach)
