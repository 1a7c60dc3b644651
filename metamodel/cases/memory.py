"""Solved edits, remembered: "if x, apply y; if not quite x, apply y with modifications".

A case is what a proposal did to one subject on the examples of its specification: the vectors by which it
moved the residual stream. For a new specification the nearest cases by an invariant signature are fetched;
one orthogonal map between the streams, from probes that both have, carries their vectors over (Procrustes);
and ridge regression writes them into the new subject's last matrix. A case that so answers the pairs as
wanted, none of which it was fitted to, is taken as the start, and for what is not told as the truth; the
editor's writer corrects the rest. Where no case is near, or none answers the pairs, the editor works as
without one. For a subject with two faults two cases are added.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metamodel.cases.carried import SITES, Sites, written
from metamodel.cases.case import Case
from metamodel.cases.signature import distance, signature
from metamodel.config.edits import CHANCE, CHANCE_FACTOR, KEEP, PAIR
from metamodel.features.observed import Observed, Told
from metamodel.networks.editing.targets import Targets
from metamodel.subjects.forward import unembed

NEAR = 0.25
"""Distance of signatures, the root mean square of their differences, up to which a case is looked at."""
LOOKED_AT = 8
"""Nearest cases that are carried over and tried."""
TRUSTED = 0.9
"""Share of the pairs answered as wanted, and of the inputs to keep answered as before, from which on a case
that was carried over is believed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Begun:
    """Where the editor begins: what one case, or two, did elsewhere."""

    cases: tuple[str, ...]
    distance: float
    """Of the signature of the first."""
    change: Float[Tensor, "unit d_model"]
    """Of the last matrix that writes, in canonical form."""
    said: Int[Tensor, " example"]
    """Index of the answer of each example under it."""
    worth: float
    """Share of the pairs, or of the inputs to keep if that is less, that come out right."""


class CaseMemory:
    """Cases, and which of them are near."""

    def __init__(self, cases: Sequence[Case] = (), *, near: float = NEAR):
        self.cases, self.near = tuple(cases), near

    def __len__(self) -> int:
        return len(self.cases)

    def add(self, case: Case) -> None:
        """Remembers one more."""
        self.cases = (*self.cases, case)

    def nearest(
        self, own: Float[Tensor, " statistic"], *, without: frozenset[str] = frozenset()
    ) -> list[tuple[float, Case]]:
        """Cases within reach with their distances, the nearest first.

        Args:
            without: subjects whose cases are left out.
        """
        found = [(distance(own, case.signature), case) for case in self.cases if case.name not in without]
        return sorted((one for one in found if one[0] <= self.near), key=lambda one: one[0])

    @torch.no_grad()
    def begin(self, told: Told, seen: Observed, *, without: frozenset[str] = frozenset()) -> Begun | None:
        """What the best of the nearest cases, or the sum of the best two, does here; None where none is near
        or none does what is asked.

        Args:
            told: one specification.
        """
        near = self.nearest(signature(told, seen), without=without)[:LOOKED_AT]
        best: Begun | None = None
        chosen: list[tuple[Case, Sites]] = []
        for _ in range(2):
            left = [(far, case) for far, case in near if all(case is not one for one, _ in chosen)]
            tried = [
                ((case, sites), _begun(told, seen, [*chosen, (case, sites)], far))
                for far, case in left
                for sites in SITES
            ]
            if not tried:
                break
            one, found = max(tried, key=lambda pair: pair[1].worth)
            if best is not None and found.worth <= best.worth:
                break
            best, chosen = found, [*chosen, one]
            if best.worth >= TRUSTED:
                break
        return best if best is not None and best.worth >= TRUSTED else None


def _begun(told: Told, seen: Observed, cases: Sequence[tuple[Case, Sites]], far: float) -> Begun:
    change = (
        torch.stack([written(case, told, seen, sites) for case, sites in cases]).sum(0).to(seen.stream.dtype)
    )
    changed = seen.stream + seen.hidden @ change[None]
    logits = unembed(told.weights, told.config, changed)[0]
    among = logits[:, told.answers[0]].masked_fill(~told.answer_mask[0], -torch.inf)
    return Begun(
        cases=tuple(case.name for case, _ in cases),
        distance=far,
        change=change,
        said=among.argmax(-1),
        worth=_worth(told, seen, logits),
    )


def _worth(told: Told, seen: Observed, logits: Float[Tensor, "example d_vocab"]) -> float:
    """The smaller of the shares of pairs that come out right and of inputs to keep that stay."""
    role, answers = told.role[0], told.answers[0]
    old = answers[seen.old[0].argmax(-1)]
    likely = logits.softmax(-1).gather(1, old[:, None])[:, 0]
    new = logits.argmax(-1)
    removed = likely <= CHANCE_FACTOR / int(told.answer_mask[0].sum())
    right = torch.where(told.wanted[0] == CHANCE, removed, new == told.wanted[0])
    shares = [right[role == PAIR], (new == old)[role == KEEP]]
    return min(float(share.double().mean()) for share in shares if len(share))


@contextmanager
def begun_at(writer: nn.Module, begun: Begun | None) -> Iterator[None]:
    """Inside, a writer begins at what was carried over and corrects it, and what is not told is to be as that
    says. It is called with (told, observed, targets, ...) and returns its change."""
    if begun is None:
        yield
        return

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        told, seen, targets, *rest = inputs
        moved = seen.stream + seen.hidden @ begun.change[None]
        return told, replace(seen, stream=moved), _believed(targets, told, begun), *rest

    def after(_: nn.Module, __: tuple[Any, ...], change: Tensor) -> Tensor:
        return change + begun.change[None]

    hooks = [writer.register_forward_pre_hook(before), writer.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _believed(targets: Targets, told: Told, begun: Begun) -> Targets:
    """The same targets, but for inputs of which nothing is told: there the case is believed."""
    told_of = (told.role == PAIR) | (told.role == KEEP)
    says = nn.functional.one_hot(begun.said, targets.wanted.shape[-1]).to(targets.wanted.dtype)[None]
    removed = (told.wanted == CHANCE) & (told.role == PAIR)
    if bool(removed.any()):
        # what is removed has no likeliest answer: the editor's own inference says more
        return targets
    return replace(
        targets,
        wanted=torch.where(told_of[..., None], targets.wanted, says),
        sure=torch.where(told_of, targets.sure, 1.0),
    )
