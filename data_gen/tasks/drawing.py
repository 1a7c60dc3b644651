"""What families share: random choices, layouts from templates, looking back in a prompt."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def at_position(values: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """The value at each row's position."""
    return values.gather(1, position[:, None])[:, 0]


def among(tokens: Int[Tensor, "batch pos"], first: int, n: int) -> Bool[Tensor, "batch pos"]:
    """Which tokens are one of `n` symbols from `first` on."""
    return (tokens >= first) & (tokens < first + n)


def put(
    tokens: Int[Tensor, "batch pos"], position: Int[Tensor, " batch"], new: Int[Tensor, " batch"]
) -> Int[Tensor, "batch pos"]:
    """A copy with `new` at each row's position."""
    return tokens.scatter(1, position[:, None], new[:, None])


def exchange(
    tokens: Int[Tensor, "batch pos"], one: Int[Tensor, " batch"], other: Int[Tensor, " batch"]
) -> Int[Tensor, "batch pos"]:
    """A copy in which two symbols of each row change places wherever they stand."""
    one, other = one[:, None], other[:, None]
    return torch.where(tokens == one, other, torch.where(tokens == other, one, tokens))


def pick(generator: torch.Generator, mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """A random position of each row among those in the mask; any position where the mask is empty."""
    return (torch.rand(mask.shape, generator=generator, device=mask.device) + mask).argmax(1)


def uniform(generator: torch.Generator, low: int, high: int, shape: Sequence[int]) -> Tensor:
    """Random integers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, tuple(shape), generator=generator, device=generator.device)


def distinct(generator: torch.Generator, n: int, n_values: int, n_drawn: int) -> Int[Tensor, "batch drawn"]:
    """For each row `n_drawn` different values below `n_values`, in random order."""
    return torch.rand(n, n_values, generator=generator, device=generator.device).argsort(1)[:, :n_drawn]


def latest(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The last position in the mask at or before each position; -1 before the first."""
    place = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, place, -1).cummax(1).values


def layouts(
    generator: torch.Generator, n: int, templates: Sequence[str], length: int
) -> Int[Tensor, "batch place"]:
    """Random templates one after the other, cut at `length`: the code of the letter at each place."""
    sizes = torch.tensor([len(t) for t in templates], device=generator.device)
    longest = int(sizes.max())
    letters = torch.tensor([[*map(ord, t.ljust(longest))] for t in templates], device=generator.device)
    chosen = uniform(generator, 0, len(templates) - 1, (n, -(-length // int(sizes.min()))))
    ends = sizes[chosen].cumsum(1)
    place = torch.arange(length, device=generator.device).expand(n, -1).contiguous()
    number = torch.searchsorted(ends, place, right=True)
    template = chosen.gather(1, number)
    return letters[template, place - (ends - sizes[chosen]).gather(1, number)]


def fill(
    layout: Int[Tensor, "batch place"], values: Mapping[str, Int[Tensor, "batch value"]]
) -> Int[Tensor, "batch place"]:
    """Tokens of a layout: at the first place of a letter its first value, at the second its second, ..."""
    tokens = torch.zeros_like(layout)
    for letter, tokens_of_letter in values.items():
        here = layout == ord(letter)
        rank = (here.cumsum(1) - 1).clamp(0, tokens_of_letter.shape[1] - 1)
        tokens = torch.where(here, tokens_of_letter.gather(1, rank), tokens)
    return tokens
