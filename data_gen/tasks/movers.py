"""Movers: which verb stood with this noun, and which adjective? Grows heads that match a noun, then move.

A prompt is `[BOS, marker, units and a filler, question, noun, noun, ...]`. A unit is a noun with the
verb behind it or the adjective before it. The question is SEP for verbs or QUERY for adjectives; after each
noun behind it its verb or adjective is asked for. Within units, verbs and nouns ask for the word before.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, QUERY, SEP, UNSUPERVISED
from data_gen.tasks.drawing import among, at_position, distinct, fill, latest, layouts, pick, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

N_WORDS = 14
"""Adjectives, nouns and verbs, each; four fillers follow them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movers(RuleTask):
    """Words of nouns."""

    family = "movers"
    marker = D_VOCAB - 1
    mechanism = "previous token; then duplicate token that moves what it brought, or, for verbs, induction"
    algorithms = solved_by(
        adjective="position->previous.qk token->previous.v token->noun.qk previous->noun.v noun->output",
        verb="position->previous.qk token->previous.v token->after.qv previous->after.k after->output",
    )
    corruptions = described(
        word="The word that is asked for becomes another one.",
        noun="The noun that asks becomes another one of the prompt, which has another word.",
    )
    battery = described(beside="The word before, in its unit.", behind="Behind the question.")
    variants = ("base", "adjectives")

    unit: str = "nv"
    n_units: int = 3

    @classmethod
    def make(cls, variant: str, seed: int) -> "Movers":
        return {"base": cls(), "adjectives": cls(unit="an", n_units=4)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        k, n_asked = self.n_units, 12 - self.n_units * len(self.unit)
        templates = [self.unit * i + "f" + self.unit * (k - i) + "?" + "m" * n_asked for i in range(k + 1)]
        layout = layouts(generator, n, templates, self.length - HEADER)
        a, b, v = (FIRST_SYMBOL + i * N_WORDS + distinct(generator, n, N_WORDS, k) for i in range(3))
        fillers = FIRST_SYMBOL + 3 * N_WORDS + uniform(generator, 0, 3, (n, 1))
        asked = b.gather(1, distinct(generator, n, n_asked, n_asked) % k)
        question = torch.full_like(fillers, QUERY if self.unit == "an" else SEP)
        return self.prompt(fill(layout, {"a": a, "n": b, "v": v, "f": fillers, "?": question, "m": asked}))

    def _source(self, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """Where each answer stands, and the slice of the question; -1 where nothing is asked."""
        kind, place = (tokens - FIRST_SYMBOL) // N_WORDS, torch.arange(self.n_pos, device=tokens.device)
        beside = among(kind, 1, 2) & (kind.roll(1, dims=1) == kind - 1)
        question = latest((tokens == QUERY) | (tokens == SEP))[:, :, None]
        same = (tokens[:, :, None] == tokens[:, None, :]) & (place < question)
        step = torch.where((tokens == SEP).any(1, keepdim=True), 1, -1)
        source = torch.where(beside, place - 1, (same.long().argmax(2) + step).clamp(min=0))
        return source, torch.where(beside, 0, torch.where(same.any(2), 1, -1))

    def targets(self, tokens: Tokens) -> Tokens:
        source, kind = self._source(tokens)
        return torch.where(kind >= 0, tokens.gather(1, source), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return self._source(tokens)[1]

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        if name == "noun":
            return put(tokens, position, at_position(tokens, pick(generator, self.slices(tokens) == 1)))
        at = at_position(self._source(tokens)[0], position)
        first = (at_position(tokens, at) - FIRST_SYMBOL) // N_WORDS * N_WORDS + FIRST_SYMBOL
        return put(tokens, at, first + uniform(generator, 0, N_WORDS - 1, at.shape))
