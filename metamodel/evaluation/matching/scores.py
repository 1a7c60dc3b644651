"""What a match is worth, pair by pair: a number, or a few, for each pair that has the truth it needs.

Anchors match themselves and are never counted. Interchangeable nodes (orbits; in `program` pairs, nodes that
implement the same variable) count as one another, no more often than they truly correspond.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.config.errors import require

N_SHUFFLES = 200
"""Shuffles that label agreement is held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one map: pairs that are right, that it made, and that truly are. Anchors are left out."""

    right: int
    made: int
    true: int

    @property
    def f1(self) -> float:
        """2 · right / (made + true), from 0 to 1; 1 where there is nothing to find and nothing was found."""
        return 2 * self.right / (self.made + self.true) if self.made + self.true else 1.0

    @property
    def precision(self) -> float:
        return self.right / self.made if self.made else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else float("nan")


def counts(pair: MatchedPair, pairs: Int[Tensor, " node"]) -> Counts:
    """How a map compares with the truth, orbits taken as one.

    A pair (i, j) is right where the truth has a pair of i's orbit and j's orbit, each such pair once. That is
    the partner itself, an interchangeable partner, or the partner of an interchangeable node.

    Raises: InputError where the truth is not known, or for another number of nodes.
    """
    truth = _truth(pair)
    require(
        len(pairs) == len(pair.first),
        f"map of {pair.name}",
        expected=f"{len(pair.first)} entries",
        got=len(pairs),
        do="Give the index of a counterpart, or -1, for each node of the first circuit.",
    )
    made, true = _orbits(pair, pairs), _orbits(pair, truth)
    return Counts(right=(made & true).total(), made=made.total(), true=true.total())


def partial_f1(pair: MatchedPair, pairs: Int[Tensor, " node"]) -> float:
    """F1 of the pairs that a map made, over nodes that are no anchors."""
    return counts(pair, pairs).f1


def _orbits(pair: MatchedPair, pairs: Int[Tensor, " node"]) -> Counter[tuple[int, int]]:
    counted = (pairs != NONE) & ~pair.first.is_anchor
    first, second = pair.first_side.orbit[counted], pair.second_side.orbit[pairs[counted]]
    return Counter(zip(first.tolist(), second.tolist(), strict=True))


def alone(
    pair: MatchedPair, p: Float[Tensor, "node theirs"]
) -> tuple[Bool[ndarray, " item"], Float[ndarray, " item"]]:
    """Which nodes of both circuits have no counterpart, and how sure the match is of it: `1 − Σ p`.

    For average precision over the nodes of many pairs (`dustbin_average_precision`).
    """
    truth = _truth(pair)
    inner, inner_theirs = ~pair.first.is_anchor, ~pair.second.is_anchor
    found = torch.zeros(len(pair.second), dtype=torch.bool)
    found[truth[truth != NONE]] = True
    lonely = torch.cat([(truth == NONE)[inner], ~found[inner_theirs]])
    sure = torch.cat([1 - p.sum(1)[inner], 1 - p.sum(0)[inner_theirs]])
    return lonely.numpy(), sure.double().numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakdownGuesses:
    """What training pairs alone say of where a map breaks down."""

    constant: float
    """Median of the true numbers of pairs."""
    slopes: tuple[float, float, float]
    """Least squares in the numbers of inner nodes of both circuits: intercept, first, second."""

    @classmethod
    def of(cls, training: Sequence[MatchedPair]) -> "BreakdownGuesses":
        """Raises: InputError without training pairs of known truth."""
        known = [pair for pair in training if pair.truth is not None and pair.present]
        require(bool(known), "breakdown guesses", expected="known truths", got="none", do="Give such pairs.")
        true = np.array([pair.n_corresponding for pair in known], dtype=np.float64)
        slopes, *_ = np.linalg.lstsq(np.array([_sizes(pair) for pair in known]), true, rcond=None)
        return cls(constant=float(np.median(true)), slopes=tuple(slopes.tolist()))

    def size_prior(self, pair: MatchedPair) -> int:
        """Of one pair: a whole number that both circuits have nodes for."""
        sizes = _sizes(pair)
        guess = round(float(np.dot(self.slopes, sizes)))
        return int(np.clip(guess, 0, min(sizes[1:])))


def breakdown_error(pair: MatchedPair, k: float | int) -> float:
    """`|k − k_true|`, in pairs.

    Args:
        k: number of pairs after which the map breaks down.
    """
    return float(abs(k - pair.n_corresponding))


def _sizes(pair: MatchedPair) -> tuple[float, float, float]:
    return 1.0, float((~pair.first.is_anchor).sum()), float((~pair.second.is_anchor).sum())


def label_agreement(pair: MatchedPair, pairs: Int[Tensor, " node"], *, seed: int = 0) -> float:
    """How much likelier matched nodes share a function than nodes of the same kind and depth do.

    `(a − ā) / (1 − ā)`: a is the share of matched pairs with a label in common, among those of which either
    node has a label that is known of both; ā is its mean over shuffles of the second circuit's nodes within
    kind and depth. 1 where all agree, 0 for chance; NaN where nothing can be judged, or chance agrees always.
    """
    matched = ((pairs != NONE) & ~pair.first.is_anchor).nonzero().squeeze(1)
    theirs = pairs[matched]
    found = _agreement(pair, matched, theirs[None])[0]
    shuffled = _shuffles(pair, seed)[:, theirs]
    by_chance = _agreement(pair, matched, shuffled)
    known = by_chance[~np.isnan(by_chance)]
    if np.isnan(found) or not len(known) or known.mean() >= 1:
        return float("nan")
    return float((found - known.mean()) / (1 - known.mean()))


def _agreement(
    pair: MatchedPair, matched: Int[Tensor, " kept"], theirs: Int[Tensor, "resample kept"]
) -> Float[ndarray, " resample"]:
    first, second = pair.first_side, pair.second_side
    known = first.known[matched] & second.known[theirs]
    ours, others = first.labels[matched] & known, second.labels[theirs] & known
    judged = (ours | others).any(-1)
    agree = (ours & others).any(-1)
    n = judged.sum(-1).double().numpy()
    return np.divide(agree.sum(-1).double().numpy(), n, out=np.full(len(n), np.nan), where=n > 0)


def _shuffles(pair: MatchedPair, seed: int) -> Int[Tensor, "resample theirs"]:
    """Orders of the second circuit's nodes, each node in the place of one of its kind and depth."""
    generator = torch.Generator().manual_seed(seed)
    graph = pair.second
    drawn = torch.rand(N_SHUFFLES, len(graph), generator=generator)
    groups = torch.stack([graph.kinds.double(), graph.depth.double()], 1).unique(dim=0, return_inverse=True)[
        1
    ]
    places = torch.argsort(groups, stable=True)
    # sorted by group, then by chance: the n-th of a group stands where the n-th of that group stood
    moved = torch.argsort(groups.double() + drawn, dim=1)
    found = torch.empty_like(moved)
    found[:, places] = moved
    return found


def _truth(pair: MatchedPair) -> Int[Tensor, " node"]:
    require(
        pair.truth is not None,
        f"pair {pair.name}",
        expected="a known truth",
        got="none",
        do="Judge such pairs by label agreement or transplant.",
    )
    assert pair.truth is not None
    return pair.truth
