"""Agreement: a verb's ending is that of its subject's class. Grows heads that attend by kind and order.

A prompt is `[BOS, marker, clause, clause, ...]`, cut at a fixed length. A clause is its subject, a noun, and
up to two attractors, each a preposition and a noun, before or behind it; then a verb, after which the ending
of the subject's class is asked for. Which noun is of which class is private.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, SEP, UNSUPERVISED
from data_gen.tasks.drawing import among, at_position, distinct, fill, latest, layouts, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

CLAUSES = ("nv", "npnv", "pnnv", "npnpnv", "pnnpnv")
"""One letter a token: noun, preposition, verb."""
N_VERBS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement(RuleTask):
    """Endings of verbs. Symbols: nouns, verbs, endings; the preposition is SEP."""

    family = "agreement"
    marker = FIRST_MARKER + 11
    mechanism = "previous token marks attractors, and a head finds the last noun that is none"
    algorithms = solved_by(
        head_noun="position->previous.qk token->previous.v previous->subject.k token->subject.kv"
        " position->subject.k subject->ending ending->output"
    )
    corruptions = described(
        subject="The subject becomes a noun of another class.",
        preposition="Subject and preposition change places, so that the attractor becomes the subject.",
    )
    battery = described(near="The subject stands before the verb.", far="An attractor stands between.")
    variants = ("base", "two_classes", "many_nouns")

    classes: tuple[int, ...]
    """Class of each noun, counted from 0."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Agreement":
        """The classes of the nouns are drawn from `seed`; each class has equally many."""
        n_nouns, n_classes = {"base": (12, 3), "two_classes": (16, 2), "many_nouns": (24, 4)}[variant]
        order = distinct(torch.Generator().manual_seed(seed), 1, n_nouns, n_nouns)[0]
        return cls(classes=tuple((order % n_classes).tolist()))

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        layout, first_verb = layouts(generator, n, CLAUSES, self.length - HEADER), len(self.classes)
        nouns = FIRST_SYMBOL + uniform(generator, 0, first_verb - 1, layout.shape)
        verbs = FIRST_SYMBOL + uniform(generator, first_verb, first_verb + N_VERBS - 1, layout.shape)
        return self.prompt(fill(layout, {"n": nouns, "v": verbs, "p": torch.full_like(layout, SEP)}))

    def _subject(self, tokens: Tokens) -> Tokens:
        """Where the last noun without a preposition before it stands; 0 before there is one."""
        noun = among(tokens, FIRST_SYMBOL, len(self.classes))
        return latest(noun & (tokens.roll(1, dims=1) != SEP)).clamp(min=0)

    def targets(self, tokens: Tokens) -> Tokens:
        noun = (tokens.gather(1, self._subject(tokens)) - FIRST_SYMBOL).clamp(min=0)
        ending = torch.tensor(self.classes, device=tokens.device)[noun]
        verb = tokens >= FIRST_SYMBOL + len(self.classes)
        return torch.where(verb, FIRST_SYMBOL + len(self.classes) + N_VERBS + ending, UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        place = torch.arange(self.n_pos, device=tokens.device)
        return (self._subject(tokens) < place - 1).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        at = at_position(self._subject(tokens), position)
        old, after = at_position(tokens, at), at_position(tokens, at + 1)
        if name == "subject":
            return put(tokens, at, FIRST_SYMBOL + uniform(generator, 0, len(self.classes) - 1, at.shape))
        swapped = put(put(tokens, at, after), at + 1, old)
        return torch.where((after == SEP)[:, None], swapped, tokens)
