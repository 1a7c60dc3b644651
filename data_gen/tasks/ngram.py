"""N-gram mixtures: a private bigram table for each context, and exceptions that a pair of symbols sets.

A prompt is `[BOS, marker, context, x, x, ...]` with random symbols. After each symbol its successor is asked
for: of the pair with the symbol before if that is an exception, else of the symbol, in the context's table.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

SIZES = {"base": (12, 2, 24), "contexts": (8, 4, 16), "exceptions": (10, 2, 40)}
"""Symbols, contexts and exceptional pairs of each variant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NGram(RuleTask):
    """Bigrams by context, with trigram exceptions."""

    family = "ngram"
    marker = FIRST_MARKER + 6
    mechanism = "previous token and a context head, whose outputs look a private table up"
    algorithms = solved_by(
        back_off="position->previous.qk token->previous.v token->context.kv previous->trigram token->trigram"
        " context->bigram token->bigram trigram->output bigram->output"
    )
    corruptions = described(
        symbol="The symbol that asks becomes another one, with another successor.",
        previous="The symbol before becomes one that makes, or no longer makes, the pair an exception.",
        context="The context becomes another one, whose table has another successor.",
    )
    battery = described(bigram="No exception.", trigram="An exceptional pair.")
    variants = tuple(SIZES)

    table: Int[Tensor, "context previous symbol"]
    """Successors, counted from 0; the last row is for a symbol without a symbol before it."""
    exceptional: Bool[Tensor, "previous symbol"]

    @classmethod
    def make(cls, variant: str, seed: int) -> "NGram":
        """Tables and exceptions are drawn from `seed`."""
        n, n_contexts, n_exceptions = SIZES[variant]
        generator = torch.Generator().manual_seed(seed)
        exceptional = torch.zeros(n + 1, n, dtype=torch.bool)
        exceptional.view(-1)[distinct(generator, 1, n * n, n_exceptions)[0]] = True
        bigram = uniform(generator, 0, n - 1, (n_contexts, 1, n))
        trigram = uniform(generator, 0, n - 1, (n + 1, n))
        return cls(table=torch.where(exceptional, trigram, bigram), exceptional=exceptional)

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        n_contexts, _, n_symbols = self.table.shape
        context = uniform(generator, n_symbols, n_symbols + n_contexts - 1, (n, 1))
        body = uniform(generator, 0, n_symbols - 1, (n, self.length - HEADER - 1))
        return self.prompt(FIRST_SYMBOL + torch.cat([context, body], dim=1))

    def _read(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Context, symbol before (or that there is none) and symbol at each position; 0 for no symbol."""
        n, here = self.table.shape[2], tokens - FIRST_SYMBOL
        symbol = torch.where((here >= 0) & (here < n), here, n)
        return (here[:, HEADER, None] - n).expand_as(here), symbol.roll(1, dims=1), symbol % n

    def targets(self, tokens: Tokens) -> Tokens:
        targets = FIRST_SYMBOL + self.table.to(tokens.device)[self._read(tokens)]
        targets[:, : HEADER + 1] = UNSUPERVISED
        return targets

    def slices(self, tokens: Tokens) -> Tokens:
        return self.exceptional.to(tokens.device)[self._read(tokens)[1:]].long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        at = {"symbol": position, "previous": position - 1, "context": 0 * position + HEADER}[name]
        changed = put(tokens, at, at_position(self.draw(generator, len(tokens)), at))
        return torch.where((at == HEADER)[:, None] & (name == "previous"), tokens, changed)
