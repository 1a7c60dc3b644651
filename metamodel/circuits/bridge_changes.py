"""What is done to values at hooks when a bridge is patched; rows of a value are `[patch · batch, pos, ...]`.

Heads of a block read and write side by side, on an axis of their own; all else has none.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.subjects.interchange.forks import Change


def adding(delta: Float[Tensor, "batch pos d_model"], head: int | None) -> Change:
    """Adds to the whole, or to one head's own."""

    def change(value: Tensor) -> Tensor:
        if head is None:
            return value + delta.to(value)
        value = value.clone()
        value[:, :, head] += delta.to(value)
        return value

    return change


def adding_to_heads(delta: Float[Tensor, "patch batch pos d_model"], heads: Int[Tensor, " patch"]) -> Change:
    """Adds to another head in each patch."""
    patches = torch.arange(len(delta), device=delta.device)

    def change(value: Tensor) -> Tensor:
        by_patch = value.unflatten(0, (len(delta), -1)).clone()
        by_patch[patches, :, :, heads] += delta.to(value)
        return by_patch.flatten(0, 1)

    return change


def then(first: Change, second: Change) -> Change:
    return lambda value: second(first(value))


def watched(leaves: dict[str, Tensor], site: str) -> Change:
    """Keeps a zero that is added, for the gradient in the value."""

    def change(value: Tensor) -> Tensor:
        leaves[site] = torch.zeros_like(value, requires_grad=True)
        return value + leaves[site]

    return change


def replacing(mask: Bool[Tensor, "patch d_mlp"], patch: Float[Tensor, "batch pos d_mlp"]) -> Change:
    """Puts other values where the mask says so, patch by patch."""

    def change(value: Tensor) -> Tensor:
        by_patch = value.unflatten(0, (len(mask), -1))
        return torch.where(mask[:, None, None], patch.to(value), by_patch).flatten(0, 1)

    return change


def noting(
    gap: Float[Tensor, "patch source batch pos d_model"],
    patch: Float[Tensor, "source batch pos d_model"],
    first: int,
) -> Change:
    """Notes in `gap`, from source `first` on, by how much what is written here differs from the patch."""

    def change(value: Tensor) -> Tensor:
        written = value.unflatten(0, (len(gap), -1))
        written = written.movedim(3, 1) if written.ndim == 5 else written.unsqueeze(1)
        last = first + written.shape[1]
        gap[:, first:last] = patch[first:last] - written.to(patch)
        return value

    return change


def closing(
    gap: Float[Tensor, "patch source batch pos d_model"],
    patched: Float[Tensor, "patch destination source"],
) -> Change:
    """Adds the gaps of the sources that are patched for each destination that reads here."""
    used = patched.any(1).any(0).nonzero()
    n = int(used.max()) + 1 if len(used) else 0  # later sources have not written yet

    def change(value: Tensor) -> Tensor:
        if n == 0:
            return value
        added = (patched[..., :n] @ gap[:, :n].flatten(2)).unflatten(-1, gap.shape[2:])
        added = added.permute(0, 2, 3, 1, 4).flatten(0, 1)  # destinations behind positions
        return value + (added if value.ndim == 4 else added.squeeze(2)).to(value)

    return change
