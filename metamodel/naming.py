"""Which components have a function that no label names, but that exemplars show: components that have it, and
others that have not. `metamodel.load(path).name_function(subject, exemplars=[...])`.

What answers are the readers in `k_shot/` beside a checkpoint's main one, each trained without a part of the
labels, so that it is the comparing with exemplars that was learned. How well they do it on labels that they
never saw, beside logistic regression on the same exemplars, is measured in `metamodel/evaluation/k_shot.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.asking import Asked, asked_about
from metamodel.config.errors import require, require_one_of, suggestion
from metamodel.config.words import Track
from metamodel.features.view import Shown
from metamodel.networks.member import Member
from metamodel.subjects.config import KINDS, Component, components
from metamodel.subjects.subject import Subject
from metamodel.subjects.threads import one_thread
from metamodel.training.checkpoint import FunctionCheckpoint


class Exemplar(NamedTuple):
    """A component that has the function, or has not. A plain tuple of the first three will do."""

    subject: Subject
    component: str
    """Its name, as in readings: `L0H1`, `MLP0`."""
    holds: bool
    prompts: Shown | None = None
    """Of the behavior in which it has the function, without answers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Naming:
    """How much every component of one subject looks like exemplars that have a function."""

    subject: str
    nodes: tuple[Component, ...]
    scores: Float[Tensor, " node"]
    """Logit, higher for what is nearer to exemplars that have the function than to those that have not. It
    orders components and is not calibrated. NaN for kinds of components of which there is no exemplar."""
    n_readers: int
    """Readers whose logits were averaged."""
    notes: tuple[str, ...]
    """What a user must know before believing the numbers."""

    def to_pandas(self) -> pandas.DataFrame:
        """One row a component: kind, layer, head and score."""
        rows: list[dict[str, Any]] = [
            {
                "component": node.name,
                "kind": node.kind,
                "layer": node.layer,
                "head": node.head,
                "score": score,
            }
            for node, score in zip(self.nodes, self.scores.tolist(), strict=True)
        ]
        return pandas.DataFrame(rows).set_index("component")


def name_function(
    readers: Sequence[FunctionCheckpoint],
    subject: Subject,
    exemplars: Sequence[Exemplar | tuple[Subject, str, bool]],
    *,
    function: str | None = None,
    prompts: Shown | None = None,
) -> Naming:
    """Mean over readers of the logit that each component of a subject has the function of the exemplars.

    Args:
        readers: each trained without a part of the labels.
        exemplars: of any subjects, at least one that has the function and one that has not, in any order. The
            same one twice counts once.
        function: a label, if the exemplars show one: then only the reader that never saw it answers.
        prompts: of the behavior in which the subject is asked about, without answers.

    Raises: InputError for exemplars that are one-sided, contradict each other or are no component, a label
        that every reader saw, or prompts that do not fit.
    """
    readers = _that_answer(readers, function)
    whole = [one if isinstance(one, Exemplar) else Exemplar(one[0], one[1], one[2]) for one in exemplars]
    given = _checked(whole, readers)
    with one_thread(), torch.no_grad():
        described = _Described()
        nodes = components(subject.config)
        logits = []
        for reader in readers:
            its = [described.places(reader, one.subject, one.prompts)[:, _index(one)] for one in given]
            there = described.places(reader, subject, prompts)
            logits.append(_logits(reader, there, torch.stack(its, dim=1), [one.holds for one in given]))
        asked = described.asked(readers[0].track, subject, prompts)
        notes = asked.notes_of(readers[0], asked.batch(readers[0]))
    kinds = {components(one.subject.config)[_index(one)].kind for one in given}
    of_a_kind = torch.tensor([node.kind in kinds for node in nodes])
    mean = torch.stack(logits).mean(0)
    return Naming(
        subject=subject.name,
        nodes=nodes,
        scores=torch.where(of_a_kind, mean, torch.full_like(mean, math.nan)),
        n_readers=len(readers),
        notes=notes,
    )


class _Described:
    """Descriptions of subjects, each computed once, however many exemplars and readers ask for it."""

    def __init__(self):
        self._asked: dict[tuple[Track, int, int], Asked] = {}
        self._places: dict[tuple[int, int], Tensor] = {}

    def asked(self, track: Track, subject: Subject, prompts: Shown | None) -> Asked:
        key = (track, id(subject), id(prompts))
        if key not in self._asked:
            self._asked[key] = asked_about(subject, track, prompts)
        return self._asked[key]

    def places(
        self, reader: FunctionCheckpoint, subject: Subject, prompts: Shown | None
    ) -> Float[Tensor, "member node width"]:
        """Where a subject's components lie for each network of a reader."""
        asked = self.asked(reader.track, subject, prompts)
        key = (id(reader), id(asked))
        if key not in self._places:
            said = reader.reader.eval()(asked.batch(reader))
            self._places[key] = torch.stack([answers.places[0] for answers in said])
        return self._places[key]


def _logits(
    reader: FunctionCheckpoint,
    places: Float[Tensor, "member node width"],
    exemplars: Float[Tensor, "member exemplar width"],
    holds: Sequence[bool],
) -> Float[Tensor, " node"]:
    truth = torch.tensor([holds], dtype=places.dtype, device=places.device)
    said = [
        cast(Member, member).exemplars(there, own[None], truth)[:, 0]
        for member, there, own in zip(reader.reader.members, places, exemplars, strict=True)
    ]
    return torch.stack(said).mean(0).cpu()


def _that_answer(readers: Sequence[FunctionCheckpoint], function: str | None) -> Sequence[FunctionCheckpoint]:
    if function is None:
        return readers
    require_one_of(function, [name for reader in readers for name in reader.held_out_functions], "function")
    return [reader for reader in readers if function in reader.held_out_functions]


def _index(exemplar: Exemplar) -> int:
    return [node.name for node in components(exemplar.subject.config)].index(exemplar.component)


def _checked(exemplars: Sequence[Exemplar], readers: Sequence[FunctionCheckpoint]) -> list[Exemplar]:
    """Every exemplar once."""
    found: dict[tuple[int, int, str], Exemplar] = {}
    for i, one in enumerate(exemplars):
        _check_component(one, readers, f"exemplars[{i}]")
        before = found.setdefault((id(one.subject), id(one.prompts), one.component), one)
        require(
            before.holds == one.holds,
            f"exemplars[{i}]",
            expected=f"{one.component} of {one.subject.name} to have the function or not",
            got="both",
            do="Leave one of them out.",
        )
    n_holds = sum(one.holds for one in found.values())
    require(
        0 < n_holds < len(found),
        "exemplars",
        expected="at least one that has the function and one that has not",
        got=f"{n_holds} that have it and {len(found) - n_holds} that have not",
        do="Add components of any subject, with True or False.",
    )
    return list(found.values())


def _check_component(one: Exemplar, readers: Sequence[FunctionCheckpoint], where: str) -> None:
    """Kinds for which training subjects had no label are no use: readers never learned to compare them."""
    learned = {kind for i, kind in enumerate(KINDS) if all(bool(r.reader.asked[i].any()) for r in readers)}
    names = [node.name for node in components(one.subject.config) if node.kind in learned]
    require(
        one.component in names,
        where,
        expected=f"one of the {len(names)} components of {one.subject.name} that may have functions",
        got=repr(one.component),
        do=f"Name one of them.{suggestion(one.component, names)}",
    )
