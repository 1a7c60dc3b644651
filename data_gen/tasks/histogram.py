"""Histogram: how often has this symbol occurred so far? Grows duplicate-token heads.

A prompt is `[BOS, marker, x, x, ...]` over a few symbols, which are others in every prompt; after each the
number of its occurrences so far, capped, is asked for. A head that attends to the query's own symbol, with BOS
as a reference, shows the count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, pick, put, uniform
from data_gen.tasks.rule import HEADER, RuleTask
from data_gen.tasks.statements import Algorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(RuleTask):
    """Counts of the current symbol."""

    family: ClassVar[str] = "histogram"
    marker: ClassVar[int] = FIRST_MARKER + 9
    threshold: ClassVar[float] = 0.9
    mechanism: ClassVar[str] = "duplicate token: heads attend to earlier occurrences of the current symbol"
    algorithms: ClassVar[tuple[Algorithm, ...]] = (
        Algorithm.read("relation", "token->same.q token->same.k same->output"),
        Algorithm.read("inventory", "token->all.v all->count position->count token->count count->output"),
    )
    corruptions: ClassVar[Mapping[str, str]] = {
        "current": "The symbol that is counted becomes another one of the prompt, with another count.",
        "earlier": "An earlier symbol becomes an occurrence of the counted one, or stops being one.",
    }
    battery: ClassVar[Mapping[str, str]] = {
        "once": "The first occurrence.",
        "twice": "The second.",
        "more": "The third or a later one.",
    }
    variants: ClassVar[tuple[str, ...]] = ("base", "seen", "many")

    n_symbols: int = 24
    n_in_prompt: int = 4
    cap: int = 4
    """Counts from here on are one answer; the answers follow the symbols."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Histogram":
        """The rule is the same for every subject, so `seed` draws nothing."""
        return {"base": cls(), "seen": cls(cap=2), "many": cls(n_in_prompt=6, cap=3)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Int[Tensor, "batch pos"]:
        symbols = FIRST_SYMBOL + distinct(generator, n, self.n_symbols, self.n_in_prompt)
        chosen = uniform(generator, 0, self.n_in_prompt - 1, (n, self.length - HEADER))
        return self.prompt(symbols.gather(1, chosen))

    def _counts(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        return (tokens[:, :, None] == tokens[:, None, :]).tril().sum(2)

    def targets(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        answers = FIRST_SYMBOL + self.n_symbols - 1 + self._counts(tokens).clamp(max=self.cap)
        return torch.where(tokens >= FIRST_SYMBOL, answers, UNSUPERVISED)

    def slices(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        return self._counts(tokens).clamp(max=3) - 1

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tensor, position: Tensor) -> Tensor:
        place = torch.arange(self.n_pos, device=tokens.device)
        current = at_position(tokens, position)
        at = pick(generator, (place >= HEADER) & (place < position[:, None]))
        old = at_position(tokens, at)
        if name == "current":
            return put(tokens, position, old)
        other = at_position(tokens, pick(generator, (tokens >= FIRST_SYMBOL) & (tokens != current[:, None])))
        return put(tokens, at, torch.where(old == current, other, current))
