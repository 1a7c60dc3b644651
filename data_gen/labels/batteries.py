"""Prompts of random tokens that any subject has: without repetition, and with it."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.labels.registry import FEW, MIN_PERIOD


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batteries:
    """BOS, then random symbols."""

    random: Int[Tensor, "batch pos"]
    """Distinct symbols, where there are enough of them."""
    repeated: Int[Tensor, "batch pos"] | None
    """A few symbols of filler, then one sequence over and over; its period and start differ from prompt to
    prompt, so that no fixed distance finds the repetition. None if prompts are too short for it."""
    few: Int[Tensor, "batch pos"]
    """Symbols drawn with replacement from a few, so that pairs of them come again in other prompts."""


def _distinct(
    generator: torch.Generator, n: int, length: int, symbols: Int[Tensor, " symbol"]
) -> Int[Tensor, "batch pos"]:
    if length <= len(symbols):
        order = torch.rand(n, len(symbols), generator=generator).argsort(-1)[:, :length]
    else:
        order = torch.randint(len(symbols), (n, length), generator=generator)
    return symbols[order]


def batteries(
    generator: torch.Generator, *, n: int, n_pos: int, bos: int, symbols: Int[Tensor, " symbol"]
) -> Batteries:
    """`n` prompts of `n_pos` tokens each over the given symbols: distinct, repeated, and of a few."""
    length = n_pos - 1
    first = torch.full((n, 1), bos)
    random = torch.cat([first, _distinct(generator, n, length, symbols)], dim=1)
    repeated = _repeated(generator, n, length, symbols)
    alphabet = symbols[torch.randperm(len(symbols), generator=generator)[:FEW]]
    few = alphabet[torch.randint(len(alphabet), (n, length), generator=generator)]
    return Batteries(
        random=random,
        repeated=None if repeated is None else torch.cat([first, repeated], dim=1),
        few=torch.cat([first, few], dim=1),
    )


def _repeated(
    generator: torch.Generator, n: int, length: int, symbols: Int[Tensor, " symbol"]
) -> Int[Tensor, "batch pos"] | None:
    longest = min(length // 2, len(symbols))
    if longest < MIN_PERIOD:
        return None
    period = torch.randint(MIN_PERIOD, longest + 1, (n, 1), generator=generator)
    most_filler = (length - 2 * period).minimum(
        len(symbols) - period
    )  # filler shares no symbol with the rest
    filler = (torch.rand(n, 1, generator=generator) * (most_filler + 1)).long()
    place = torch.arange(length).expand(n, length)
    place = torch.where(place < filler, place, filler + (place - filler) % period)
    drawn = _distinct(generator, n, len(symbols), symbols)
    return drawn.gather(1, place)
