"""Yes or no by parity: `brackets`, of the depth at the end; `counts`, of how often a symbol stands there."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.domains.base import Domain, Family, domain, symbols

LENGTH = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Brackets(Family):
    """All strings of opening, closing and neutral symbols that never close what is not open."""

    family: ClassVar[str] = "brackets"

    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        kind = torch.cartesian_prod(*[torch.arange(3)] * LENGTH)
        depth = torch.where(kind == 0, 1, torch.where(kind == 1, -1, 0)).cumsum(1)
        kept = (depth >= 0).all(1)
        return _by_parity(generator, kind[kept], depth[kept, -1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Family):
    """Strings of three symbols."""

    family: ClassVar[str] = "counts"

    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        kind = torch.cartesian_prod(*[torch.arange(3)] * LENGTH)
        kept = torch.randperm(len(kind), generator=torch.Generator().manual_seed(0))[:320].sort().values
        return _by_parity(generator, kind[kept], (kind[kept] == 0).sum(1))


def _by_parity(
    generator: torch.Generator, kind: Int[Tensor, "input place"], level: Int[Tensor, " input"]
) -> Domain:
    """Every input is a key of its own, and its answer is that of its level's parity."""
    drawn = symbols(generator, 5)
    return domain(
        body=drawn[kind],
        answers=drawn[3:],
        table=level % 2,
        key=torch.arange(len(kind)),
        group=torch.zeros(len(kind), dtype=torch.long),
        level=level,
    )
