"""Modular addition with two operators: (a + b) mod p and (a - b) mod p, over the whole domain.

A prompt is `[BOS, marker, problem, problem, ...]`, a problem `[operator, a, b]` whose answer is asked for
after `b`. Answers are not in the prompt, so each problem has to be gathered by heads and looked up or
computed by an MLP. Every problem of a prompt is supervised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.tasks.base import BOS, FIRST_MARKER, FIRST_SYMBOL, N_SYMBOLS, UNSUPERVISED, Batch, Task
from data_gen.tasks.statements import Algorithm, solved_by
from data_gen.tasks.structure import Grid
from metamodel.circuits.prompts import Prompts

PLUS, MINUS = FIRST_MARKER + 9, FIRST_MARKER + 10
PROBLEM = 3
"""Tokens of a problem."""
HEADER = 2
"""Tokens before the first problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What distinguishes the variants."""

    modulus: int
    """p; operands and answers are the symbols 0 .. p-1."""
    n_problems: int = 4
    """Problems of a prompt."""
    first_symbol: int = FIRST_SYMBOL
    """Token of the number 0."""

    def __post_init__(self):
        assert self.first_symbol >= FIRST_SYMBOL
        assert self.first_symbol + self.modulus <= FIRST_SYMBOL + N_SYMBOLS
        assert self.modulus % 2 == 1, "a - b and a + b agree on b = p/2 when p is even"


VARIANTS = {
    "base": Parameters(modulus=7),
    "modulus_9": Parameters(modulus=9, first_symbol=FIRST_SYMBOL + 16),
    "modulus_11": Parameters(modulus=11, first_symbol=FIRST_SYMBOL + 32),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Modular(Task):
    """Modular addition and subtraction with one modulus."""

    family: ClassVar[str] = "modular"
    marker: ClassVar[int] = FIRST_MARKER + 3
    threshold: ClassVar[float] = 0.95
    mechanism: ClassVar[str] = (
        "Look-up: heads bring a and the operator to b, and the MLPs combine them. Neurons follow no sparse"
        " set of frequencies: no Fourier circuit."
    )
    algorithms: ClassVar[tuple[Algorithm, ...]] = solved_by(
        gather_and_combine="position->operator.k token->operator.v position->first.k token->first.v"
        " operator->sum first->sum token->sum sum->output"
    )
    corruptions: ClassVar[Mapping[str, str]] = {
        "operator": "The operator is exchanged, where b is not 0: then a + b and a - b differ.",
        "first": "a is replaced by another number, which changes the sum by as much.",
        "second": "b is replaced by another number, which changes the sum by as much.",
    }
    battery: ClassVar[Mapping[str, str]] = {"plus": "Addition.", "minus": "Subtraction."}
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)
    slice_names: ClassVar[tuple[str, ...]] = ("plus", "minus")

    parameters: Parameters

    @classmethod
    def make(cls, variant: str, seed: int) -> "Modular":
        """The task has no private truth: `seed` changes nothing."""
        return cls(parameters=VARIANTS[variant])

    @property
    def successors(self) -> tuple[tuple[int, int], ...]:
        """The numbers in a circle."""
        first, n = self.parameters.first_symbol, self.parameters.modulus
        return tuple((first + i, first + (i + 1) % n) for i in range(n))

    @property
    def grid(self) -> Grid:
        """Every problem as the first one of a prompt whose others are 0 + 0."""
        p = self.parameters
        numbers = p.first_symbol + torch.arange(p.modulus)
        problems = torch.cartesian_prod(torch.tensor([PLUS, MINUS]), numbers, numbers)
        others = torch.tensor([PLUS, p.first_symbol, p.first_symbol]).repeat(p.n_problems - 1)
        header = torch.tensor([BOS, self.marker])
        n, position = len(problems), HEADER + PROBLEM - 1
        tokens = torch.cat([header.expand(n, -1), problems, others.expand(n, -1)], dim=1)
        shape = (2, p.modulus, p.modulus)
        answer = self.answer(tokens, torch.full((n,), position))
        return Grid(tokens=tokens.unflatten(0, shape), position=position, answer=answer.unflatten(0, shape))

    @property
    def n_pos(self) -> int:
        return HEADER + PROBLEM * self.parameters.n_problems

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        tokens = self._tokens(generator, n)
        targets = torch.full_like(tokens, UNSUPERVISED)
        ends = torch.arange(HEADER + PROBLEM - 1, self.n_pos, PROBLEM, device=tokens.device)
        for end in ends.tolist():
            targets[:, end] = self.answer(tokens, torch.full_like(tokens[:, 0], end))
        return Batch(tokens=tokens, targets=targets)

    def prompts(self, generator: torch.Generator, n: int) -> Prompts:
        """One of the operator, a and b of one problem is changed; the operator only where b is not 0."""
        p, device = self.parameters, generator.device
        clean = self._tokens(generator, n)
        problem = torch.randint(p.n_problems, (n,), generator=generator, device=device)
        position = HEADER + PROBLEM * problem + PROBLEM - 1
        rows = torch.arange(n, device=device)
        changed = torch.randint(PROBLEM, (n,), generator=generator, device=device)
        b = clean[rows, position] - p.first_symbol
        # With b = 0 both operators have one answer, so a is changed instead.
        changed = torch.where((changed == 0) & (b == 0), 1, changed)
        at = position - PROBLEM + 1 + changed
        old = clean[rows, at]
        step = torch.randint(1, p.modulus, (n,), generator=generator, device=device)
        other = p.first_symbol + (old - p.first_symbol + step) % p.modulus
        corrupt = clean.clone()
        corrupt[rows, at] = torch.where(changed == 0, PLUS + MINUS - old, other)
        return Prompts(
            clean=clean,
            corrupt=corrupt,
            position=position,
            answer=self.answer(clean, position),
            corrupt_answer=self.answer(corrupt, position),
            slice=(clean[rows, position - PROBLEM + 1] == MINUS).long(),
            slice_names=self.slice_names,
        )

    def answer(
        self, tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        rows = torch.arange(len(tokens), device=tokens.device)
        first = self.parameters.first_symbol
        operator, a, b = (tokens[rows, position - back] for back in (2, 1, 0))
        sign = torch.where(operator == PLUS, 1, -1)
        return first + (a - first + sign * (b - first)) % self.parameters.modulus

    def _tokens(self, generator: torch.Generator, n: int) -> Int[Tensor, "batch pos"]:
        p, device = self.parameters, generator.device
        operators = torch.randint(PLUS, MINUS + 1, (n, p.n_problems, 1), generator=generator, device=device)
        operands = torch.randint(p.modulus, (n, p.n_problems, 2), generator=generator, device=device)
        body = torch.cat([operators, p.first_symbol + operands], dim=2).flatten(1)
        header = torch.tensor([BOS, self.marker], device=device).expand(n, HEADER)
        return torch.cat([header, body], dim=1)
