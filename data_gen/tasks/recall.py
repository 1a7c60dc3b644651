"""Recall: which value was bound to this key last? Grows induction heads, of keys and values.

A prompt is `[BOS, marker, unit, unit, ...]`. A unit is a binding `key value` or a question `QUERY key`, after
which the value that the key was bound to last is asked for; it is not put out. Where the key was not bound
yet nothing is asked. The order of bindings and questions is random.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, QUERY, UNSUPERVISED
from data_gen.tasks.drawing import at_position, distinct, pick, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(RuleTask):
    """Values by keys, in context."""

    family = "recall"
    marker = D_VOCAB - 2
    threshold = 0.9
    mechanism = "induction: a previous-token head marks values with their keys, and a head matches and copies"
    algorithms = solved_by(
        latest_binding="position->previous.qk token->previous.v previous->match.k token->match.qv"
        " position->match.k match->output"
    )
    corruptions = described(
        value="The value that the key was bound to last becomes another one.",
        key="The key that is asked about becomes another one of the prompt, with another value.",
    )
    battery = described(once="The key was bound once.", again="It was bound to several values in turn.")
    variants = ("base", "many_keys", "few_values")

    n_keys: int = 12
    n_values: int = 16
    n_in_prompt: int = 3
    """Keys of a prompt."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Recall":
        """The rule is the same for every subject, so `seed` draws nothing."""
        return {"base": cls(), "many_keys": cls(n_keys=20, n_in_prompt=4), "few_values": cls(n_values=6)}[
            variant
        ]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        shape = (n, (self.length - HEADER) // 2)
        keys = FIRST_SYMBOL + distinct(generator, n, self.n_keys, self.n_in_prompt)
        chosen = uniform(generator, 0, self.n_in_prompt - 1, shape)
        chosen[:, 0], chosen[:, 1], chosen[:, -1] = 0, 1, chosen[:, -1] % 2
        asks = torch.rand(shape, generator=generator, device=keys.device) < 0.5
        asks[:, :2], asks[:, -1] = False, True
        key = keys.gather(1, chosen)
        value = FIRST_SYMBOL + self.n_keys + uniform(generator, 0, self.n_values - 1, shape)
        units = torch.stack([torch.where(asks, QUERY, key), torch.where(asks, key, value)], dim=2)
        return self.prompt(units.flatten(1))

    def _bound(self, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """Where the value of the key that is asked about stands, and how often the key was bound."""
        key = (tokens >= FIRST_SYMBOL) & (tokens < FIRST_SYMBOL + self.n_keys)
        question = key & (tokens.roll(1, dims=1) == QUERY)
        same = ((tokens[:, :, None] == tokens[:, None, :]) & (key & ~question)[:, None, :]).tril()
        same = same & question[:, :, None]
        place = torch.arange(1, self.n_pos + 1, device=tokens.device)
        return (same * place).amax(2).clamp(max=self.n_pos - 1), same.sum(2)

    def targets(self, tokens: Tokens) -> Tokens:
        place, times = self._bound(tokens)
        return torch.where(times > 0, tokens.gather(1, place), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return (self._bound(tokens)[1] > 1).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        if name == "key":
            key = (tokens >= FIRST_SYMBOL) & (tokens < FIRST_SYMBOL + self.n_keys)
            return put(tokens, position, at_position(tokens, pick(generator, key)))
        other = FIRST_SYMBOL + self.n_keys + uniform(generator, 0, self.n_values - 1, position.shape)
        return put(tokens, at_position(self._bound(tokens)[0], position), other)
