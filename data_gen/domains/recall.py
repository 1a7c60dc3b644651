"""Two behaviors in one subject: induction, which copies from the prompt, and a table, which does not."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from data_gen.domains.base import FIRST_WORD, Domain, Family, domain, joined, symbols

REPEATED, TABLE = FIRST_WORD, FIRST_WORD + 1
SHOWN = 3
"""Symbols of a repeated prompt before the one that comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(Family):
    """`[x y z x]` is followed by y, `[x y z y]` by z; behind the other marker a key by its private value."""

    family: ClassVar[str] = "recall"

    n_symbols: int = 8

    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        n = self.n_symbols
        drawn = symbols(generator, n)
        shown = torch.cartesian_prod(*[torch.arange(n)] * SHOWN)
        shown = shown[[len(set(row.tolist())) == SHOWN for row in shown]]
        again = torch.randint(SHOWN - 1, (len(shown),), generator=torch.Generator().manual_seed(0))
        rows = torch.arange(len(shown))
        repeated = {
            "body": _marked(REPEATED, drawn[torch.cat([shown, shown[rows, again, None]], dim=1)]),
            "key": rows,
            "group": torch.zeros_like(rows),
        }
        distractors = shown[: 12 * n].unflatten(0, (n, 12))
        key = torch.arange(n).repeat_interleave(12)
        asked = {
            "body": _marked(TABLE, drawn[torch.cat([distractors.flatten(0, 1), key[:, None]], dim=1)]),
            "key": len(shown) + key,
            "group": torch.ones_like(key),
        }
        copied = shown[rows, again + 1]
        table = torch.cat([copied, torch.randint(n, (n,), generator=truth)])
        return domain(**joined([repeated, asked]), answers=drawn, table=table)


def _marked(marker: int, body: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full((len(body), 1), marker), body], dim=1)
