"""Prompts on which a circuit is measured: clean, corrupt, and the position where the answer is read."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """Pairs of prompts for patching. Clean and corrupt share positions, and their answers differ."""

    clean: Int[Tensor, "batch pos"]
    """Tokens."""
    corrupt: Int[Tensor, "batch pos"]
    """Tokens of the same length whose right answer at `position` is another one."""
    position: Int[Tensor, " batch"]
    """Where the answer is read: its logits are those after this token."""
    answer: Int[Tensor, " batch"]
    """Right answer of the clean prompt (a token)."""
    corrupt_answer: Int[Tensor, " batch"]
    """Right answer of the corrupt prompt."""
    slice: Int[Tensor, " batch"]
    """Index into `slice_names`: which part of the task this prompt tests."""
    slice_names: tuple[str, ...]

    def __len__(self) -> int:
        return self.clean.shape[0]
