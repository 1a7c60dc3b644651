"""What every task family offers, and the token layout that all of them share.

    0 BOS | 1 SEP | 2 QUERY | 3 PAD | 4..15 task and operator markers | 16..D_VOCAB-1 symbols

A prompt is `[BOS, marker, ...]`. All subjects of a zoo share `D_VOCAB`, so a subject's shape does not tell
its task.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts

BOS, SEP, QUERY, PAD = range(4)
FIRST_MARKER = 4
FIRST_SYMBOL = 16
D_VOCAB = 64
N_SYMBOLS = D_VOCAB - FIRST_SYMBOL
UNSUPERVISED = -100
"""Target at positions whose next token is not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Training data: `targets[b, p]` is the right token after `tokens[b, p]`, or UNSUPERVISED."""

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]


class Task(ABC):
    """One instance of a task family: its parameters are fixed, and its private truth (such as a table) drawn.

    Concrete families are frozen dataclasses, one file each, listed in `data_gen.tasks`.
    """

    family: ClassVar[str]
    marker: ClassVar[int]
    """Token that follows BOS."""
    threshold: ClassVar[float]
    """Accuracy on fresh prompts that a subject must reach to be accepted."""
    mechanism: ClassVar[str]
    """What the family is named for, and the function labels that are expected to grow."""
    causal_only: ClassVar[bool] = False
    """Whether prompts hold the answers behind the positions that ask, for a bidirectional subject to see."""
    variants: ClassVar[tuple[str, ...]]
    """Names of the parameter sets that `make` knows, `base` first."""

    @classmethod
    @abstractmethod
    def make(cls, variant: str, seed: int) -> "Task":
        """The task with the parameters of `variant`, and its private truth, if any, drawn from `seed`."""

    def renewed(self, variant: str, seed: int) -> "Task":
        """A task of the same kind with another private truth; the same task where there is none."""
        return type(self).make(variant, seed)

    @property
    @abstractmethod
    def n_pos(self) -> int:
        """Length of every prompt, BOS included."""

    @abstractmethod
    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """`n` training prompts, vectorised: called for thousands at once."""

    @abstractmethod
    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """`n` clean and corrupt prompts whose right answers differ, each with the position of its answer."""

    @abstractmethod
    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """The right token after `position`, computed from the prompt by the rule, not by the sampler."""
