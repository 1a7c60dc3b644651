"""Families of sets over the lattice of subsets: minimal sets, transversals, and both at once.

A set of items is an int, bit i for item i. A verdict says for each set whether *keeping* only it works.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

Works = Callable[[Sequence[int]], Sequence[bool]]
"""For sets of kept items, whether each works."""


def members(one: int) -> tuple[int, ...]:
    """Items of a set, ascending."""
    return tuple(i for i in range(one.bit_length()) if one >> i & 1)


def minimal(family: Iterable[int]) -> tuple[int, ...]:
    """The sets of a family that contain no other one of it; smallest first."""
    found: list[int] = []
    for one in sorted(set(family), key=lambda s: (s.bit_count(), members(s))):
        if not any(known & one == known for known in found):
            found.append(one)
    return tuple(found)


def transversals(family: Iterable[int]) -> tuple[int, ...]:
    """All minimal sets that meet each set of a family (Berge's algorithm, one set after another)."""
    found: tuple[int, ...] = (0,)
    for one in family:
        hit = [t for t in found if t & one]
        missing = [t | 1 << i for t in found if not t & one for i in members(one)]
        found = minimal([*hit, *missing])
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """The verdict on every set of n items, so that all that it says is exact, monotone or not."""

    n: int
    works: Bool[Tensor, " set"]
    """By the set as an int."""

    def smallest(self) -> tuple[int, ...]:
        """Sets that work while no proper subset does."""
        below = self._any_below(self.works)
        proper = torch.zeros_like(self.works)
        for i in range(self.n):
            _pairs(proper, i)[:, 1] |= _pairs(below, i)[:, 0]
        return minimal((self.works & ~proper).nonzero().squeeze(1).tolist())

    def breaking(self) -> "Table":
        """The verdict whether *ablating* a set breaks, as another table."""
        return Table(n=self.n, works=~self.works.flip(0))

    def helping(self, i: int) -> bool:
        """Whether some set that does not work does with this item besides."""
        without, having = _pairs(self.works, i).unbind(1)
        return bool((having & ~without).any())

    def harming(self, i: int) -> bool:
        """Whether some set that works does not with this item besides."""
        without, having = _pairs(self.works, i).unbind(1)
        return bool((without & ~having).any())

    def _any_below(self, works: Bool[Tensor, " set"]) -> Bool[Tensor, " set"]:
        """Whether a set or any subset of it works."""
        found = works.clone()
        for i in range(self.n):
            _pairs(found, i)[:, 1] |= _pairs(found, i)[:, 0]
        return found


def _pairs(x: Bool[Tensor, " set"], i: int) -> Tensor:
    """A view whose second axis says whether the set has item i."""
    return x.view(-1, 2, 1 << i)


def both_families(works: Works, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """All minimal working and all minimal breaking sets of a monotone verdict, without asking for every set.

    Joint generation (Gurvich and Khachiyan 1999): each minimal transversal of the working sets found so far
    either breaks, and is then a minimal breaking set, or what it leaves works and shrinks to a working set
    that is new. It ends when all transversals break: the two families are then dual, which proves both
    complete if the verdict is monotone. Asks for at most one set for each breaking set and n + 1 for each
    working one. The whole set is known to work, the empty one not to.
    """
    whole = (1 << n) - 1
    working: list[int] = []
    broken: set[int] = set()
    while True:
        open_ones = [t for t in transversals(working) if t not in broken]
        if not open_ones:
            return minimal(working), minimal(broken)
        left = whole & ~open_ones[0]
        if open_ones[0] == 0 or works([left])[0]:
            working.append(_shrunk(works, left))
        else:
            broken.add(open_ones[0])


def _shrunk(works: Works, one: int) -> int:
    for i in members(one):
        smaller = one & ~(1 << i)
        if smaller and works([smaller])[0]:
            one = smaller
    return one
