"""A program as a task of the zoo: prompts `[BOS, x_1 .. x_k]`, and after each symbol the program's answer.

Symbols are the first tokens from FIRST_SYMBOL on, answers the ones after them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.programs.inputs import random_inputs
from data_gen.programs.interpreter import output, valid
from data_gen.programs.language import Program
from data_gen.programs.library import MAKE, library_program
from data_gen.programs.sampling import random_program
from data_gen.tasks.base import BOS, FIRST_SYMBOL, N_SYMBOLS, UNSUPERVISED, Batch, Task
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require, suggestion

PREFIX, RANDOM = "rasp-", "rasp-random"
HEADER = 1
"""Tokens before the program's first place: BOS."""
MOST_POSITIONS = 16
"""Longest prompts, BOS included: the context of the zoo's subjects."""
PROGRAM_FAMILIES = (*(f"{PREFIX}{name}" for name in MAKE), RANDOM)
VARIANTS = ("base", "long", "wide")
"""`long`: two places more; `wide`: two symbols more."""
_ROUNDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTask(Task):
    """The task that a program is the rule of."""

    family: ClassVar[str] = "rasp"
    """Prefix of the families' names: `name` is the whole one."""
    threshold: ClassVar[float] = 0.95
    mechanism: ClassVar[str] = "The steps of the program, one or more components each."
    variants: ClassVar[tuple[str, ...]] = VARIANTS
    slice_names: ClassVar[tuple[str, ...]] = ("one_symbol", "other_prompt")

    header: ClassVar[int] = HEADER

    program: Program

    def __post_init__(self):
        p = self.program
        where = f"program {p.name}"
        n_tokens = p.n_symbols + p.n_values[p.output]
        do = "Take fewer symbols."
        require(n_tokens <= N_SYMBOLS, where, expected=f"at most {N_SYMBOLS} tokens", got=n_tokens, do=do)
        ok, do = self.n_pos <= MOST_POSITIONS, "Take a shorter one."
        require(ok, where, expected=f"at most {MOST_POSITIONS} positions", got=self.n_pos, do=do)

    @classmethod
    def make(cls, variant: str, seed: int) -> "ProgramTask":
        """A random program's task; `make_program_task` makes any."""
        return make_program_task(RANDOM, variant, seed)

    @property
    def name(self) -> str:
        """Name of the family."""
        return RANDOM if self.program.name.startswith("random-") else f"{PREFIX}{self.program.name}"

    def renewed(self, variant: str, seed: int) -> "Task":
        """The same: what is private to a subject is its program."""
        return self

    def content(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " symbol"]:
        """All tokens behind BOS: there is no marker."""
        return tokens[:, HEADER:].unique()

    @property
    def n_pos(self) -> int:
        return HEADER + self.program.length

    @property
    def first_answer(self) -> int:
        """Token of the program's output 0."""
        return FIRST_SYMBOL + self.program.n_symbols

    def tokens(self, symbols: Int[Tensor, "batch place"]) -> Int[Tensor, "batch pos"]:
        """Prompts of the program's inputs."""
        return torch.cat([torch.full_like(symbols[:, :1], BOS), FIRST_SYMBOL + symbols], dim=1)

    def symbols(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch place"]:
        """The program's inputs of prompts: place i is position i + HEADER."""
        return tokens[:, HEADER:] - FIRST_SYMBOL

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        symbols = random_inputs(self.program, generator, n, "training")
        tokens = self.tokens(symbols)
        targets = torch.full_like(tokens, UNSUPERVISED)
        first = self.program.first
        targets[:, HEADER + first :] = self.first_answer + output(self.program, symbols)[:, first:]
        return Batch(tokens=tokens, targets=targets)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """Half the corrupt prompts differ in one symbol where such are found, the others throughout."""
        found = [self._pairs(generator, n - n // 2, one_symbol=True)]
        found.append(self._pairs(generator, n - len(found[0][0]), one_symbol=False))
        clean, corrupt, place = (torch.cat(parts) for parts in zip(*found, strict=True))
        require(
            len(clean) == n,
            f"program {self.program.name}",
            expected=f"{n} pairs of prompts with other answers",
            got=len(clean),
            do="Its answers hardly vary: take another program.",
        )
        kind = (torch.arange(n, device=clean.device) >= len(found[0][0])).long()
        order = torch.randperm(n, generator=generator, device=clean.device)
        clean, corrupt, position = clean[order], corrupt[order], HEADER + place[order]
        clean, corrupt = self.tokens(clean), self.tokens(corrupt)
        return Prompts(
            clean=clean,
            corrupt=corrupt,
            position=position,
            answer=self.answer(clean, position),
            corrupt_answer=self.answer(corrupt, position),
            slice=kind[order],
            slice_names=self.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        answers = output(self.program, self.symbols(tokens))
        return self.first_answer + answers.gather(1, (position - HEADER)[:, None])[:, 0]

    def _pairs(
        self, generator: torch.Generator, n: int, *, one_symbol: bool
    ) -> tuple[Int[Tensor, "batch place"], Int[Tensor, "batch place"], Int[Tensor, " batch"]]:
        """Up to `n` clean and corrupt inputs whose outputs differ at a place."""
        p, found, n_found = self.program, [], 0
        for _ in range(_ROUNDS if n else 0):
            drawn = random_inputs(p, generator, 4 * n)
            clean, corrupt = drawn.chunk(2)
            if one_symbol:
                corrupt = self._changed(generator, clean)
            place = p.first + torch.randint(
                p.length - p.first, (len(clean),), generator=generator, device=clean.device
            )
            both = [output(p, x).gather(1, place[:, None])[:, 0] for x in (clean, corrupt)]
            good = (both[0] != both[1]) & valid(p, corrupt)
            found.append((clean[good], corrupt[good], place[good]))
            n_found += int(good.sum())
            if n_found >= n:
                break
        if not found:
            empty = random_inputs(p, generator, 1)[:0]
            return empty, empty, empty[:, 0]
        clean, corrupt, place = (torch.cat(parts)[:n] for parts in zip(*found, strict=True))
        return clean, corrupt, place

    def _changed(
        self, generator: torch.Generator, clean: Int[Tensor, "batch place"]
    ) -> Int[Tensor, "batch place"]:
        """Each prompt with the symbol of one place taken from another prompt."""
        other = clean.roll(1, 0)
        shape = (len(clean), 1)
        place = torch.randint(clean.shape[1], shape, generator=generator, device=clean.device)
        return clean.scatter(1, place, other.gather(1, place))


def program_of(family: str, seed: int, variant: str = "base") -> Program:
    """The program that a family is named for; `rasp-random` draws its own from the seed, at any variant.

    Raises: InputError for an unknown family or variant.
    """
    require(
        family in PROGRAM_FAMILIES,
        "task.family",
        expected=f"one of {list(PROGRAM_FAMILIES)}",
        got=repr(family),
        do=f"Name a known program.{suggestion(family, PROGRAM_FAMILIES)}",
    )
    require(
        variant in VARIANTS,
        f"task.{family}.variant",
        expected=f"one of {list(VARIANTS)}",
        got=repr(variant),
        do=f"Name a known variant.{suggestion(variant, VARIANTS)}",
    )
    if family == RANDOM:
        return random_program(seed)
    _, n_symbols, length = MAKE[family.removeprefix(PREFIX)]
    return library_program(
        family.removeprefix(PREFIX),
        n_symbols=n_symbols + 2 * (variant == "wide"),
        length=length + 2 * (variant == "long"),
    )


def make_program_task(family: str, variant: str, seed: int) -> ProgramTask:
    """The task of `program_of`. Raises: InputError."""
    return ProgramTask(program=program_of(family, seed, variant))
