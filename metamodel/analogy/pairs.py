"""Two circuits whose correspondence is known by construction, or that are known to have none.

A matcher sees `first` and `second` alone. Everything else is what it is judged by.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.config.errors import require

PairKind = Literal[
    "permuted", "modified", "larger", "partial", "program", "natural", "planted", "synthetic", "absent"
]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)
PAIR_SPLITS = ("train", "validation", "seed", "size", "task")
"""Both circuits of a pair belong to lineages of its split."""
NONE = -1
"""In a truth: no node of the other circuit corresponds."""
UNKNOWN = -2
"""In the truth of a batch: padding, an anchor, or a node of which nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """What is known of one circuit of a pair."""

    id: str = ""
    """Of the triple that the circuit comes from; empty for synthetic ones."""
    lineage: str = ""
    """Of its subject: what pairs are split by."""
    orbit: Int[Tensor, " node"]
    """Nodes with the same number are interchangeable: a map to one of them is as right as to another."""
    labels: Bool[Tensor, "node label"]
    """Functions that each node has, in the order of the zoo; there may be no columns."""
    known: Bool[Tensor, "node label"]
    """Where it is known whether it has it."""

    def taken(self, nodes: Int[Tensor, " kept"]) -> "Side":
        return replace(self, orbit=self.orbit[nodes], labels=self.labels[nodes], known=self.known[nodes])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedPair:
    """Two circuits and what is known of their correspondence.

    Raises: InputError if the truth is no partial one-to-one map between nodes of one kind.
    """

    first: CircuitGraph
    second: CircuitGraph
    truth: Int[Tensor, " node"] | None
    """For each node of the first circuit its counterpart in the second, or NONE; anchors go to anchors. None
    where nothing is known of single nodes."""
    kind: PairKind
    variant: str = ""
    """How pairs of this kind were made, such as `pruned`, `rewired` or `missing`."""
    present: bool = True
    """Whether the first circuit is there in the second at all."""
    split: str
    first_side: Side
    second_side: Side
    level: dict[str, float] = field(default_factory=dict)
    """How far the second circuit was moved from the first; empty where it was not chosen."""
    missing: tuple[str, ...] = ()
    """Names, in the first circuit, of the two ends of the one edge that the second lacks; empty elsewhere."""

    def __post_init__(self):
        if self.truth is not None:
            _check_truth(self.truth, self.first, self.second, f"{self.kind} pair {self.name}")

    @property
    def name(self) -> str:
        return f"{self.first_side.id or 'synthetic'} / {self.second_side.id or 'synthetic'}"

    @property
    def lineages(self) -> tuple[str, ...]:
        """The one or two lineages of the pair, which intervals are resampled over."""
        return tuple(sorted({self.first_side.lineage, self.second_side.lineage}))

    @property
    def n_corresponding(self) -> int:
        """Pairs of heads and MLPs that truly correspond: where growing the map should stop.

        Raises: InputError where the truth is not known.
        """
        require(
            self.truth is not None,
            f"pair {self.name}",
            expected="a known truth",
            got="none",
            do="Ask pairs whose `truth` is not None.",
        )
        assert self.truth is not None
        return int(((self.truth != NONE) & ~self.first.is_anchor).sum())

    def permuted(self, first: Int[Tensor, " node"], second: Int[Tensor, " theirs"]) -> "MatchedPair":
        """The same pair with its nodes in another order: place i holds what was at `first[i]`."""
        return replace(
            self,
            first=self.first.taken(first),
            second=self.second.taken(second),
            truth=None if self.truth is None else reordered(self.truth, first, second),
            first_side=self.first_side.taken(first),
            second_side=self.second_side.taken(second),
        )

    def swapped(self) -> "MatchedPair":
        """The pair seen from the other side."""
        require(
            not self.missing,
            f"pair {self.name}",
            expected="a pair without a missing edge",
            got="one that names it in its first circuit",
            do="Leave its sides as they are.",
        )
        return replace(
            self,
            first=self.second,
            second=self.first,
            truth=None if self.truth is None else inverted(self.truth, len(self.second)),
            first_side=self.second_side,
            second_side=self.first_side,
        )

    def with_features(
        self, first: Float[Tensor, "node feature"], second: Float[Tensor, "theirs feature"]
    ) -> "MatchedPair":
        return replace(
            self,
            first=replace(self.first, features=first),
            second=replace(self.second, features=second),
        )


def reordered(
    truth: Int[Tensor, " node"], first: Int[Tensor, " kept"], second: Int[Tensor, " theirs"]
) -> Int[Tensor, " kept"]:
    """A truth among the nodes that are left, in their new order; those whose counterpart is gone have NONE.

    Args:
        first, second: old index of each node that is left, on either side.
    """
    if len(truth) == 0:
        return truth.new_empty(0)
    largest = max(int(truth.max()), int(second.max()) if len(second) else 0) + 1
    place = truth.new_full((largest + 1,), NONE)  # the last place is that of NONE = -1
    place[second] = torch.arange(len(second), dtype=truth.dtype, device=truth.device)
    return place[truth[first]]


def inverted(truth: Int[Tensor, " node"], n: int) -> Int[Tensor, " theirs"]:
    """For each of the `n` nodes of the second circuit its counterpart in the first."""
    found = truth.new_full((n,), NONE)
    matched = (truth != NONE).nonzero().squeeze(1)
    found[truth[matched]] = matched.to(truth.dtype)
    return found


def blank_side(n: int, *, id: str = "", lineage: str = "", n_labels: int = 0) -> Side:
    """Nothing is known of `n` nodes, and none of them is interchangeable with another."""
    nothing = torch.zeros(n, n_labels, dtype=torch.bool)
    return Side(id=id, lineage=lineage, orbit=torch.arange(n), labels=nothing, known=nothing)


def _check_truth(truth: Int[Tensor, " node"], first: CircuitGraph, second: CircuitGraph, where: str) -> None:
    do = "Make the truth a partial one-to-one map between nodes of one kind."
    require(len(truth) == len(first), where, expected=f"{len(first)} entries", got=len(truth), do=do)
    matched = truth != NONE
    images = truth[matched]
    inside = bool(((images >= 0) & (images < len(second))).all())
    require(inside, where, expected=f"nodes below {len(second)}", got=images.tolist(), do=do)
    once = len(images.unique()) == len(images)
    require(once, where, expected="each node at most once", got=images.tolist(), do=do)
    same = bool((first.kinds[matched] == second.kinds[images]).all())
    require(same, where, expected="nodes of one kind", got="kinds that differ", do=do)
