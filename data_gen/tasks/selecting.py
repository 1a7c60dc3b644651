"""Selecting: the most frequent, first or last letter so far. Grows heads that attend by kind and copy.

A prompt is `[BOS, marker, letter or filler or SEP, ...]` with a few of many letters. After each token, one of
the letters since the last SEP is asked for, unless there is none or two are equally frequent.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, SEP, UNSUPERVISED
from data_gen.tasks.drawing import among, at_position, distinct, exchange, pick, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

N_LETTERS, N_FILLERS = 16, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Selecting(RuleTask):
    """One of the letters since the last SEP."""

    family = "selecting"
    marker = FIRST_MARKER + 8
    mechanism = "name mover, copying: heads attend to letters, evenly or by place, and copy them"
    algorithms = solved_by(
        evenly="token->segment.k segment->letters.k token->letters.kv letters->output",
        by_place="token->segment.k segment->one.k position->one.k token->one.kv one->output",
    )
    corruptions = described(
        letter="One letter since the last SEP becomes another one of them.",
        exchange="Two letters change places, the selected one among them, wherever they stand.",
    )
    battery = described(few="One to three letters since SEP.", many="Four or more.")
    variants = ("base", "first", "last")

    which: str = "most_frequent"
    n_in_prompt: int = 3

    @classmethod
    def make(cls, variant: str, seed: int) -> "Selecting":
        return cls() if variant == "base" else cls(which=variant, n_in_prompt=6)

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        shape = (n, self.length - HEADER)
        chosen = uniform(generator, 0, self.n_in_prompt - 1, shape)
        body = distinct(generator, n, N_LETTERS, self.n_in_prompt).gather(1, chosen)
        fillers = N_LETTERS + uniform(generator, 0, N_FILLERS - 1, shape)
        kind = torch.rand(shape, generator=generator, device=body.device)
        body = FIRST_SYMBOL + torch.where(kind < 0.3, fillers, body)
        return self.prompt(torch.where(kind > 0.92, SEP, body))

    def _usable(self, tokens: Tokens) -> Bool[Tensor, "batch query key"]:
        """Which tokens are letters since the last SEP, seen from each position."""
        letter = among(tokens, FIRST_SYMBOL, N_LETTERS)
        segment = (tokens == SEP).cumsum(1)
        return ((segment[:, :, None] == segment[:, None, :]) & letter[:, None, :]).tril()

    def targets(self, tokens: Tokens) -> Tokens:
        usable, place = self._usable(tokens), torch.arange(self.n_pos, device=tokens.device)
        same = (tokens[:, :, None] == tokens[:, None, :]).float()
        frequency, first = usable.float() @ same, self.n_pos - place
        score = {"most_frequent": frequency, "first": first, "last": 1 + place}[self.which]
        best, at = (score * usable).max(2)
        answer = tokens.gather(1, at)
        tied = (usable & (score == best[..., None]) & (tokens[:, None, :] != answer[..., None])).any(2)
        return torch.where(usable.any(2) & ~tied, answer, UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return (self._usable(tokens).sum(2) > 3).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        usable = self._usable(tokens)[torch.arange(len(tokens), device=tokens.device), position]
        other = at_position(tokens, pick(generator, usable))
        if name == "letter":
            return put(tokens, pick(generator, usable), other)
        return exchange(tokens, self.answer(tokens, position), other)
