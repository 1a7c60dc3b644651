"""What a set of items does together beyond what its parts do: the Möbius transform of the damage.

The damage d(A) is by how much the metric gets worse when the set A is ablated; d(∅) = 0. Then

    m(S) = Σ_{T ⊆ S} (-1)^(|S| - |T|) d(T),        d(A) = Σ_{S ⊆ A} m(S)

(Rota 1964; the Harsanyi dividends of the game d). For a pair, m(ij) = d(ij) - d(i) - d(j), so that

    two alternatives (OR, backup)   d(i) = d(j) = 0, d(ij) = 1   m = +1: together they cost more than apart
    two halves (AND)                d(i) = d(j) = d(ij) = 1      m = -1: the second costs nothing any more
    two independent summands        d(ij) = d(i) + d(j)          m = 0

Above pairs the sign of an AND alternates: m = (-1)^(n+1) for n jointly necessary items, while n alternatives
have m = +1 at order n and 0 below. Read the sign as a kind for pairs only.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.scores import standard_error
from metamodel.circuits.sets import SetOracle
from metamodel.config.errors import require

if TYPE_CHECKING:
    import pandas

_MOST_RUNS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interactions:
    """Damage and interaction of all sets up to some size, in units of the metric, positive for worse."""

    names: tuple[str, ...]
    order: int
    sets: tuple[tuple[str, ...], ...]
    """Singles first, then pairs, and so on."""
    damage: Float[Tensor, " set"]
    """By how much the metric gets worse with this set ablated, mean over prompts."""
    value: Float[Tensor, " set"]
    """m(S); for a single item its damage. Of pairs: positive for backups and alternatives (OR), negative
    for halves that need each other (AND)."""
    se: Float[Tensor, " set"]
    """Standard error of `value` over prompts; NaN for one prompt."""
    evaluations: int

    def pairs(self) -> Float[Tensor, "item same"]:
        """Interactions of pairs as a symmetric matrix; on its diagonal the damage of each item alone."""
        index = {name: i for i, name in enumerate(self.names)}
        found = self.value.new_zeros(len(index), len(index))
        for items, value in zip(self.sets, self.value, strict=True):
            if 0 < len(items) <= 2:
                i, j = index[items[0]], index[items[-1]]
                found[i, j] = found[j, i] = value
        return found

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a set, strongest interaction first within each size: items, size, damage, value, se."""
        import pandas

        rows = [
            {
                "items": " + ".join(self.sets[i]),
                "size": len(self.sets[i]),
                "damage": float(self.damage[i]),
                "value": float(self.value[i]),
                "se": float(self.se[i]),
            }
            for i in self._ranking()
        ]
        return pandas.DataFrame(rows)

    def describe(self, most: int = 10) -> str:
        """The strongest interactions of two items and more, one a line."""
        lines = [f"{len(self.names)} items, sets of up to {self.order}, {self.evaluations} evaluations"]
        for i in [i for i in self._ranking() if len(self.sets[i]) > 1][:most]:
            kind = ""
            if len(self.sets[i]) == 2:
                unclear = abs(self.value[i]) <= 2 * self.se[i]
                kind = "  no clear sign" if unclear else "  OR, backup" if self.value[i] > 0 else "  AND"
            what = " + ".join(self.sets[i])
            lines.append(f"{what}: {float(self.value[i]):+.3g} ± {float(self.se[i]):.2g}{kind}")
        return "\n".join(lines)

    def _ranking(self) -> list[int]:
        size = self.value.abs().tolist()
        return sorted(range(len(self.sets)), key=lambda i: (len(self.sets[i]), -size[i]))


def interactions(oracle: SetOracle, items: Iterable[str] | None = None, *, order: int = 2) -> Interactions:
    """Ablates all sets of up to `order` items and tells what each does beyond its parts.

    Costs 1 + Σ_k C(n, k) evaluations, k up to `order`: 137 for pairs of 16 items.

    Args:
        items: some of the oracle's; the others stay as they are with nothing ablated. By default all.

    Raises: InputError for an unknown or repeated item, an order that is none, or more than 65536 evaluations.
    """
    part = oracle if items is None else oracle.among(items)
    n = len(part)
    require(1 <= order <= n, "order", expected=f"a size from 1 to {n}", got=order, do="Pairs have order 2.")
    runs = sum(math.comb(n, size) for size in range(order + 1))
    require(
        runs <= _MOST_RUNS,
        "interactions",
        expected=f"at most {_MOST_RUNS} evaluations",
        got=f"{runs} for {n} items at order {order}",
        do="Name fewer items, group them, or lower the order.",
    )
    sets = [c for size in range(order + 1) for c in itertools.combinations(range(n), size)]
    ablated = torch.zeros(len(sets), n, dtype=torch.bool)
    for row, places in zip(ablated, sets, strict=True):
        row[list(places)] = True
    metric = part(ablated)
    damage = metric - metric[:1] if part.lower_is_better else metric[:1] - metric
    index = {places: i for i, places in enumerate(sets)}
    value = torch.stack([_moebius(damage, index, places) for places in sets[1:]])
    return Interactions(
        names=part.names,
        order=order,
        sets=tuple(tuple(part.names[i] for i in places) for places in sets[1:]),
        damage=damage[1:].mean(-1),
        value=value.mean(-1),
        se=standard_error(value),
        evaluations=len(sets),
    )


def _moebius(
    damage: Float[Tensor, "set batch"], index: dict[tuple[int, ...], int], places: tuple[int, ...]
) -> Float[Tensor, " batch"]:
    total = torch.zeros_like(damage[0])
    for size in range(len(places) + 1):
        parts = [index[part] for part in itertools.combinations(places, size)]
        total += (-1) ** (len(places) - size) * damage[parts].sum(0)
    return total
