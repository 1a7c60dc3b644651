"""Pairs of circuits as a training step takes them: padded, with the truth in indices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from metamodel.analogy.graph import CircuitBatch, stacked
from metamodel.analogy.pairs import NONE, UNKNOWN, MatchedPair


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs with their truth."""

    first: CircuitBatch
    second: CircuitBatch
    to_second: Int[Tensor, "pair node"]
    """Index of the counterpart; NONE for none; UNKNOWN for anchors, padding, and where nothing is known."""
    present: Bool[Tensor, " pair"]
    """Whether the first circuit has a counterpart at all."""
    presence_known: Bool[Tensor, " pair"]
    """Where that is known: not of natural pairs, nor of circuits that lack an edge, which are half there."""
    third: CircuitBatch | None = None
    """Of the first pairs of the batch a circuit each that both are mapped to as well, for cycles; nothing of
    these maps is known."""

    def __len__(self) -> int:
        return len(self.present)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PairBatch":
        """On another device, as trainers ask for it."""
        return PairBatch(
            first=self.first.to(device),
            second=self.second.to(device),
            to_second=self.to_second.to(device, non_blocking=non_blocking),
            present=self.present.to(device, non_blocking=non_blocking),
            presence_known=self.presence_known.to(device, non_blocking=non_blocking),
            third=None if self.third is None else self.third.to(device),
        )


def batched(pairs: Sequence[MatchedPair]) -> PairBatch:
    """Of absent pairs no node has a counterpart; of natural ones nothing is asked."""
    first, second = stacked([pair.first for pair in pairs]), stacked([pair.second for pair in pairs])
    to_second = torch.full(first.mask.shape, UNKNOWN)
    for i, pair in enumerate(pairs):
        ours = ~pair.first.is_anchor
        if pair.truth is not None:
            to_second[i, : len(ours)] = torch.where(ours, pair.truth, UNKNOWN)
        elif not pair.present:
            to_second[i, : len(ours)] = torch.where(ours, NONE, UNKNOWN)
    return PairBatch(
        first=first,
        second=second,
        to_second=to_second,
        present=torch.tensor([pair.present for pair in pairs]),
        presence_known=torch.tensor([pair.kind != "natural" and not pair.missing for pair in pairs]),
    )
