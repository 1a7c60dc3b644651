"""Several families at once, in one subject: every prompt belongs to one of them, and its marker tells which.

Prompts of shorter families are filled up behind with PAD, which a causal subject sees only after the answer.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import PAD, UNSUPERVISED, Batch, Task
from data_gen.tasks.structure import Grid
from metamodel.circuits.prompts import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded(Task):
    """A task whose prompts have PAD behind them."""

    family: ClassVar[str] = "padded"
    marker: ClassVar[int] = PAD
    threshold: ClassVar[float] = 0.0
    mechanism: ClassVar[str] = "That of the task inside."
    variants: ClassVar[tuple[str, ...]] = ()

    inside: Task
    length: int
    """Tokens of a prompt, PAD included."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Padded":
        raise AssertionError("made by Mixture")

    def renewed(self, variant: str, seed: int) -> "Padded":
        return replace(self, inside=self.inside.renewed(variant, seed))

    @property
    def bos(self) -> int:
        return self.inside.bos

    def content(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " symbol"]:
        return self.inside.content(tokens[:, : self.inside.n_pos])

    @property
    def successors(self) -> tuple[tuple[int, int], ...]:
        return self.inside.successors

    @property
    def grid(self) -> Grid | None:
        grid = self.inside.grid
        return None if grid is None else replace(grid, tokens=self._pad(grid.tokens, PAD))

    def candidate(self, prompts: Prompts) -> Int[Tensor, " batch"]:
        return self.inside.candidate(prompts)

    @property
    def n_pos(self) -> int:
        return self.length

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        batch = self.inside.sample(generator, n)
        return Batch(tokens=self._pad(batch.tokens, PAD), targets=self._pad(batch.targets, UNSUPERVISED))

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        drawn = self.inside.prompts(generator, n)
        return Prompts(
            clean=self._pad(drawn.clean, PAD),
            corrupt=self._pad(drawn.corrupt, PAD),
            position=drawn.position,
            answer=drawn.answer,
            corrupt_answer=drawn.corrupt_answer,
            slice=drawn.slice,
            slice_names=drawn.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        return self.inside.answer(tokens[:, : self.inside.n_pos], position)

    def _pad(self, tokens: Tensor, value: int) -> Int[Tensor, "*rest pos"]:
        return F.pad(tokens, (0, self.length - tokens.shape[-1]), value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture(Task):
    """Prompts of several families, as many of each."""

    family: ClassVar[str] = "mixture"
    marker: ClassVar[int] = PAD
    """None of its own: each part keeps its marker."""
    threshold: ClassVar[float] = 0.0
    """None of its own: each part must reach its own."""
    mechanism: ClassVar[str] = "Those of its parts, on shared or separate components."
    causal_only: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("base",)

    parts: tuple[Task, ...]
    """Of one length."""

    @classmethod
    def make(cls, variant: str, seed: int) -> "Mixture":
        raise AssertionError("made by Mixture.of")

    def renewed(self, variant: str, seed: int) -> "Mixture":
        return replace(self, parts=tuple(part.renewed(variant, seed) for part in self.parts))

    @classmethod
    def of(cls, tasks: tuple[Task, ...]) -> "Mixture":
        """The mixture of these tasks, the shorter of them padded."""
        longest = max(task.n_pos for task in tasks)
        return cls(parts=tuple(t if t.n_pos == longest else Padded(inside=t, length=longest) for t in tasks))

    @property
    def n_pos(self) -> int:
        return self.parts[0].n_pos

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        batches = [part.sample(generator, -(-n // len(self.parts))) for part in self.parts]
        order = torch.randperm(sum(len(b.tokens) for b in batches), generator=generator)[:n]
        return Batch(
            tokens=torch.cat([b.tokens for b in batches])[order],
            targets=torch.cat([b.targets for b in batches])[order],
        )

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """Prompts of all parts in turn; the slice is the part."""
        drawn = [part.prompts(generator, -(-n // len(self.parts))) for part in self.parts]
        order = torch.randperm(sum(len(p) for p in drawn), generator=generator)[:n]
        which = torch.cat([torch.full((len(p),), i) for i, p in enumerate(drawn)])
        return Prompts(
            clean=torch.cat([p.clean for p in drawn])[order],
            corrupt=torch.cat([p.corrupt for p in drawn])[order],
            position=torch.cat([p.position for p in drawn])[order],
            answer=torch.cat([p.answer for p in drawn])[order],
            corrupt_answer=torch.cat([p.corrupt_answer for p in drawn])[order],
            slice=which[order],
            slice_names=tuple(part_family(part) for part in self.parts),
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """Each prompt's marker tells which part answers it."""
        found = torch.full_like(position, UNSUPERVISED)
        for part in self.parts:
            mine = tokens[:, 1] == inner(part).marker
            if bool(mine.any()):
                found[mine] = part.answer(tokens[mine], position[mine])
        return found


def inner(task: Task) -> Task:
    """The task itself, without padding."""
    return task.inside if isinstance(task, Padded) else task


def part_family(task: Task) -> str:
    return inner(task).family


def parts_of(task: Task) -> tuple[Task, ...]:
    """The tasks that a subject is judged and harvested on: the parts of a mixture, or the task itself."""
    return task.parts if isinstance(task, Mixture) else (task,)
