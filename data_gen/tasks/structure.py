"""What labels may know of a task beyond its prompts: an order of tokens, a grid of problems, wrong answers.

Families say it as data, so that no label knows a family's name. Most say nothing, and labels that need it
are then masked.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts

NO_CANDIDATE = -1
"""In place of a wrong answer, where a prompt holds none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """All problems of arithmetic modulo p: two operands, and one operator or several."""

    tokens: Int[Tensor, "operator first second pos"]
    """One prompt a problem."""
    position: int
    """Where every answer is read."""
    answer: Int[Tensor, "operator first second"]

    @property
    def modulus(self) -> int:
        return self.tokens.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Structure:
    """Of one task, and of the prompts on which a subject is measured."""

    candidate: Int[Tensor, " batch"]
    """A wrong answer that stands in each prompt up to where it is asked, or NO_CANDIDATE."""
    successors: tuple[tuple[int, int], ...] = ()
    """Pairs (token, next token); a circle of tokens has a pair for its end too."""
    grid: Grid | None = None

    @classmethod
    def of(cls, prompts: Prompts) -> "Structure":
        """What prompts alone tell."""
        return cls(candidate=corrupt_answer_in_prompt(prompts))


def corrupt_answer_in_prompt(prompts: Prompts) -> Int[Tensor, " batch"]:
    """The corrupt prompt's answer, where the clean prompt holds it up to the answer position."""
    place = torch.arange(prompts.clean.shape[1], device=prompts.clean.device)
    held = (prompts.clean == prompts.corrupt_answer[:, None]) & (place <= prompts.position[:, None])
    return torch.where(held.any(1), prompts.corrupt_answer, NO_CANDIDATE)
