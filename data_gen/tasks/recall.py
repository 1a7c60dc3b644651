"""Recall: which value was bound to this key last? Grows induction heads, of keys and values.

A prompt is `[BOS, marker, unit, unit, ...]`, a unit a binding `key value` or a question `QUERY key`. After a
question the value that the key was bound to last is asked for, if there is one; after a binding its key is,
without which the previous-token head grows too late.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, QUERY, UNSUPERVISED
from data_gen.tasks.drawing import among, at_position, distinct, pick, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(RuleTask):
    """Values by keys."""

    family = "recall"
    marker = D_VOCAB - 2
    mechanism = "induction: a previous-token head marks values with their keys, and a head matches and copies"
    algorithms = solved_by(
        latest_binding="position->previous.qk token->previous.v previous->match.k token->match.qv"
        " position->match.k match->output"
    )
    corruptions = described(
        value="The value that the key was bound to last becomes another one.",
        key="The key of the question, or of the binding, becomes another one of the prompt.",
    )
    battery = described(once="A key bound once.", again="A key bound several times.", key="A binding's key.")
    variants = ("base", "few_keys", "few_values")

    n_keys: int = 12
    n_values: int = 16

    @classmethod
    def make(cls, variant: str, seed: int) -> "Recall":
        return {"base": cls(), "few_keys": cls(n_keys=8), "few_values": cls(n_values=6)}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        shape = (n, (self.length - HEADER) // 2)
        keys = FIRST_SYMBOL + distinct(generator, n, self.n_keys, 3)
        chosen = uniform(generator, 0, 3 - 1, shape)
        chosen[:, 0], chosen[:, 1], chosen[:, -1] = 0, 1, chosen[:, -1] % 2
        asks = torch.rand(shape, generator=generator, device=keys.device) < 0.5
        asks[:, :2], asks[:, -1] = False, True
        key = keys.gather(1, chosen)
        value = FIRST_SYMBOL + self.n_keys + uniform(generator, 0, self.n_values - 1, shape)
        units = torch.stack([torch.where(asks, QUERY, key), torch.where(asks, key, value)], dim=2)
        return self.prompt(units.flatten(1))

    def _source(self, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """Where each answer stands, and the slice of the question; -1 where nothing is asked."""
        key = among(tokens, FIRST_SYMBOL, self.n_keys)
        asks = key & (tokens.roll(1, dims=1) == QUERY)
        binds = key & ~asks
        place = torch.arange(self.n_pos, device=tokens.device)
        same = ((tokens[:, :, None] == tokens[:, None, :]) & asks[:, :, None] & binds[:, None, :]).tril()
        value = binds.roll(1, dims=1) & (place > HEADER)
        source = torch.where(value, place - 1, (same * (place + 1)).amax(2).clamp(max=self.n_pos - 1))
        return source, torch.where(asks, same.sum(2).clamp(max=2), torch.where(value, 3, 0)) - 1

    def targets(self, tokens: Tokens) -> Tokens:
        source, kind = self._source(tokens)
        return torch.where(kind >= 0, tokens.gather(1, source), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return self._source(tokens)[1]

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        if name == "key":
            at = torch.where(at_position(self.slices(tokens), position) == 2, position - 1, position)
            key = among(tokens, FIRST_SYMBOL, self.n_keys)
            return put(tokens, at, at_position(tokens, pick(generator, key)))
        other = FIRST_SYMBOL + self.n_keys + uniform(generator, 0, self.n_values - 1, position.shape)
        return put(tokens, at_position(self._source(tokens)[0], position), other)
