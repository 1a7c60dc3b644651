"""Movers: which adjective stood with this noun, and which verb? Grows heads that match a noun, then move.

A prompt is `[BOS, marker, units and a filler, question, noun, noun, ...]`. A unit is a noun with the
adjective before it, the verb behind it, or both. The question is QUERY for adjectives or SEP for verbs; after
each noun behind it, the noun's adjective or verb is asked for.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, QUERY, SEP, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, fill, latest, layouts, pick, put, uniform
from data_gen.tasks.rule import HEADER, Mask, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

N_WORDS = 14
"""Nouns, adjectives and verbs, each; four fillers follow them among the symbols."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Movers(RuleTask):
    """Adjectives and verbs of nouns."""

    family = "movers"
    marker = D_VOCAB - 1
    threshold = 0.9
    mechanism = (
        "adjectives: previous token, then duplicate token that moves what it brought; verbs: induction"
    )
    algorithms = solved_by(
        adjective="position->previous.qk token->previous.v token->noun.qk previous->noun.v noun->output",
        verb="position->previous.qk token->previous.v token->after.qv previous->after.k after->output",
    )
    corruptions = described(
        word="The word that is asked for becomes another one.",
        noun="The noun that asks becomes another one of the prompt, which has another word.",
    )
    battery = described(early="The word stands at position 6 or before.", late="It stands behind.")
    variants = ("base", "verbs", "both")

    unit: str = "an"
    """One letter a token: adjective, noun, verb."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Movers":
        """The rule is the same for every subject, so `seed` draws nothing. `base` asks for adjectives."""
        return {"base": cls(), "verbs": cls(unit="nv"), "both": cls(unit="anv")}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        k = {2: 4, 3: 3}[len(self.unit)]
        templates = [self.unit * i + "f" + self.unit * (k - i) + "?" + "m" * k for i in range(k + 1)]
        layout = layouts(generator, n, templates, self.length - HEADER)
        a, b, v = (FIRST_SYMBOL + i * N_WORDS + distinct(generator, n, N_WORDS, k) for i in range(3))
        fillers = FIRST_SYMBOL + 3 * N_WORDS + uniform(generator, 0, 3, (n, 1))
        asked = b.gather(1, distinct(generator, n, k, k))
        question = uniform(
            generator, SEP if "v" in self.unit else QUERY, QUERY if "a" in self.unit else SEP, (n, 1)
        )
        return self.prompt(fill(layout, {"a": a, "n": b, "v": v, "f": fillers, "?": question, "m": asked}))

    def _word(self, tokens: Tokens) -> tuple[Tokens, Mask]:
        """Where the word of the noun at each position stands, and whether it is asked for."""
        question = latest((tokens == QUERY) | (tokens == SEP))[:, :, None]
        place = torch.arange(self.n_pos, device=tokens.device)
        same = (tokens[:, :, None] == tokens[:, None, :]) & (place < question)
        verb = (tokens.gather(1, question[..., 0].clamp(min=0)) == SEP).long()
        asked = same.any(2) & (tokens >= FIRST_SYMBOL)
        return (same.long().argmax(2) - 1 + 2 * verb).clamp(min=0), asked

    def targets(self, tokens: Tokens) -> Tokens:
        place, asked = self._word(tokens)
        return torch.where(asked, tokens.gather(1, place), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return (self._word(tokens)[0] > 6).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        if name == "noun":
            asked = self.targets(tokens) != UNSUPERVISED
            return put(tokens, position, at_position(tokens, pick(generator, asked)))
        at = at_position(self._word(tokens)[0], position)
        first = (at_position(tokens, at) - FIRST_SYMBOL) // N_WORDS * N_WORDS + FIRST_SYMBOL
        return put(tokens, at, first + uniform(generator, 0, N_WORDS - 1, at.shape))
