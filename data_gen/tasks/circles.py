"""Ordered lists of tokens that begin again at their ends: numbers, months and days."""

import torch

from data_gen.tasks.base import FIRST_SYMBOL
from data_gen.tasks.rule import Tokens

LISTS = (12, 12, 7)
"""Numbers, months and days."""
SIZE, INDEX = torch.tensor([(1, 0)] * FIRST_SYMBOL + [(n, i) for n in LISTS for i in range(n)]).T
"""Of each token: how long its list is, and its number there. What is no item is a list of its own."""


def onwards(items: Tokens, steps: Tokens) -> Tokens:
    """The items so many steps on in their lists."""
    size, index = SIZE.to(items.device)[items], INDEX.to(items.device)[items]
    return items - index + (index + steps) % size


_ITEMS = torch.arange(FIRST_SYMBOL, FIRST_SYMBOL + sum(LISTS)).unsqueeze(0)
SUCCESSORS = tuple(zip(_ITEMS[0].tolist(), onwards(_ITEMS, torch.ones_like(_ITEMS))[0].tolist(), strict=True))
"""Each item with the next one of its list."""
