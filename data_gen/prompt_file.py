"""Prompts that people bring for their own models: a file of them is a task."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.labels.registry import OFFSETS
from data_gen.tasks.base import PAD, Batch, Task
from metamodel.circuits.prompt_file import read_prompts
from metamodel.circuits.prompts import Prompts
from metamodel.config import require

FEWEST_PROMPTS = 16
"""Prompts without which behavior cannot be measured."""
SHORTEST = max(OFFSETS) + 2
"""Tokens of a prompt on which every distance that labels ask for occurs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptFile(Task):
    """Prompts that are given, and no rule behind them."""

    family: ClassVar[str] = "imported"
    marker: ClassVar[int] = PAD
    threshold: ClassVar[float] = 0.0
    mechanism: ClassVar[str] = "What the model's own training made."
    variants: ClassVar[tuple[str, ...]] = ("base",)

    given: Prompts
    digest: str
    """Hash of the file."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "PromptFile":
        raise AssertionError("made by prompt_task")

    def renewed(self, variant: str, seed: int) -> "PromptFile":
        return self

    @property
    def n_pos(self) -> int:
        return self.given.clean.shape[1]

    @property
    def bos(self) -> int:
        """The token that most prompts begin with."""
        return Counter(self.given.clean[:, 0].tolist()).most_common(1)[0][0]

    def content(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " symbol"]:
        """All tokens of the prompts but the first of each."""
        return self.given.clean[:, 1:].unique()

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        raise AssertionError("imported subjects are not trained")

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """`n` of the given prompts in random order, some of them twice where there are too few."""
        held = len(self.given)
        turns = [torch.randperm(held, generator=generator) for _ in range(-(-n // held))]
        chosen = torch.cat(turns)[:n]
        return self.given.where(chosen)

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        raise AssertionError("there is no rule behind prompts of a file")


def prompt_task(path: Path) -> PromptFile:
    """The task of a file of prompts.

    Raises: InputError, naming file and line, if a prompt lacks something or does not fit.
    """
    given = read_prompts(path)
    require(
        len(given) >= FEWEST_PROMPTS,
        str(path),
        expected=f"at least {FEWEST_PROMPTS} prompts",
        got=len(given),
        do="Add prompts: behavior and circuits are means over them.",
    )
    longest = given.clean.shape[1]
    require(
        longest >= SHORTEST,
        str(path),
        expected=f"prompts of at least {SHORTEST} tokens, for labels look back up to {max(OFFSETS)}",
        got=longest,
        do="Take longer prompts.",
    )
    return PromptFile(given=given, digest=hashlib.sha256(path.read_bytes()).hexdigest())
