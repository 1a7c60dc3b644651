"""Sorting: the symbols of a list in order. Grows heads that move a token of the list into the output.

A prompt is `[BOS, marker, x_1 .. x_k, SEP, y_1 .. y_(k-1)]` with y the sorted list; after SEP and after each
y the next output is asked for. Some lists hold a value several times, and then it is put out as often.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import BOS, FIRST_MARKER, FIRST_SYMBOL, N_SYMBOLS, SEP, UNSUPERVISED, Batch, Task
from data_gen.tasks.statements import Algorithm, solved_by
from metamodel.circuits.prompts import Prompts

HEADER = 2
"""Tokens before the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What distinguishes the variants."""

    length: int
    """k, symbols of a list."""
    n_values: int
    """Symbols that lists are drawn from."""
    repeats: float = 0.5
    """Share of lists in which values may be repeated."""
    descending: bool = False
    """Largest first."""
    first_symbol: int = FIRST_SYMBOL
    """Token of the smallest value."""

    def __post_init__(self):
        assert 2 <= self.length <= self.n_values
        assert self.first_symbol >= FIRST_SYMBOL
        assert self.first_symbol + self.n_values <= FIRST_SYMBOL + N_SYMBOLS


VARIANTS = {
    "base": Parameters(length=6, n_values=16),
    "short": Parameters(length=4, n_values=20, first_symbol=FIRST_SYMBOL + 24),
    "descending": Parameters(length=6, n_values=16, descending=True),
    "repeats": Parameters(length=6, n_values=12, repeats=1.0, first_symbol=FIRST_SYMBOL + 32),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting(Task):
    """Sorting of lists of one length."""

    family: ClassVar[str] = "sorting"
    marker: ClassVar[int] = FIRST_MARKER + 5
    threshold: ClassVar[float] = 0.9
    mechanism: ClassVar[str] = (
        "Moving: heads attend from an output to the values that may come next and copy them (copying, name"
        " mover); MLPs, where there are any, choose among what several heads bring."
    )
    algorithms: ClassVar[tuple[Algorithm, ...]] = solved_by(successor_mover="token->next.qkv next->output")
    corruptions: ClassVar[Mapping[str, str]] = {
        "value": "A copy of the answer in the list becomes another symbol, where outputs before the answer"
        " stay right and the answer does not.",
    }
    battery: ClassVar[Mapping[str, str]] = {
        "first": "The first output, which follows SEP and no other output.",
        "next": "An output in the middle that differs from the one before.",
        "again": "A value that the list holds several times.",
        "last": "The last output.",
    }
    causal_only: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)
    slice_names: ClassVar[tuple[str, ...]] = ("first", "next", "again", "last")

    parameters: Parameters

    @classmethod
    def make(cls, variant: str, seed: int) -> "Sorting":
        """The task has no private truth: `seed` changes nothing."""
        return cls(parameters=VARIANTS[variant])

    @property
    def successors(self) -> tuple[tuple[int, int], ...]:
        """Each value with the one that comes next in a sorted list."""
        p = self.parameters
        values = range(p.first_symbol, p.first_symbol + p.n_values - 1)
        return tuple((v + 1, v) if p.descending else (v, v + 1) for v in values)

    @property
    def n_pos(self) -> int:
        return HEADER + 2 * self.parameters.length

    @property
    def separator(self) -> int:
        """Position of SEP, after which the smallest value is asked for."""
        return HEADER + self.parameters.length

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        lists = self._lists(generator, n)
        tokens = self._tokens(lists)
        targets = torch.full_like(tokens, UNSUPERVISED)
        targets[:, self.separator :] = self._sorted(lists)
        return Batch(tokens=tokens, targets=targets)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """One symbol of the list is changed such that the outputs before the answer stay right.

        Both prompts hold their own sorted list after the answer, which a causal subject does not see.
        """
        p, device = self.parameters, generator.device
        found_clean, found_corrupt, found_index, n_found = [], [], [], 0
        while n_found < n:
            clean = self._lists(generator, 8 * n)
            rows = torch.arange(len(clean), device=device)
            index = torch.randint(p.length, (len(clean),), generator=generator, device=device)
            # The changed symbol is a copy of the answer: changing any other keeps the answer or the outputs
            # before it only in rare cases.
            old = self._sorted(clean)[rows, index]
            where = (clean == old[:, None]).long().argmax(dim=1)
            corrupt = clean.clone()
            other = torch.randint(p.n_values, (len(clean),), generator=generator, device=device)
            corrupt[rows, where] = p.first_symbol + other
            same = self._sorted(clean) == self._sorted(corrupt)
            before = torch.arange(p.length, device=device)[None] < index[:, None]
            good = (same | ~before).all(dim=1) & ~same[rows, index]
            found_clean.append(clean[good])
            found_corrupt.append(corrupt[good])
            found_index.append(index[good])
            n_found += int(good.sum())
        clean, corrupt, index = (torch.cat(x)[:n] for x in (found_clean, found_corrupt, found_index))
        tokens, position = self._tokens(clean), self.separator + index
        answer = self.answer(tokens, position)
        previous = tokens.gather(1, position[:, None])[:, 0]
        part = torch.where(answer == previous, 2, torch.where(index == p.length - 1, 3, 1))
        return Prompts(
            clean=tokens,
            corrupt=self._tokens(corrupt),
            position=position,
            answer=answer,
            corrupt_answer=self.answer(self._tokens(corrupt), position),
            slice=torch.where(index == 0, 0, part),
            slice_names=self.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        ordered = self._sorted(tokens[:, HEADER : self.separator])
        return ordered.gather(1, (position - self.separator)[:, None])[:, 0]

    def _lists(self, generator: torch.Generator, n: int) -> Int[Tensor, "batch place"]:
        p, device = self.parameters, generator.device
        distinct = torch.rand(n, p.n_values, generator=generator, device=device).argsort(dim=1)[:, : p.length]
        free = torch.randint(p.n_values, (n, p.length), generator=generator, device=device)
        repeats = torch.rand(n, 1, generator=generator, device=device) < p.repeats
        return p.first_symbol + torch.where(repeats, free, distinct)

    def _sorted(self, lists: Int[Tensor, "batch place"]) -> Int[Tensor, "batch place"]:
        return lists.sort(dim=1, descending=self.parameters.descending).values

    def _tokens(self, lists: Int[Tensor, "batch place"]) -> Int[Tensor, "batch pos"]:
        n, device = len(lists), lists.device
        header = torch.tensor([BOS, self.marker], device=device).expand(n, HEADER)
        separator = torch.full((n, 1), SEP, device=device)
        return torch.cat([header, lists, separator, self._sorted(lists)[:, :-1]], dim=1)
