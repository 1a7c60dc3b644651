"""A domain: every input of one small task, its answers, and what an edit of it needs to know.

Edits are judged on the whole domain, so a task that is edited is one whose inputs can be listed. All domains
share one vocabulary, so that a subject's shape does not tell its task:

    0 BOS | 1 QUERY | 2..7 words, operators and markers | 8..60 symbols | 61..63 openers beside BOS

A prompt is `[BOS, ..., QUERY]`, and its answer is asked for at its last token. Symbols are drawn anew for
every pair of subjects, each of which can be the other's donor: beyond a pair no token means the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

BOS, QUERY, FIRST_WORD = 0, 1, 2
FIRST_SYMBOL, N_SYMBOLS = 8, 53
OPENERS = (BOS, 61, 62, 63)
"""What may stand first; all but BOS only in domains with a backdoor."""
D_VOCAB = 64
ONE_HOP = -1
NO_TEMPLATE = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Domain:
    """All inputs of one task with one private truth."""

    tokens: Int[Tensor, "input pos"]
    answers: Int[Tensor, " answer"]
    """Tokens that are answers, in the order of the task's own structure, which no reader is told."""
    table: Int[Tensor, " key"]
    """Index into `answers` of each key's value."""
    key: Int[Tensor, " input"]
    """What is asked for, whatever the template."""
    second: Int[Tensor, " input"]
    """For a question of two hops the first key of the table in which the value is looked up; else ONE_HOP."""
    template: Int[Tensor, " input"]
    group: Int[Tensor, " input"]
    """Behavior that the input calls for: an operator, a relation."""
    level: Int[Tensor, " input"]
    """Depth or count, for edits beyond a threshold; 0 where the task has none."""
    opener: Int[Tensor, " input"]
    """Index into OPENERS."""
    unseen_template: int = NO_TEMPLATE
    """Template that subjects answer and that no specification shows; NO_TEMPLATE for none."""

    @property
    def unseen(self) -> Bool[Tensor, " input"]:
        """Inputs that no editor is shown and none trains on: edits are judged on them alone."""
        return self.template == self.unseen_template

    def value(self, table: Int[Tensor, " key"] | None = None) -> Int[Tensor, " input"]:
        """Index into `answers` of each input's answer, also under another table."""
        table = self.table if table is None else table
        first = table[self.key]
        hop = self.second != ONE_HOP
        return torch.where(hop, table[(self.second + first) * hop], first)

    def answer(self, table: Int[Tensor, " key"] | None = None) -> Int[Tensor, " input"]:
        """Token that is right for each input."""
        return self.answers[self.value(table)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(ABC):
    """Draws domains of one kind. Concrete families are frozen dataclasses, listed in `data_gen.domains`."""

    family: ClassVar[str]
    structured: ClassVar[bool] = False
    """Whether answers have an order that subjects can learn, and a part of the domain is held out of
    training to see whether they did."""

    @abstractmethod
    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        """A domain whose symbols come from `generator` and whose private truth, if any, from `truth`."""


def symbols(generator: torch.Generator, n: int) -> Int[Tensor, " symbol"]:
    """`n` different symbols."""
    return FIRST_SYMBOL + torch.randperm(N_SYMBOLS, generator=generator)[:n]


def domain(
    *,
    body: Int[Tensor, "input place"],
    answers: Int[Tensor, " answer"],
    table: Int[Tensor, " key"],
    key: Int[Tensor, " input"],
    group: Int[Tensor, " input"],
    template: Int[Tensor, " input"] | None = None,
    second: Int[Tensor, " input"] | None = None,
    level: Int[Tensor, " input"] | None = None,
) -> Domain:
    """A domain whose prompts are BOS, the body and QUERY; what is left out is 0, or ONE_HOP."""
    n = len(body)
    zero = torch.zeros(n, dtype=torch.long)
    tokens = torch.cat([torch.full((n, 1), BOS), body, torch.full((n, 1), QUERY)], dim=1)
    return Domain(
        tokens=tokens,
        answers=answers,
        table=table,
        key=key,
        group=group,
        template=zero if template is None else template,
        second=zero + ONE_HOP if second is None else second,
        level=zero if level is None else level,
        opener=zero,
    )


def joined(parts: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Columns of several parts of a domain, one behind the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
