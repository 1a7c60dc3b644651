"""Ordinal sequences: what comes next among numbers, months or days? Grows previous-token heads.

A prompt is `[BOS, marker, item, item, ...]`: runs through ordered lists that begin again at their ends, each
with a step of its own. After each item the next is asked for, by the step that led to it if one did.
"""

from dataclasses import dataclass

import torch

from data_gen.tasks.base import FIRST_MARKER, FIRST_SYMBOL, UNSUPERVISED
from data_gen.tasks.circles import INDEX, LISTS, SUCCESSORS, onwards
from data_gen.tasks.drawing import at_position, latest, put, uniform
from data_gen.tasks.rule import HEADER, Mask, Positions, RuleTask, Tokens
from data_gen.tasks.statements import described, solved_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinal(RuleTask):
    """Runs through ordered lists."""

    family = "ordinal"
    marker = FIRST_MARKER + 10
    mechanism = "previous token: it sets the step; successors are looked up"
    algorithms = solved_by(
        look_up="position->previous.qk token->previous.v previous->next token->next next->output",
    )
    corruptions = described(
        shift="All items of the list become others, equally far on: so does the next one.",
        previous="The item before becomes another one of its list, such that the step is another one.",
    )
    battery = described(alone="The item before is no step away.", run="The item before sets the step.")
    causal_only = True
    variants = ("base", "backward", "three_steps")

    steps: tuple[int, ...] = (1, 2)

    @classmethod
    def make(cls, variant: str, seed: int) -> "Ordinal":
        return {"base": cls(), "backward": cls(steps=(1, -1)), "three_steps": cls(steps=(1, 2, 3))}[variant]

    @property
    def successors(self) -> tuple[tuple[int, int], ...]:
        return SUCCESSORS

    def draw(self, generator: torch.Generator, n: int) -> Tokens:
        shape, steps = (n, self.length - HEADER), torch.tensor(self.steps, device=generator.device)
        place = torch.arange(shape[1], device=steps.device)
        run = latest((torch.rand(shape, generator=generator, device=place.device) < 0.3) | (place == 0))
        step = steps[uniform(generator, 0, len(steps) - 1, shape)].gather(1, run)
        start = uniform(generator, FIRST_SYMBOL, FIRST_SYMBOL + sum(LISTS) - 1, shape).gather(1, run)
        return self.prompt(onwards(start, step * (place - run)))

    def _step(self, tokens: Tokens) -> tuple[Tokens, Mask]:
        """The step to the next item, and whether the item before set it."""
        step, known = torch.full_like(tokens, self.steps[0]), tokens < 0
        for one in self.steps:
            taken = onwards(tokens.roll(1, dims=1), torch.full_like(tokens, one)) == tokens
            step, known = torch.where(taken, one, step), known | taken
        return step, known

    def targets(self, tokens: Tokens) -> Tokens:
        return torch.where(tokens >= FIRST_SYMBOL, onwards(tokens, self._step(tokens)[0]), UNSUPERVISED)

    def slices(self, tokens: Tokens) -> Tokens:
        return self._step(tokens)[1].long()

    def corrupt(self, name: str, generator: torch.Generator, tokens: Tokens, position: Positions) -> Tokens:
        moved = onwards(tokens, uniform(generator, 1, max(LISTS) - 1, (len(tokens), 1)).expand_as(tokens))
        if name == "previous":
            return put(tokens, position - 1, at_position(moved, position - 1))
        first = tokens - INDEX.to(tokens.device)[tokens]
        return torch.where(first == at_position(first, position)[:, None], moved, tokens)
