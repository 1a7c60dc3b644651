"""Tables that only the weights can hold: `lookup`, with relations, templates and two hops, and `grid`.

Of the templates of each the last is unseen: subjects answer it, and no editor is ever shown it.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from data_gen.domains.base import FIRST_WORD, ONE_HOP, Domain, Family, domain, joined, symbols

ONCE, TWICE, BESIDE, ABOVE, AMONG = range(FIRST_WORD, FIRST_WORD + 5)
ORDERS = ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1))
"""Orders of key, relation and word: the templates."""
GRID_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2))
"""Orders of word, row and column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup(Family):
    """Key and relation name a value; values are keys, and TWICE asks for the value of the value."""

    family: ClassVar[str] = "lookup"

    n_keys: int = 16
    n_relations: int = 2

    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        entities = symbols(generator, self.n_keys + self.n_relations)
        keys, relations = entities[: self.n_keys], entities[self.n_keys :]
        relation, key = torch.cartesian_prod(torch.arange(self.n_relations), torch.arange(self.n_keys)).T
        parts = []
        for word in (ONCE, TWICE):
            said = torch.stack([keys[key], relations[relation], torch.full_like(key, word)], dim=1)
            for template, order in enumerate(ORDERS):
                parts.append(
                    {
                        "body": said[:, list(order)],
                        "key": relation * self.n_keys + key,
                        "group": relation,
                        "template": torch.full_like(key, template),
                        "second": torch.full_like(key, ONE_HOP) if word == ONCE else relation * self.n_keys,
                    }
                )
        n = self.n_keys * self.n_relations
        table = torch.randint(self.n_keys, (n,), generator=truth)
        found = domain(**joined(parts), answers=keys, table=table)
        return replace(found, unseen_template=len(ORDERS) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Family):
    """Row and column name a value, in orders that a word tells apart."""

    family: ClassVar[str] = "grid"

    n_rows: int = 8
    n_columns: int = 6
    n_values: int = 12

    def draw(self, generator: torch.Generator, truth: torch.Generator) -> Domain:
        drawn = symbols(generator, self.n_rows + self.n_columns + self.n_values)
        rows, columns, answers = drawn.split([self.n_rows, self.n_columns, self.n_values])
        row, column = torch.cartesian_prod(torch.arange(self.n_rows), torch.arange(self.n_columns)).T
        parts = []
        for template, (word, order) in enumerate(zip((BESIDE, ABOVE, AMONG), GRID_ORDERS, strict=True)):
            said = torch.stack([torch.full_like(row, word), rows[row], columns[column]], dim=1)
            parts.append(
                {
                    "body": said[:, list(order)],
                    "key": row * self.n_columns + column,
                    "group": (column >= self.n_columns // 2).long(),
                    "template": torch.full_like(row, template),
                }
            )
        table = torch.randint(self.n_values, (self.n_rows * self.n_columns,), generator=truth)
        found = domain(**joined(parts), answers=answers, table=table)
        return replace(found, unseen_template=len(GRID_ORDERS) - 1)
