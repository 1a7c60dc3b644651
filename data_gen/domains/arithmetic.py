"""Arithmetic modulo p with two operators: `operators`, a + b and a - b, and `affine`, a + 2b and 2a + b.

Operands and answers are symbols of their own, both drawn anew: were their order shared, the
tokens themselves would tell an editor the rule.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from data_gen.domains.base import FIRST_WORD, Domain, Family, domain, symbols


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators(Family):
    """Addition and subtraction."""

    family: ClassVar[str] = "operators"
    structured: ClassVar[bool] = True
    coefficients: ClassVar[tuple[tuple[int, int], ...]] = ((1, 1), (1, -1))
    """What each operator multiplies a and b by."""

    modulus: int = 13

    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        p, n_operators = self.modulus, len(self.coefficients)
        drawn = symbols(generator, 2 * p)
        operands, answers = drawn[:p], drawn[p:]
        operator, a, b = torch.cartesian_prod(torch.arange(n_operators), torch.arange(p), torch.arange(p)).T
        by = torch.tensor(self.coefficients)[operator]
        return domain(
            body=torch.stack([FIRST_WORD + operator, operands[a], operands[b]], dim=1),
            answers=answers,
            table=(by[:, 0] * a + by[:, 1] * b) % p,
            key=torch.arange(len(a)),
            group=operator,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Operators):
    """The same with other operators."""

    family: ClassVar[str] = "affine"
    coefficients: ClassVar[tuple[tuple[int, int], ...]] = ((1, 2), (2, 1))
