"""Brackets: depth and balance of a prefix, at every position. Grows heads that count by attending evenly.

A prompt is `[BOS, marker, bracket, bracket, ..., QUERY]`. After each bracket its depth is asked for (capped),
or BROKEN once a closing bracket had nothing to close; after QUERY whether the whole is balanced. With two
kinds of brackets each kind has a depth of its own (`([)]` is balanced), and the depth of the kind that was
just read is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.tasks.base import BOS, FIRST_MARKER, FIRST_SYMBOL, N_SYMBOLS, QUERY, UNSUPERVISED, Batch, Task
from data_gen.tasks.statements import Algorithm, solved_by
from metamodel.circuits.prompts import Prompts

HEADER = 2
"""Tokens before the first bracket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What distinguishes the variants."""

    length: int
    """Brackets of a prompt, even."""
    kinds: int = 1
    """Kinds of brackets."""
    cap: int = 4
    """Depths from here on are one class."""
    first_symbol: int = FIRST_SYMBOL
    """Token of the first opening bracket."""

    def __post_init__(self):
        assert self.length % 2 == 0
        assert self.first_symbol >= FIRST_SYMBOL
        assert self.first_symbol + 2 * self.kinds + self.cap + 4 <= FIRST_SYMBOL + N_SYMBOLS


VARIANTS = {
    "base": Parameters(length=12),
    "short": Parameters(length=8, cap=3, first_symbol=FIRST_SYMBOL + 16),
    "two_kinds": Parameters(length=6, kinds=2, cap=2, first_symbol=FIRST_SYMBOL + 32),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Brackets(Task):
    """Depth and balance of bracket strings of one length.

    Symbols: opening and closing bracket of each kind, then depths 0 .. cap, BROKEN, balanced, not balanced.
    """

    family: ClassVar[str] = "brackets"
    marker: ClassVar[int] = FIRST_MARKER + 4
    threshold: ClassVar[float] = 0.9
    mechanism: ClassVar[str] = (
        "Counting: first-layer heads bring the brackets so far, and MLPs turn them into a class; where there"
        " are none, second-layer heads do."
    )
    algorithms: ClassVar[tuple[Algorithm, ...]] = solved_by(
        counting="token->count.v position->length count->depth length->depth depth->broken.v depth->output"
        " broken->output"
    )
    corruptions: ClassVar[Mapping[str, str]] = {
        "turned": "One bracket at or before the answer is turned, which changes what is asked for.",
    }
    battery: ClassVar[Mapping[str, str]] = {
        "depth": "How many brackets are open.",
        "broken": "A bracket was closed that was not open.",
        "balanced": "The whole string is balanced.",
        "not_balanced": "The whole string is not balanced.",
    }
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)
    slice_names: ClassVar[tuple[str, ...]] = ("depth", "broken", "balanced", "not_balanced")

    parameters: Parameters

    @classmethod
    def make(cls, variant: str, seed: int) -> "Brackets":
        """The task has no private truth: `seed` changes nothing."""
        return cls(parameters=VARIANTS[variant])

    @property
    def n_pos(self) -> int:
        return HEADER + self.parameters.length + 1

    @property
    def first_depth(self) -> int:
        """Token of depth 0."""
        return self.parameters.first_symbol + 2 * self.parameters.kinds

    @property
    def broken(self) -> int:
        """Token of a prefix that closes what was not open."""
        return self.first_depth + self.parameters.cap + 1

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        tokens = self._tokens(self._brackets(generator, n))
        targets = torch.full_like(tokens, UNSUPERVISED)
        targets[:, HEADER:] = self._answers(tokens)
        return Batch(tokens=tokens, targets=targets)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """One bracket at or before the answer is turned, such that the answer changes."""
        p, device = self.parameters, generator.device
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        while sum(len(position) for *_, position in found) < n:
            clean = self._tokens(self._brackets(generator, 4 * n))
            rows = torch.arange(len(clean), device=device)
            place = torch.rand(len(clean), generator=generator, device=device)
            # A third of the questions are about balance, as they are one position of many.
            place = (place * 1.5 * (p.length - 1)).long().clamp(max=p.length - 1) + 1
            n_before = (place + 1).clamp(max=p.length)
            turned = (torch.rand(len(clean), generator=generator, device=device) * n_before).long()
            corrupt = clean.clone()
            old = clean[rows, HEADER + turned] - p.first_symbol
            corrupt[rows, HEADER + turned] = p.first_symbol + (old ^ 1)
            # Turning a bracket seldom mends a string, so half of the pairs are read the other way round.
            back = torch.rand(len(clean), 1, generator=generator, device=device) < 0.5
            clean, corrupt = torch.where(back, corrupt, clean), torch.where(back, clean, corrupt)
            position = HEADER + place
            good = self.answer(clean, position) != self.answer(corrupt, position)
            found.append((clean[good], corrupt[good], position[good]))
        clean, corrupt, position = (torch.cat(parts)[:n] for parts in zip(*found, strict=True))
        answer = self.answer(clean, position)
        part = torch.where(answer == self.broken, 1, 0)
        part = torch.where(answer > self.broken, 1 + answer - self.broken, part)
        return Prompts(
            clean=clean,
            corrupt=corrupt,
            position=position,
            answer=answer,
            corrupt_answer=self.answer(corrupt, position),
            slice=part,
            slice_names=self.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        return self._answers(tokens).gather(1, (position - HEADER)[:, None])[:, 0]

    def _answers(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch place"]:
        """Answers after each bracket and after QUERY, by walking along the string."""
        p = self.parameters
        brackets = tokens[:, HEADER:-1] - p.first_symbol
        step = 1 - 2 * (brackets % 2)
        kind = torch.arange(p.kinds, device=tokens.device)
        mine = (brackets // 2)[..., None] == kind
        depth = (step[..., None] * mine).cumsum(dim=1)
        broken = (depth < 0).any(dim=2).long().cummax(dim=1).values.bool()
        own = depth.gather(2, (brackets // 2)[..., None])[..., 0]
        after = torch.where(broken, self.broken, self.first_depth + own.clamp(max=p.cap))
        balanced = ~broken[:, -1] & (depth[:, -1] == 0).all(dim=1)
        return torch.cat([after, torch.where(balanced, self.broken + 1, self.broken + 2)[:, None]], dim=1)

    def _brackets(self, generator: torch.Generator, n: int) -> Int[Tensor, "batch place"]:
        """Half balanced; a quarter balanced but for two brackets exchanged, so that counts do not tell; the
        rest random, kinds included, so that a kind is also closed while only another one is open.

        A balanced string is the right rotation of as many opening as closing brackets (cycle lemma).
        """
        p, device = self.parameters, generator.device
        order = torch.rand(n, p.length, generator=generator, device=device).argsort(dim=1)
        even = order % 2
        start = (1 - 2 * even).cumsum(dim=1).argmin(dim=1, keepdim=True) + 1
        even = even.gather(1, (torch.arange(p.length, device=device) + start) % p.length)
        exchanged = self._exchange(generator, even)
        free = torch.randint(2, (n, p.length), generator=generator, device=device)
        part = torch.rand(n, 1, generator=generator, device=device)
        closing = torch.where(part < 0.5, even, torch.where(part < 0.75, exchanged, free))
        return p.first_symbol + 2 * self._kinds(generator, closing, part < 0.75) + closing

    def _exchange(
        self, generator: torch.Generator, closing: Int[Tensor, "batch place"]
    ) -> Int[Tensor, "batch place"]:
        """A random opening and a random closing bracket of each string change places."""
        exchanged = closing.clone()
        for symbol in (0, 1):
            rank = torch.rand(closing.shape, generator=generator, device=closing.device)
            place = (rank + (closing == symbol)).argmax(dim=1, keepdim=True)
            exchanged.scatter_(1, place, 1 - symbol)
        return exchanged

    def _kinds(
        self,
        generator: torch.Generator,
        closing: Int[Tensor, "batch place"],
        matched: Bool[Tensor, "batch 1"],
    ) -> Int[Tensor, "batch place"]:
        """Kinds; those of a matched string close an open kind wherever one is open."""
        kinds = self.parameters.kinds
        rank = torch.rand(*closing.shape, kinds, generator=generator, device=closing.device)
        depth = torch.zeros(len(closing), kinds, dtype=torch.long, device=closing.device)
        chosen = []
        for place in range(closing.shape[1]):
            usable = (closing[:, place, None] == 0) | (depth > 0)
            kind = (rank[:, place] + (usable & matched)).argmax(dim=1, keepdim=True)
            depth.scatter_add_(1, kind, 1 - 2 * closing[:, place, None])
            chosen.append(kind)
        return torch.cat(chosen, dim=1)

    def _tokens(self, brackets: Int[Tensor, "batch place"]) -> Int[Tensor, "batch pos"]:
        n, device = len(brackets), brackets.device
        header = torch.tensor([BOS, self.marker], device=device).expand(n, HEADER)
        query = torch.full((n, 1), QUERY, device=device)
        return torch.cat([header, brackets, query], dim=1)
