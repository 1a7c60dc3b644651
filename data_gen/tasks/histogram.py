"""Histogram: how often has this symbol occurred so far? Grows duplicate-token heads.

A prompt is `[BOS, marker, x, x, ...]` over a few symbols, which are others in every prompt; after each the
number of its occurrences so far, capped, is asked for. What a head attends to the query's own symbol, rather
than to BOS, tells the count.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, pick, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(RuleTask):
    """Counts of the current symbol."""

    family = "histogram"
    marker = FIRST_MARKER + 9
    mechanism = "duplicate token: heads attend to earlier occurrences of the current symbol"
    algorithms = solved_by(
        relation="token->same.qk same->output",
        inventory="token->all.v all->count position->count token->count count->output",
    )
    corruptions = described(
        current="The symbol that is counted becomes another one, with another count.",
        earlier="An earlier symbol becomes an occurrence of the counted one, or stops being one.",
    )
    battery = described(
        once="The first occurrence.",
        twice="The second.",
        more="The third or a later one.",
    )
    variants = ("base", "seen", "many")

    n_symbols: int = 24
    n_in_prompt: int = 4
    cap: int = 4
    """Counts from here on are one answer; the answers follow the symbols."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Histogram":
        return {"base": cls(), "seen": cls(cap=2), "many": cls(n_in_prompt=6, cap=3)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        symbols = FIRST_SYMBOL + distinct(generator, n, self.n_symbols, self.n_in_prompt)
        chosen = uniform(generator, 0, self.n_in_prompt - 1, (n, self.length - HEADER))
        return self.prompt(symbols.gather(1, chosen))

    def _counts(self, tokens: Tokens) -> Tokens:
        return (tokens[:, :, None] == tokens[:, None, :]).tril().sum(2)

    def targets(self, tokens: Tokens) -> Tokens:
        answers = FIRST_SYMBOL + self.n_symbols - 1 + self._counts(tokens).clamp(max=self.cap)
        return torch.where(tokens >= FIRST_SYMBOL, answers, UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return self._counts(tokens).clamp(max=3) - 1

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        place = torch.arange(self.n_pos, device=tokens.device)
        current = at_position(tokens, position)
        at = pick(generator, (place >= HEADER) & (place < position[:, None]))
        old = at_position(tokens, at)
        if name == "current":
            new = FIRST_SYMBOL + uniform(generator, 0, self.n_symbols - 1, at.shape)
            return put(tokens, position, torch.where(at % 2 == 0, old, new))
        other = at_position(tokens, pick(generator, (tokens >= FIRST_SYMBOL) & (tokens != current[:, None])))
        return put(tokens, at, torch.where(old == current, other, current))
