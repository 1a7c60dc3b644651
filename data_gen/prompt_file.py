"""Prompts that people bring for their own models: a file of JSON lines becomes a task.

One object a line, with token ids:

    {"clean": [50256, 464, 3290], "corrupt": [50256, 464, 3797], "answer": 318, "corrupt_answer": 373}

`position` is where the answer is read, by default the last token; `slice` names the part of the task. Prompts
of different lengths are filled up behind, which a causal subject sees only after the answer.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.labels.registry import OFFSETS
from data_gen.tasks.base import PAD, Batch, Task
from metamodel.circuits.prompts import Prompts
from metamodel.config import InputError, require

FEWEST_PROMPTS = 16
"""Prompts without which behavior cannot be measured."""
SHORTEST = max(OFFSETS) + 2
"""Tokens of a prompt on which every distance that labels ask for occurs."""
TOKENS = ("clean", "corrupt")
ANSWERS = ("answer", "corrupt_answer")
KEYS = {*TOKENS, *ANSWERS, "position", "slice"}


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
        raise AssertionError("read by read_prompts")

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
        g = self.given
        return Prompts(
            clean=g.clean[chosen],
            corrupt=g.corrupt[chosen],
            position=g.position[chosen],
            answer=g.answer[chosen],
            corrupt_answer=g.corrupt_answer[chosen],
            slice=g.slice[chosen],
            slice_names=g.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        raise AssertionError("there is no rule behind prompts of a file")


def read_prompts(path: Path) -> PromptFile:
    """The task of a file of prompts.

    Raises: InputError, naming file and line, if a prompt lacks something or does not fit.
    """
    require(path.is_file(), str(path), expected="a file of JSON lines", got="no file", do="Check the path.")
    text = path.read_text()
    found = [
        _prompt(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    require(
        len(found) >= FEWEST_PROMPTS,
        str(path),
        expected=f"at least {FEWEST_PROMPTS} prompts",
        got=len(found),
        do="Add prompts: behavior and circuits are means over them.",
    )
    longest = max(len(p["clean"]) for p in found)
    require(
        longest >= SHORTEST,
        str(path),
        expected=f"prompts of at least {SHORTEST} tokens, for labels look back up to {max(OFFSETS)}",
        got=longest,
        do="Take longer prompts.",
    )
    names = tuple(dict.fromkeys(p["slice"] for p in found))

    def tokens(key: str) -> Int[Tensor, "batch pos"]:
        return torch.tensor([p[key] + [p[key][-1]] * (longest - len(p[key])) for p in found])

    return PromptFile(
        given=Prompts(
            clean=tokens("clean"),
            corrupt=tokens("corrupt"),
            position=torch.tensor([p["position"] for p in found]),
            answer=torch.tensor([p["answer"] for p in found]),
            corrupt_answer=torch.tensor([p["corrupt_answer"] for p in found]),
            slice=torch.tensor([names.index(p["slice"]) for p in found]),
            slice_names=names,
        ),
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _prompt(where: str, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(
            where, expected="a JSON object", got="another text", do="One prompt a line."
        ) from error
    require(isinstance(values, dict), where, expected="a JSON object", got=line[:40], do="One prompt a line.")
    for key in values.keys() ^ KEYS:
        known = key in KEYS
        if known and key in ("position", "slice"):
            continue
        raise InputError(
            f"{where}: {key}",
            expected="a value" if known else f"one of {', '.join(sorted(KEYS))}",
            got="none" if known else repr(key),
            do="Add it." if known else "Remove it.",
        )
    for key in TOKENS:
        good = isinstance(values[key], list) and values[key] and all(_is_token(t) for t in values[key])
        require(
            bool(good), f"{where}: {key}", expected="a list of token ids", got=repr(values[key])[:40],
            do="Tokenise the prompts first.",
        )  # fmt: skip
    for key in ANSWERS:
        good = _is_token(values[key])
        require(good, f"{where}: {key}", expected="a token id", got=repr(values[key])[:40], do="Tokenise it.")
    n = len(values["clean"])
    require(
        len(values["corrupt"]) == n,
        f"{where}: corrupt",
        expected=f"{n} tokens, as many as in clean",
        got=len(values["corrupt"]),
        do="Corrupt a prompt in place: patching needs the same positions.",
    )
    require(
        values["answer"] != values["corrupt_answer"],
        f"{where}: corrupt_answer",
        expected="another answer than the clean prompt's",
        got=values["corrupt_answer"],
        do="Corrupt what the answer depends on.",
    )
    position = values.get("position", n - 1)
    require(
        _is_token(position) and position < n,
        f"{where}: position",
        expected=f"0 to {n - 1}",
        got=position,
        do="Leave it out for the last token.",
    )
    return values | {"position": position, "slice": str(values.get("slice", "all"))}


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
