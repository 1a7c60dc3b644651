"""Which component of a subject is damaged, and the change of it that puts the subject right.

One component is small beside what pairs and inputs to keep say together: the change of a damaged head's `W_O`
that makes all of them come right makes inputs come right that were not shown. So each component is changed
alone until what is known comes right, and the one that comes closest is blamed; one that was removed shows at
once. Whether any is to blame shows in what was not shown: damage leaves a subject unsure, the right repair
makes it sure, and any other change makes a sound subject less so (`clues.py`). Where a subject adds, its
other answers say more: what damage has lost follows from them by their proportions, and what an edit asks for
contradicts them. The fit of the component to blame is then completed (`completion.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.config.edits import CHANCE, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told, in_own_order
from metamodel.features.proportions import UNKNOWN
from metamodel.networks.editing.clues import LEFT, Clues, clues, entropy, most_left
from metamodel.networks.editing.completion import Candidate, Completed, Known, completed, following
from metamodel.networks.editing.component_fit import ComponentRun, whole_weight
from metamodel.networks.editing.suspects import LEAST_LOSS, doubt, oddness, removed, suspects

LEAST_UNSURE = 0.01
"""Mean entropy, in nats, of what is said of inputs without an answer, below which no damage is looked for."""
LEAST_LEFT = 1e-3
"""In nats: where a repair of any component would have to leave less, none is looked for."""
WHOLE = 1.9
"""A subject that adds is whole if from its surest answers all others follow, or nearly: such a `reach`, of
2."""
MOST = 0.5
"""Share of the pairs, more than which must follow, or contradict what follows; by sums, of those of which
anything follows."""
N_MENDED = 7
"""Numbers that describe a repair to a forecast."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mended:
    """A component put right."""

    name: str
    """Its weight."""
    head: int | None
    """None for an MLP."""
    change: Tensor
    """Of that weight, without a subject's axis."""
    stream: Float[Tensor, "example d_model"]
    """The residual stream behind the last block at each answer position, with this change."""
    looks: Float[Tensor, " look"]
    """That it was put right; logarithms of the entropy it leaves, of how many times that is what it was, and
    of the loss of a fit to what is known and follows by sums; how much follows from what the subject then
    says, or by sums; and what no other fit disputes, of what it changes and of what it leaves."""
    clues: Clues
    """What spoke for its damage."""
    left: float
    """Entropy behind the fit to what is known, relative to that before: by it the component was taken for
    damaged, before the fit was completed; or, of one that was removed, the completed fit proved it; or
    proportions had."""


def mended(
    told: Told,
    seen: Observed,
    which: int,
    n_steps: int,
    *,
    left: Callable[[Clues], float] = most_left,
    complete: bool = True,
    sums: bool = True,
) -> Mended | None:
    """Puts one subject right, in the form and precision of what was told.

    Args:
        seen: of the weights that were told, with no change of them.
        which: subject of the batch.
        n_steps: of each fit.
        left: how many times the entropy of what was not shown a repair may leave, of components that were
            not removed; whatever it leaves, where proportions say that the pairs are lost.
        complete: whether a fit to what is known is completed by what follows from the subject's own answers.
        sums: whether what follows where answers are sums is told too, and may prove damage.

    Returns: None where nothing seems damaged, where answers are to be removed, where pairs contradict
        what follows in a subject that adds and is whole, or where nothing that is told could tell.
    """
    role = told.role[which]
    other, pair = role == UNLABELLED, role == PAIR
    if not (other.any() and pair.any()) or (pair & (told.wanted[which] == CHANCE)).any():
        return None
    before = entropy(seen.old[which, other])
    if before < LEAST_UNSURE:
        return None
    says = told.answers[which][seen.old[which].argmax(-1)]
    wanted = torch.where(pair, told.wanted[which], says)
    if (says == wanted)[pair].all():
        return None
    run, known = ComponentRun.of(told, which), Known.of(told, which, wanted)
    found = {at: clues(told, seen, which, oddness(run, at)) for at in suspects(run)}
    said = seen.old[which, in_own_order(told, which)][:, told.answer_mask[which]]
    lost = _lost(said, known, sums=sums)
    if lost is False and not all(removed(run, at) for at in found):
        return None
    asked = (lambda _: math.inf) if lost else left
    most = {at: before * (LEFT if removed(run, at) else asked(found[at])) for at in found}
    if not max(most.values()) >= LEAST_LEFT:
        return None
    known = known.with_sums() if sums else known
    fits = [known.fitted(run, at, known.follows, n_steps) for at in found]
    tried = [(one, Candidate.of(run, one.at, one.change, known)) for one in fits]
    tried = [(fit, one) for fit, one in tried if one.right]
    if not tried:
        return None
    best, first = min(tried, key=lambda one: doubt(run, one[0]) - one[1].reach)
    bound, shown = most[best.at], first
    if (known.follows != UNKNOWN).any():
        # of what was not shown, what follows and is told says nothing
        fit = known.fitted(run, best.at, torch.full_like(known.wanted, UNKNOWN), n_steps)
        shown = Candidate.of(run, best.at, fit.change, known)
        if not shown.right:
            return None
    if shown.left > bound and not removed(run, best.at):
        return None
    done = completed(run, best.at, first, known, n_steps) if complete else None
    whole = first if done is None else done.best
    # a subject can be sure of what is wrong; of what was removed, a completed repair may be surer than a fit
    if shown.left > bound and not (whole.reach and whole.left <= bound):
        return None
    behind = seen.stream[which].clone()
    behind[in_own_order(told, which)] = run.said(best.at, whole.change)[0].to(behind.dtype)
    name, head = best.at
    looks = [
        1.0,
        math.log(whole.left + LEAST_LOSS),
        math.log((whole.left + LEAST_LOSS) / before),
        math.log(best.loss + LEAST_LOSS),
        whole.reach if complete else 0.0,
        *((1.0, 1.0) if done is None else _undisputed(done, known, said.argmax(1))),
    ]
    return Mended(
        name=name,
        head=head,
        change=whole_weight(run.weights, best.at, whole.change).to(behind.dtype),
        stream=behind,
        looks=torch.tensor(looks, dtype=behind.dtype, device=behind.device),
        clues=found[best.at],
        left=shown.left / before,
    )


def _undisputed(done: Completed, known: Known, before: Int[Tensor, " example"]) -> tuple[float, float]:
    """Share of the inputs without an answer that no other fit answers otherwise: of those whose answer the
    repair changes, and of the others; 1 of none.

    Args:
        before: index of the subject's answer.
    """
    changed = done.said != before
    parts = (done.undisputed[known.other & among] for among in (changed, ~changed))
    of_changed, of_others = (float(part.double().mean()) if len(part) else 1.0 for part in parts)
    return of_changed, of_others


def _lost(said: Float[Tensor, "example answer"], known: Known, *, sums: bool = True) -> bool | None:
    """Whether what is wanted of pairs is what a subject that adds has lost, or (False) an edit of a whole
    one; None where its answers do not tell, as of one that adds nothing.

    Args:
        said: probabilities before any change, in the order of `known`.
        sums: whether what follows from inputs to keep, where answers are sums, may prove it.
    """
    pair, wanted = known.pair, known.wanted[known.pair]
    keeps = known.without_pairs().with_sums().sums if sums else None
    if keeps is not None:
        by_sums, says = keeps.settled(said.argmax(1))[pair], said.argmax(1)[pair]
        # of a sound subject its own answers follow; a rule can have fixed points
        told = (by_sums != UNKNOWN) & (says != wanted)
        if told.any() and (by_sums == wanted)[told].double().mean() > MOST:
            return True
    follows = following(said.log(), known, pairs=False)
    expected = follows.expected[pair]
    right, wrong = expected == wanted, (expected != wanted) & (expected != UNKNOWN)
    if right.double().mean() > MOST:
        return True
    return False if follows.reach >= WHOLE and wrong.double().mean() > MOST else None
