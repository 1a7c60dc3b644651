"""Copying a list, or putting it out backwards. Grows heads that attend to the list and copy.

A prompt is `[BOS, marker, PAD.., x_1..x_k, SEP, y_1..y_(k-1), PAD..]` with y the list of distinct symbols, or
the list backwards; after SEP and after each y the next output is asked for. Length and start differ from
prompt to prompt.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, N_SYMBOLS, PAD, SEP, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, put, uniform
from data_gen.tasks.rule import HEADER, Mask, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

SHORTEST, LONGEST = 3, 6
"""Lengths of lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying(RuleTask):
    """Lists, forwards or backwards."""

    family = "copying"
    marker = FIRST_MARKER + 7
    mechanism = "name mover, copying: heads, mostly of the first layer, copy the next symbol; no induction"
    algorithms = solved_by(
        forwards="position->previous.qk token->previous.v previous->match.k token->match.qv match->output",
        backwards="position->previous.qk token->previous.v previous->match.v token->match.qk match->output",
    )
    corruptions = described(
        symbol="The symbol of the list that is asked for becomes another one.",
        alphabet="Every symbol, of list and outputs, becomes another one: the same number of symbols on.",
    )
    battery = described(first="The first output.", later="Those after an output.")
    causal_only = True
    variants = ("base", "reverse", "few_symbols")

    backwards: bool = False
    n_symbols: int = N_SYMBOLS

    @classmethod
    def make(cls, variant: str, seed: int) -> "Copying":
        return {"base": cls(), "reverse": cls(backwards=True), "few_symbols": cls(n_symbols=16)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        n_places, k = self.length - HEADER, uniform(generator, SHORTEST, LONGEST, (n, 1))
        start = (torch.rand(n, 1, generator=generator, device=k.device) * (n_places - 2 * k + 1)).long()
        at = torch.arange(n_places, device=k.device) - start
        source = torch.where(at < k, at, 2 * k - at if self.backwards else at - k - 1).clamp(0, LONGEST)
        symbols = FIRST_SYMBOL + distinct(generator, n, self.n_symbols, LONGEST + 1)
        body = torch.where((at >= 0) & (at < 2 * k), symbols.gather(1, source), PAD)
        return self.prompt(torch.where(at == k, SEP, body))

    def _read(self, tokens: Tokens) -> tuple[Tokens, Tokens, Mask]:
        """At each position the number of the output it asks for, where that stands, whether it asks."""
        place = torch.arange(self.n_pos, device=tokens.device)
        end = (tokens == SEP).long().argmax(1, keepdim=True)
        start = ((tokens != PAD) & (place >= HEADER)).long().argmax(1, keepdim=True)
        number, asks = place - end, (place >= end) & (place < 2 * end - start)
        return number, (end - 1 - number if self.backwards else start + number).clamp(0, self.n_pos - 1), asks

    def targets(self, tokens: Tokens) -> Tokens:
        _, source, asks = self._read(tokens)
        return torch.where(asks, tokens.gather(1, source), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return (self._read(tokens)[0] > 0).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        step = uniform(generator, 1, self.n_symbols - 1, (len(tokens), 1))
        moved = FIRST_SYMBOL + (tokens - FIRST_SYMBOL + step) % self.n_symbols
        moved = torch.where(tokens < FIRST_SYMBOL, tokens, moved)
        if name == "alphabet":
            return moved
        at = at_position(self._read(tokens)[1], position)
        return put(tokens, at, at_position(moved, at))
