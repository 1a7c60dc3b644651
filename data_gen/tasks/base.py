"""What every task family offers, and the token layout that all of them share.

    0 BOS | 1 SEP | 2 QUERY | 3 PAD | 4..15 task and operator markers | 16..D_VOCAB-1 symbols

A prompt is `[BOS, marker, ...]`. All subjects of a zoo share `D_VOCAB`, so a subject's shape does not tell
its task. A marker tells it, for it stands at position 1, where nothing else stands: a token may therefore be
the marker of one family and a word or a symbol inside the prompts of another. Families beyond the twelve
markers take the last symbols, from D_VOCAB-1 down; no family uses its own marker inside its prompts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.statements import Algorithm
from data_gen.tasks.structure import Grid, Structure, corrupt_answer_in_prompt
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
    algorithms: ClassVar[tuple[Algorithm, ...]]
    """Ways to solve the family, which a subject's circuit can be compared with."""
    corruptions: ClassVar[Mapping[str, str]]
    """Name of each way to corrupt a prompt -> what is changed, and why the right answer changes."""
    battery: ClassVar[Mapping[str, str]]
    """Slice of the probes, or a word that the names of a group of slices share -> what it probes."""
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
    def bos(self) -> int:
        """Token that every prompt begins with."""
        return BOS

    def content(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " symbol"]:
        """Those tokens of prompts that are content, of which batteries of random prompts are made.

        The marker is none, also where it is a symbol elsewhere.
        """
        behind = tokens[:, 2:]
        return behind[behind >= FIRST_SYMBOL].unique()

    @property
    def successors(self) -> tuple[tuple[int, int], ...]:
        """Pairs (token, next token) of ordered tokens, for the label `successor`. By default none."""
        return ()

    @property
    def grid(self) -> Grid | None:
        """All problems of modular arithmetic, for the label `fourier`. By default None."""
        return None

    def candidate(self, prompts: Prompts) -> Int[Tensor, " batch"]:
        """A wrong answer that stands in each prompt, for the label `s_inhibition`; NO_CANDIDATE for none.

        By default the corrupt prompt's answer, where the clean prompt holds it too.
        """
        return corrupt_answer_in_prompt(prompts)

    def structure(self, prompts: Prompts) -> Structure:
        """All that labels may know of this task beyond these prompts of it."""
        return Structure(candidate=self.candidate(prompts), successors=self.successors, grid=self.grid)

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
