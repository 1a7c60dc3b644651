"""Delta debugging: from a set that matters to a part of it of which nothing can be left out."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np


def ddmin(items: Sequence[int], matters: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
    """A subset that still matters, while taking out any one item makes it stop mattering.

    Zeller and Hildebrandt 2002, figure 2: try parts, then complements of parts, then finer parts. The items
    together matter. About 2n tests at worst for a monotone verdict on few items, n² otherwise.
    """
    left, parts = list(items), 2
    while len(left) >= 2:
        cuts = np.linspace(0, len(left), parts + 1).astype(int).tolist()
        chunks = [left[a:b] for a, b in itertools.pairwise(cuts)]
        smaller = next((chunk for chunk in chunks if matters(chunk)), None)
        if smaller is not None:
            left, parts = smaller, 2
            continue
        rests = [[i for i in left if i not in set(chunk)] for chunk in chunks] if parts > 2 else []
        smaller = next((rest for rest in rests if matters(rest)), None)
        if smaller is not None:
            left, parts = smaller, max(parts - 1, 2)
        elif parts == len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return tuple(left)
