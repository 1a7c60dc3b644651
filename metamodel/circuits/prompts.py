"""Prompts on which a circuit is measured: clean, corrupt, and where the answer is read."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.config.errors import require
from metamodel.subjects.checks import check_tokens
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject


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
    targets: Int[Tensor, "batch pos"] | None = None
    """Right answers at all positions, -1 where none is asked. If given, metrics are means over the asked
    positions of each prompt, in place of the one answer at `position`."""
    padded: bool = False
    """Whether shorter prompts are filled up behind: only a causal subject does not see that."""

    def __len__(self) -> int:
        return self.clean.shape[0]

    def where(self, rows: Int[Tensor, " item"]) -> "Prompts":
        """Some of the prompts, by index; an index may occur twice, as in a bootstrap."""
        taken = {
            name: getattr(self, name)[rows]
            for name in ("clean", "corrupt", "position", "answer", "corrupt_answer", "slice")
        }
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, **taken, targets=targets)

    def to(self, device: torch.device | str) -> "Prompts":
        """The same prompts on another device, as circuit methods need them: on the subject's."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    @property
    def asked(self) -> "Asked":
        """Every answer that counts, as a flat list."""
        if self.targets is None:
            rows = torch.arange(len(self), device=self.clean.device)
            return Asked(
                row=rows, position=self.position, answer=self.answer, corrupt_answer=self.corrupt_answer
            )
        row, position = (self.targets >= 0).nonzero(as_tuple=True)
        return Asked(row=row, position=position, answer=self.targets[row, position], corrupt_answer=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """Answers that count: one a prompt, or one for each target."""

    row: Int[Tensor, " ask"]
    """Index of the prompt."""
    position: Int[Tensor, " ask"]
    answer: Int[Tensor, " ask"]
    corrupt_answer: Int[Tensor, " ask"] | None
    """Right answers of the corrupt prompts; None with targets."""


def check_prompts(subject: Subject, prompts: Prompts) -> None:
    """Raises: InputError unless these prompts fit the subject."""
    check_fit(subject.config, prompts, who=subject.name)


def check_fit(config: SubjectConfig, prompts: Prompts, *, who: str) -> None:
    """Raises: InputError unless these prompts fit a network of these sizes."""
    n_prompts, n_pos = prompts.clean.shape
    require(
        n_prompts > 0, "prompts", expected="at least one prompt", got=n_prompts, do="Sample more prompts."
    )
    require(
        n_pos <= config.n_ctx,
        "prompts",
        expected=f"at most {config.n_ctx} positions, those {who} embeds",
        got=n_pos,
        do="Shorten the prompts.",
    )
    for name in ("clean", "corrupt", "answer", "corrupt_answer"):
        check_tokens(config, getattr(prompts, name), where=f"prompts.{name}", who=who)
    require(
        bool(((prompts.position >= 0) & (prompts.position < n_pos)).all()),
        "prompts.position",
        expected=f"positions from 0 to {n_pos - 1}",
        got=f"{int(prompts.position.min())} to {int(prompts.position.max())}",
        do="Read the answer inside the prompt.",
    )
    if prompts.targets is not None:
        check_tokens(config, prompts.targets.clamp_min(0), where="prompts.targets", who=who)
        silent = int((prompts.targets < 0).all(1).sum())
        require(
            silent == 0,
            "prompts.targets",
            expected="an answer for each prompt",
            got=f"{silent} of {n_prompts} prompts without any",
            do="Drop those prompts.",
        )


def check_padding(config: SubjectConfig, prompts: Prompts, intervention: str) -> None:
    """Raises: InputError where what fills up short prompts would be read."""
    require(
        not prompts.padded or (config.attention_dir == "causal" and intervention != "mean"),
        "prompts",
        expected="prompts of one length, for subjects that attend both ways and for mean ablation",
        got="shorter ones, which are filled up behind",
        do="Group the prompts by length.",
    )


def check_answers_differ(prompts: Prompts) -> None:
    """Raises: InputError if clean and corrupt ask for the same answer: there is no gap to explain."""
    if prompts.targets is not None:
        return
    same = int((prompts.answer == prompts.corrupt_answer).sum())
    require(
        same == 0,
        "prompts.corrupt_answer",
        expected="another answer than the clean prompt's",
        got=f"the same one in {same} of {len(prompts)} prompts",
        do="Drop those prompts, or corrupt what the answer depends on.",
    )
