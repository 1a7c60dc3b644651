"""Ordinal sequences: what comes next among numbers, months or days? Grows previous-token heads.

A prompt is `[BOS, marker, item, item, ...]`: runs through one of several ordered lists that begin again at
their ends, each run with a start and a step of its own. After each item the next one is asked for: one step
on, where the item before is such a step away in the same list, else the first step on.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import D_VOCAB, FIRST_MARKER, FIRST_SYMBOL, UNSUPERVISED
from data_gen.tasks.drawing import at_position, latest, put, uniform
from data_gen.tasks.rule import HEADER, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by

LISTS = (12, 12, 7)
"""Items of the numbers, the months and the days, which follow one another among the symbols."""
_SHAPES = [(1, 0)] * FIRST_SYMBOL + [(n, i) for n in LISTS for i in range(n)]
SIZE, INDEX = torch.tensor([*_SHAPES, *[(1, 0)] * (D_VOCAB - len(_SHAPES))]).T
"""Of each token: how long its list is, and its number there; other tokens are lists of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinal(RuleTask):
    """Runs through ordered lists."""

    family = "ordinal"
    marker = FIRST_MARKER + 10
    threshold = 0.9
    mechanism = "previous token: a head brings the item before, which sets the step; successors are looked up"
    algorithms = solved_by(
        successor="position->previous.qk token->previous.v previous->step token->step step->next token->next"
        " next->output"
    )
    corruptions = described(
        shift="All items of the list become items as far on in it: the next one is as far on.",
        previous="The item before becomes another one of its list, such that the step is another one.",
    )
    battery = described(alone="The item before is no step away.", run="The item before sets the step.")
    causal_only = True
    variants = ("base", "backward", "three_steps")

    steps: tuple[int, ...] = (1, 2)

    @classmethod
    def make(cls, variant: str, seed: int) -> "Ordinal":
        """The rule is the same for every subject, so `seed` draws nothing."""
        return {"base": cls(), "backward": cls(steps=(1, -1)), "three_steps": cls(steps=(1, 2, 3))}[variant]

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        shape = (n, self.length - HEADER)
        place = torch.arange(shape[1], device=generator.device)
        run = latest((torch.rand(shape, generator=generator, device=place.device) < 0.3) | (place == 0))
        step = torch.tensor(self.steps, device=place.device)[
            uniform(generator, 0, len(self.steps) - 1, shape)
        ]
        start = uniform(generator, FIRST_SYMBOL, FIRST_SYMBOL + sum(LISTS) - 1, shape).gather(1, run)
        size, index = SIZE.to(place.device)[start], INDEX.to(place.device)[start]
        return self.prompt(start - index + (index + step.gather(1, run) * (place - run)) % size)

    def _read(self, tokens: Tokens) -> tuple[Tokens, Tokens, Tokens]:
        """Each item's number in its list, its step, and whether the item before set the step."""
        size, index = SIZE.to(tokens.device)[tokens], INDEX.to(tokens.device)[tokens]
        start = tokens - index
        step, set_before = torch.full_like(tokens, self.steps[0]), torch.zeros_like(tokens)
        for one in self.steps:
            taken = (start == start.roll(1, dims=1)) & ((index - index.roll(1, dims=1) - one) % size == 0)
            step, set_before = torch.where(taken, one, step), torch.where(taken, 1, set_before)
        return index, step, set_before

    def targets(self, tokens: Tokens) -> Tokens:
        index, step, _ = self._read(tokens)
        answer = tokens - index + (index + step) % SIZE.to(tokens.device)[tokens]
        return torch.where(tokens >= FIRST_SYMBOL, answer, UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return self._read(tokens)[2]

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        size, index = SIZE.to(tokens.device)[tokens], INDEX.to(tokens.device)[tokens]
        moved = tokens - index + (index + uniform(generator, 1, 99, (len(tokens), 1))) % size
        if name == "previous":
            return put(tokens, position - 1, at_position(moved, position - 1))
        same = tokens - index == at_position(tokens - index, position)[:, None]
        return torch.where(same, moved, tokens)
