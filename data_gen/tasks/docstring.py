"""Docstrings: the arguments are documented in the order of the definition. Grows movers by order.

A prompt is `[BOS, marker, arguments among fillers, SEP, argument, SEP, argument, ...]`. After each SEP, which
stands for `:param`, the next argument of the definition is asked for. Where the fillers lie is random.
"""

from dataclasses import dataclass
from itertools import combinations

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_SYMBOL, SEP, UNSUPERVISED
from data_gen.tasks.drawing import among, at_position, distinct, exchange, fill, layouts, pick, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

N_ARGUMENTS, N_FILLERS = 32, 8
"""Symbols that are arguments, and after them those that are fillers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Docstring(RuleTask):
    """Arguments in order."""

    family = "docstring"
    marker = D_VOCAB - 5
    mechanism = "name mover: a head attends to the argument behind the last documented one and copies it"
    algorithms = solved_by(
        next_argument="position->documented.qk token->documented.v token->before.kv position->before.k"
        " documented->next.q before->next.k token->next.kv next->output",
        number="token->number.v number->next.q token->order.kv order->next.k token->next.kv next->output",
    )
    corruptions = described(
        argument="The argument that comes next becomes another one in the definition.",
        exchange="It changes places with another argument, wherever the two stand.",
    )
    battery = described(first="The first argument.", later="Those after a documented one.")
    causal_only = True
    variants = ("base", "one_filler", "three")

    n_arguments: int = 4
    n_fillers: int = 2

    @classmethod
    def make(cls, variant: str, seed: int) -> "Docstring":
        three = cls(n_arguments=3, n_fillers=5)
        return {"base": cls(), "one_filler": cls(n_fillers=1), "three": three}[variant]

    @property
    def n_pos(self) -> int:
        return HEADER + 3 * self.n_arguments + self.n_fillers

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        k, n_places = self.n_arguments, self.n_arguments + self.n_fillers
        orders = ("".join("fa"[i in at] for i in range(n_places)) for at in combinations(range(n_places), k))
        layout = layouts(generator, n, [order + "?a" * k for order in orders], self.n_pos - HEADER)
        arguments = FIRST_SYMBOL + distinct(generator, n, N_ARGUMENTS, k).repeat(1, 2)
        fillers = FIRST_SYMBOL + N_ARGUMENTS + uniform(generator, 0, N_FILLERS - 1, layout.shape)
        return self.prompt(fill(layout, {"a": arguments, "f": fillers, "?": torch.full_like(layout, SEP)}))

    def _next(self, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """The number of the argument that each position asks for, and where it is defined."""
        number = (tokens == SEP).cumsum(1)
        argument = among(tokens, FIRST_SYMBOL, N_ARGUMENTS) & (number == 0)
        return number, (number[:, :, None] == (argument.cumsum(1) * argument)[:, None, :]).long().argmax(2)

    def targets(self, tokens: Tokens) -> Tokens:
        return torch.where(tokens == SEP, tokens.gather(1, self._next(tokens)[1]), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return (self._next(tokens)[0] > 1).long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        if name == "exchange":
            defined = among(tokens, FIRST_SYMBOL, N_ARGUMENTS)
            other = at_position(tokens, pick(generator, defined))
            return exchange(tokens, self.answer(tokens, position), other)
        other = FIRST_SYMBOL + uniform(generator, 0, N_ARGUMENTS - 1, position.shape)
        return put(tokens, at_position(self._next(tokens)[1], position), other)
