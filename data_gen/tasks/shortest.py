"""The shorter of two lists: its first symbol is asked for. Grows heads that count and that move one token.

A prompt is `[BOS, marker, PAD.., x_1..x_a, SEP, y_1, y_2, ...]`. After each y, the first symbol of the list
that is shorter so far is asked for: y_1, then nothing where they are equally long, then x_1. Start and length
of the first list differ from prompt to prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, PAD, SEP, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

Ends = Int[Tensor, "batch 1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortest(RuleTask):
    """First symbols of the shorter, or the longer, of two lists."""

    family = "shortest"
    marker = D_VOCAB - 4
    mechanism = "counting, then a name mover: heads compare lengths, and one moves a list's first symbol"
    algorithms = solved_by(
        compare="token->separator.k position->separator.v token->start.k position->start.v separator->lengths"
        " start->lengths position->lengths lengths->first.q position->first.k token->first.kv first->output"
    )
    corruptions = described(
        symbol="The first symbol of the list that is asked about becomes another one.",
        separator="SEP changes places with another token, such that the other list is shorter.",
    )
    battery = described(second="The second list is the answer.", first="The first list is.")
    variants = ("base", "longest", "few_symbols")

    longest: bool = False
    n_symbols: int = 40

    @classmethod
    def make(cls, variant: str, seed: int) -> "Shortest":
        return {"base": cls(), "longest": cls(longest=True), "few_symbols": cls(n_symbols=16)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        start, n_first = uniform(generator, 0, 2, (n, 1)), uniform(generator, 2, 6, (n, 1))
        at = torch.arange(self.length - HEADER, device=start.device) - start
        body = FIRST_SYMBOL + distinct(generator, n, self.n_symbols, at.shape[1])
        body = torch.where(at == n_first, SEP, body)
        return self.prompt(torch.where(at < 0, PAD, body))

    def _read(self, tokens: Tokens) -> tuple[Ends, Ends, Tokens]:
        """Where the first list begins and ends, and at each position how much longer the second is."""
        place = torch.arange(self.n_pos, device=tokens.device)
        start = ((tokens != PAD) & (place >= HEADER)).long().argmax(1, keepdim=True)
        end = (tokens == SEP).long().argmax(1, keepdim=True)
        return start, end, (place - end) - (end - start)

    def targets(self, tokens: Tokens) -> Tokens:
        start, end, longer = self._read(tokens)
        asked = (longer != 0) & (longer > start - end) & (end > 0)
        at = torch.where(self.slices(tokens) == 0, end + 1, start).clamp(max=self.n_pos - 1)
        return torch.where(asked, tokens.gather(1, at), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return ((self._read(tokens)[2] > 0) != self.longest).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        start, end, _ = (x[:, 0] for x in self._read(tokens))
        if name == "symbol":
            at = torch.where(at_position(self.slices(tokens), position) == 0, end + 1, start)
            return put(tokens, at, FIRST_SYMBOL + uniform(generator, 0, self.n_symbols - 1, at.shape))
        share = torch.rand(len(tokens), generator=generator, device=tokens.device)
        at = start + 1 + (share * (position - start - 1)).long()
        return put(put(tokens, end, at_position(tokens, at)), at, torch.full_like(at, SEP))
