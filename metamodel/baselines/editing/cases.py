"""Solved edits of training subjects, and what makes one edit resemble another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.editing.base import Changes, Episode
from metamodel.baselines.editing.oracle import oracle
from metamodel.baselines.editing.suffix import Suffix, suffix
from metamodel.config.edits import CHANCE, KEEP, PAIR
from metamodel.features.observed import last_writer
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

MOST = 36
"""Edits that are solved: a few dozen."""
WRITER_RATE = 1e-2
"""Learning rate where only the last writing matrix is trained."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One solved edit."""

    lineage: str
    kind: str
    config: SubjectConfig
    signature: Float[Tensor, " statistic"]
    end: Suffix
    """Its subject on its examples."""
    examples: Examples
    whole: Changes
    """Fine-tuned on the whole edited function, all weights, and"""
    at_writer: Float[Tensor, "unit d_model"]
    """the last writing matrix alone."""


class Cases:
    """Solves edits once, whoever asks."""

    def __init__(self) -> None:
        self.all: list[Case] = []
        self._mean, self._spread = torch.zeros(1), torch.ones(1)
        self._of: tuple[int, ...] = ()

    def solve(self, episodes: Sequence[Episode]) -> None:
        """Solves up to `MOST` of these episodes, evenly spread; nothing the second time."""
        of = tuple(id(episode) for episode in episodes)
        if of == self._of:
            return
        step = max(1, -(-len(episodes) // MOST))
        self.all, self._of = [solved_case(episode) for episode in episodes[::step]], of
        if self.all:
            signatures = torch.stack([case.signature for case in self.all])
            self._mean, self._spread = signatures.mean(0), signatures.std(0, correction=0).clamp_min(1e-3)

    def nearest(
        self, subject: Subject, examples: Examples, *, without: str = "", config: SubjectConfig | None = None
    ) -> list[Case]:
        """All cases, the most similar first.

        Args:
            without: lineage to leave out, when an edit that may be among the cases is tuned on.
            config: if given, only cases of this shape.
        """
        among = [case for case in self.all if case.lineage != without and config in (None, case.config)]
        if not among:
            return []
        own = signature(suffix(subject, examples.tokens, examples.position), examples)
        own = (own - self._mean) / self._spread
        far = [float(((case.signature - self._mean) / self._spread - own).norm()) for case in among]
        return [among[i] for i in sorted(range(len(among)), key=lambda i: far[i])]


def solved_case(episode: Episode) -> Case:
    """Solves one edit, by the oracle."""
    subject, examples = episode.editable.subject, episode.examples
    end = suffix(subject, examples.tokens, examples.position)
    alone = oracle(episode, subset="last_writer", learning_rate=WRITER_RATE)
    return Case(
        lineage=episode.editable.lineage,
        kind=episode.edit.kind,
        config=subject.config,
        signature=signature(end, examples),
        end=end,
        examples=examples,
        whole=oracle(episode),
        at_writer=alone[last_writer(subject.config)].flatten(0, -2),
    )


def signature(end: Suffix, examples: Examples) -> Float[Tensor, " statistic"]:
    """Invariants of a specification on its subject; they do not say of what kind the edit is."""
    role, pair, keep = examples.role, examples.role == PAIR, examples.role == KEEP
    said = end.logits()[:, examples.answers].softmax(-1)
    wanted = (examples.wanted[:, None] == examples.answers).float()
    hidden = torch.nn.functional.normalize(end.hidden - end.hidden.mean(0), dim=-1)
    n = max(int(pair.sum()), 1)

    def alike(first: Tensor, second: Tensor) -> Tensor:
        return (hidden[first] @ hidden[second].T).mean().nan_to_num()

    before = said[pair].argmax(-1)
    numbers = [
        float(torch.tensor(n).log()),
        float(torch.tensor(len(examples.answers)).log()),
        end.subject.config.n_layers,
        float((examples.wanted[pair] == CHANCE).float().mean()),
        float((said * wanted)[pair].sum(-1).mean()),
        float(-torch.special.xlogy(said, said).sum(-1)[pair].mean()),
        len(examples.wanted[pair].unique()) / n,
        len(before.unique()) / n,
        float(keep.sum()) / len(role),
    ]
    similar = [alike(pair, pair), alike(pair, keep), alike(keep, keep)]
    return torch.tensor([*numbers, *map(float, similar)])
