"""Opponents that are told, beside what is shown, what follows from it where answers are sums."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.suffix import suffix
from metamodel.baselines.editing.tuning import ALL, Judge, family_of
from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.prompt_kernels import token_ids
from metamodel.features.proportions import UNKNOWN
from metamodel.features.sums import sums
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

REPAIR = "repair"
"""The kind of edits in which some of what a subject says is right where it is not told."""


class GivenSums(Opponent):
    """Another opponent, tuned with what follows and without; each family of kinds has what suits it."""

    def __init__(self, judge: Judge, make: Callable[[Judge], Opponent]):
        self._judge, self._plain, self._shown = judge, make(judge), dict[int, Episode]()
        self._told = make(lambda given, changes: judge(self._shown[id(given)], changes))
        self.helped: dict[str, bool] = {}
        """Whether it is better with sums, by family of kinds and over ALL."""

    @property
    def name(self) -> str:
        return f"{self._plain.name}_sums"

    def tune(self, episodes: Sequence[Episode]) -> None:
        told = [replace(e, examples=with_sums(e.editable.subject, e.examples, e.edit.kind)) for e in episodes]
        # what is shown counts, in efficacy and elsewhere, not what it is told beside
        self._shown = {id(given): one for given, one in zip(told, episodes, strict=True)}
        self._plain.tune(episodes)
        self._told.tune(told)
        self._shown = {}
        gained: dict[str, float] = {}
        for one in episodes:
            with_, without = (
                self._judge(one, self._proposed(one.editable.subject, one.examples, one.edit.kind, told=more))
                for more in (True, False)
            )
            for family in {ALL, family_of(one.edit.kind)}:
                gained[family] = gained.get(family, 0.0) + with_ - without
        self.helped = {family: gain > 0 for family, gain in gained.items()}

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        told = self.helped.get(family_of(kind), self.helped.get(ALL, False))
        return self._proposed(subject, examples, kind, told=told)

    def _proposed(self, subject: Subject, examples: Examples, kind: str, *, told: bool) -> Changes:
        if told:
            return self._told.propose(subject, with_sums(subject, examples, kind), kind)
        return self._plain.propose(subject, examples, kind)


def with_sums(subject: Subject, examples: Examples, kind: str = "") -> Examples:
    """With inputs that had no answer as pairs, where another answer follows than the subject's own, and as
    inputs to keep where that follows."""
    says, follows = following(subject, examples, kind)
    new = follows != UNKNOWN
    role = torch.where(new, torch.where(follows == says, KEEP, PAIR), examples.role)
    wanted = torch.where(new, examples.answers[follows.clamp_min(0)], examples.wanted)
    return replace(examples, role=role, wanted=wanted)


def following(
    subject: Subject, examples: Examples, kind: str = ""
) -> tuple[Int[Tensor, " example"], Int[Tensor, " example"]]:
    """Index of the subject's answer, and of the one that follows by sums where none is told, or UNKNOWN.

    Args:
        kind: what equations leave open is settled by what a subject says that is to be repaired.
    """
    said = suffix(subject, examples.tokens, examples.position).logits()[:, examples.answers]
    says, role = said.argmax(1), examples.role
    answer = (examples.wanted[:, None] == examples.answers).int()
    known = torch.where(role == PAIR, answer.argmax(1), says).masked_fill(role == UNLABELLED, UNKNOWN)
    # where no answer is wanted of pairs, behaviors are removed
    removed = bool((answer[role == PAIR].sum(1) == 0).any())
    ids = token_ids(examples.tokens[None], examples.position[None])[0]
    found = None if removed else sums(ids, known, len(examples.answers))
    if found is None:
        return says, torch.full_like(known, UNKNOWN)
    follows = found.settled(says) if kind == REPAIR else found.follows
    return says, follows.masked_fill(role != UNLABELLED, UNKNOWN)
