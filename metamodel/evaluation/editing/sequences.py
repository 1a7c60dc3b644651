"""Edits in sequence: each is proposed for the subject that the last one left; all are scored at the end."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from metamodel.baselines.editing.base import Changes, Episode
from metamodel.config.edits import DERIVED, FAR, IN_SCOPE, NEAR, PAIR
from metamodel.evaluation.editing.scores import scores
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Edit, Editable, Examples
from metamodel.triples.specify import specify

LENGTH = 10
"""Edits of a sequence."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditSequence:
    """Ten rewrites of one subject, and what is wanted when all are done."""

    editable: Editable
    steps: tuple[Examples, ...]
    """Specification of each edit, in order."""
    whole: Episode
    """All of them as one: later answers count where two edits concern one input."""


def sequences_of(subjects: Sequence[Editable], most: int) -> list[EditSequence]:
    """One sequence of each of up to `most` subjects that have as many rewrites; damaged copies have none."""
    fit = [one for one in subjects if sum(edit.kind == "rewrite" for edit in one.edits) >= LENGTH]
    ranked = sorted(fit, key=lambda one: hashlib.sha256(one.subject.name.encode()).hexdigest())
    return [_sequence(one) for one in ranked[:most]]


def _sequence(one: Editable) -> EditSequence:
    edits = [edit for edit in one.edits if edit.kind == "rewrite"][:LENGTH]
    seed = int.from_bytes(hashlib.sha256(f"sequence {one.subject.name}".encode()).digest()[:6], "big")
    generator = torch.Generator().manual_seed(seed)
    wanted, scope = one.answer.clone(), torch.full_like(edits[0].scope, FAR)
    shown = torch.zeros_like(scope, dtype=torch.bool)
    steps = []
    for edit in edits:
        examples, inputs = specify(one, edit, edit.n_pairs, generator)
        steps.append(examples)
        hit, derived = edit.scope == IN_SCOPE, edit.scope == DERIVED
        wanted = torch.where(hit, edit.wanted, wanted)
        near = torch.where(edit.scope == NEAR, torch.maximum(scope, edit.scope), scope)
        scope = torch.where(hit | (scope == IN_SCOPE), IN_SCOPE, torch.where(derived, DERIVED, near))
        pairs = inputs[examples.role == PAIR]
        shown[pairs] = True
    inputs = shown.nonzero()[:, 0]
    tokens = one.tokens[inputs]
    whole = Edit(kind="rewrite", rule=f"{LENGTH} edits", wanted=wanted, scope=scope, pool=shown, n_pairs=0)
    told = Examples(
        tokens=tokens,
        position=torch.full((len(inputs),), tokens.shape[1] - 1),
        role=torch.full((len(inputs),), PAIR),
        wanted=wanted[inputs],
        answers=one.answers,
    )
    episode = Episode(editable=one, edit=whole, examples=told, inputs=inputs)
    return EditSequence(editable=one, steps=tuple(steps), whole=episode)


def after_all(sequence: EditSequence, propose: Callable[[Subject, Examples], Changes]) -> float:
    """S of everything that was asked for, scored after the last edit."""
    start = now = sequence.editable.subject
    for examples in sequence.steps:
        changes = propose(now, examples)
        weights = {k: v + changes[k] if k in changes else v for k, v in now.weights.items()}
        now = replace(now, weights=weights)
    total = {k: v - start.weights[k] for k, v in now.weights.items()}
    return scores(sequence.whole, total).harmonic_mean
