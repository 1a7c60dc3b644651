"""Edits by example: changes that solved other subjects' edits, added as they are or carried over.

    task_vector              mean change of all weights, of solved edits of one kind and shape
                             (Ilharco et al. 2023)
    transported_task_vector  mean change of the last writing matrix, carried over by Procrustes maps
                             between what the matrices read and write on the examples of both
    nearest_case             the same of the one most similar edit, whatever its kind

No specification says of what kind its edit is: it is taken to be that of the most similar solved edit.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.cases import Case, Cases
from metamodel.baselines.editing.suffix import Suffix, suffix
from metamodel.baselines.editing.tuning import Choices, Judge, family_of, tuned
from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

SCALES = (0.1, 0.3, 1.0, 2.0)
MOST = 6
"""Cases that a mean is taken over; the most similar ones."""
SMALLEST = 1e-9
"""Singular value of a product of activations, relative to the largest, below which no direction is shared."""


def procrustes(own: Float[Tensor, "example n_out"], other: Float[Tensor, "example n_in"]) -> Tensor:
    """The partial isometry `[n_out, n_in]` that carries `own` closest to `other`."""
    left, size, right = torch.linalg.svd((own.T @ other).double(), full_matrices=False)
    shared = size > SMALLEST * size[0]
    return (left[:, shared] @ right[shared]).to(own.dtype)


def aligned(
    own: Suffix, examples: Examples, other: Suffix, others: Examples
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Examples of two subjects that are taken to correspond: of one role, ordered by the answer before."""
    first, second = [], []
    for role in (PAIR, KEEP, UNLABELLED):
        ordered = [_ordered(end, shown, role) for end, shown in ((own, examples), (other, others))]
        n = min(map(len, ordered))
        first.append(ordered[0][:n])
        second.append(ordered[1][:n])
    return torch.cat(first), torch.cat(second)


def _ordered(end: Suffix, examples: Examples, role: int) -> Tensor:
    among = (examples.role == role).nonzero()[:, 0]
    said = end.logits()[among][:, examples.answers].argmax(-1)
    return among[said.argsort(stable=True)]


def carried(case: Case, end: Suffix, examples: Examples) -> Float[Tensor, "unit d_model"]:
    """A case's change of its last writing matrix, in another subject's coordinates."""
    own, other = aligned(end, examples, case.end, case.examples)
    read = procrustes(end.hidden[own], case.end.hidden[other])
    write = procrustes(end.stream[own], case.end.stream[other])
    return read @ case.at_writer @ write.T


Proposed = Callable[[Cases, Subject, Examples, str], dict[str, Tensor]]
"""Cases, subject, examples and a lineage to leave out, to the change at scale 1."""


def raw_mean(cases: Cases, subject: Subject, examples: Examples, without: str) -> dict[str, Tensor]:
    near = _of_one_kind(cases.nearest(subject, examples, without=without, config=subject.config))
    names = near[0].whole if near else ()
    return {name: torch.stack([case.whole[name] for case in near]).mean(0) for name in names}


def carried_mean(cases: Cases, subject: Subject, examples: Examples, without: str) -> dict[str, Tensor]:
    near = _of_one_kind(cases.nearest(subject, examples, without=without))[:MOST]
    return _carried(near, subject, examples)


def carried_nearest(cases: Cases, subject: Subject, examples: Examples, without: str) -> dict[str, Tensor]:
    return _carried(cases.nearest(subject, examples, without=without)[:1], subject, examples)


def _of_one_kind(near: list[Case]) -> list[Case]:
    return [case for case in near if case.kind == near[0].kind]


def _carried(near: list[Case], subject: Subject, examples: Examples) -> dict[str, Tensor]:
    if not near:
        return {}
    end = suffix(subject, examples.tokens, examples.position)
    return end.written(torch.stack([carried(case, end, examples) for case in near]).mean(0))


class Transport(Opponent):
    """One of the three, with its scale tuned on edits that are not among the cases it looks at."""

    def __init__(self, judge: Judge, cases: Cases, name: str, proposed: Proposed):
        self._judge, self._cases, self._name, self._proposed = judge, cases, name, proposed
        self.chosen = 1.0
        self.chosen_for: Choices[float] = {}
        """The same by family of kinds."""

    @property
    def name(self) -> str:
        return self._name

    def tune(self, episodes: Sequence[Episode]) -> None:
        self._cases.solve(episodes)

        def proposals(episode: Episode) -> Iterable[tuple[float, Changes]]:
            one = episode.editable
            found = self._proposed(self._cases, one.subject, episode.examples, one.lineage)
            yield from ((scale, {k: scale * v for k, v in found.items()}) for scale in SCALES)

        self.chosen, self.chosen_for = tuned(episodes, proposals, self._judge, self.chosen)

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        found = self._proposed(self._cases, subject, examples, "")
        scale = self.chosen_for.get(family_of(kind), self.chosen)
        return {k: scale * v for k, v in found.items()}


def transports(judge: Judge) -> list[Transport]:
    """All three, on the same cases."""
    cases = Cases()
    return [
        Transport(judge, cases, "task_vector", raw_mean),
        Transport(judge, cases, "transported_task_vector", carried_mean),
        Transport(judge, cases, "nearest_case", carried_nearest),
    ]
