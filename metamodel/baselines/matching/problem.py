"""One pair of circuits as arrays, with what any matcher may take for granted: kinds, and anchors.

Embeddings and unembedding are known to correspond. Opponents that can use seeds are told so; what the edges
to them say of the other nodes is then a linear term.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import NONE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Two circuits and, where there is one, how alike their nodes are."""

    first: Float[ndarray, "channel node node2"]
    second: Float[ndarray, "channel theirs theirs2"]
    allowed: Bool[ndarray, "node theirs"]
    """Pairs of one kind; an anchor has one such partner at most."""
    seeds: Int[ndarray, "pair 2"]
    """Pairs of anchors."""
    free: Int[ndarray, " row"]
    """Nodes of the first circuit that are no anchors."""
    free_theirs: Int[ndarray, " column"]
    kinds: Int[ndarray, " node"]
    kinds_theirs: Int[ndarray, " theirs"]
    depth: Float[ndarray, " node"]
    depth_theirs: Float[ndarray, " theirs"]
    similarity: Float[ndarray, "node theirs"] | None
    """Mean 0 and deviation 1 over allowed pairs that are no anchors, times how strongly it counts."""

    @classmethod
    def of(
        cls,
        first: CircuitGraph,
        second: CircuitGraph,
        similarity: Float[Tensor, "node theirs"] | None = None,
    ) -> "Problem":
        allowed = (first.kinds[:, None] == second.kinds[None, :]).numpy()
        anchor, theirs = first.is_anchor.numpy(), second.is_anchor.numpy()
        seeds = np.argwhere(allowed & anchor[:, None] & theirs[None, :])
        return cls(
            first=first.edges.double().numpy(),
            second=second.edges.double().numpy(),
            allowed=allowed,
            seeds=seeds,
            free=np.flatnonzero(~anchor),
            free_theirs=np.flatnonzero(~theirs),
            kinds=first.kinds.numpy(),
            kinds_theirs=second.kinds.numpy(),
            depth=first.depth.double().numpy(),
            depth_theirs=second.depth.double().numpy(),
            similarity=None if similarity is None else similarity.double().numpy(),
        )

    @property
    def alike(self) -> Float[ndarray, "node theirs"]:
        """The similarity, or 0 where there is none."""
        return np.zeros(self.allowed.shape) if self.similarity is None else self.similarity

    def powered(self, power: float) -> tuple[ndarray, ndarray]:
        """Edges of both circuits to a power: below 1, weak edges count more."""
        return self.first**power, self.second**power

    def among_free(self, matrix: Shaped[ndarray, "node theirs"]) -> Shaped[ndarray, "row column"]:
        return matrix[np.ix_(self.free, self.free_theirs)]

    def from_anchors(
        self, first: Float[ndarray, "channel node node2"], second: Float[ndarray, "channel theirs theirs2"]
    ) -> Float[ndarray, "node theirs"]:
        """`Σ_c Σ_a A[i, a] B[j, a'] + A[a, i] B[a', j]` over pairs (a, a') of anchors."""
        ours, theirs = self.seeds.T
        written = np.einsum("cia,cja->ij", first[:, :, ours], second[:, :, theirs])
        return written + np.einsum("cai,caj->ij", first[:, ours], second[:, theirs])

    def spread(self, among_free: Float[ndarray, "row column"]) -> Float[ndarray, "node theirs"]:
        """A matrix over nodes that are no anchors as one over all nodes; anchors correspond with 1."""
        found = np.zeros(self.allowed.shape)
        found[np.ix_(self.free, self.free_theirs)] = among_free
        found[tuple(self.seeds.T)] = 1.0
        return found * self.allowed


def standardised(
    similarity: Float[Tensor, "node theirs"], first: CircuitGraph, second: CircuitGraph
) -> Float[Tensor, "node theirs"]:
    """Mean 0 and deviation 1 over pairs of one kind that are no anchors; 0 elsewhere.

    Similarities of several origins then count alike for the same weight.
    """
    among = (first.kinds[:, None] == second.kinds[None, :]) & ~first.is_anchor[:, None]
    values = similarity[among]
    if len(values) < 2 or float(values.std()) == 0:
        return similarity * 0.0
    return (similarity - values.mean()) / values.std() * among


def assigned(
    worth: Float[ndarray, "node theirs"], allowed: Bool[ndarray, "node theirs"]
) -> Int[ndarray, " node"]:
    """The best one-to-one map (linear assignment) in which nobody stays alone who could be matched."""
    lowest = worth.min(initial=0.0) - (np.ptp(worth) + 1.0) * (min(worth.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(allowed, worth, lowest), maximize=True)
    found = np.full(len(worth), NONE)
    kept = allowed[rows, columns]
    found[rows[kept]] = columns[kept]
    return found


def as_matrix(pairs: Int[ndarray, " node"], n_theirs: int) -> Float[ndarray, "node theirs"]:
    """1 for each pair of a map."""
    found = np.zeros((len(pairs), n_theirs))
    matched = np.flatnonzero(pairs != NONE)
    found[matched, pairs[matched]] = 1.0
    return found


def overlap(problem: Problem, pairs: Int[ndarray, " node"]) -> float:
    """`Σ_c ⟨A_c, P B_c Pᵀ⟩` of a map: 1 where it carries every edge onto an equal one, 0 where none meet."""
    ours = np.flatnonzero(pairs != NONE)
    theirs = pairs[ours]
    return float((problem.first[:, ours][:, :, ours] * problem.second[:, theirs][:, :, theirs]).sum())


def agreement(problem: Problem, pairs: Int[ndarray, " node"]) -> Float[ndarray, " node"]:
    """How well the edges of each matched node agree with those of its partner, under the whole map.

    `2 Σ ab / Σ (a² + b²)` over edges between matched nodes, from 0 to 1; 0 for the unmatched, and for those
    that have no such edge. It stands for the confidence of methods that give a map and nothing else.
    """
    ours = np.flatnonzero(pairs != NONE)
    theirs = pairs[ours]
    a = problem.first[:, ours][:, :, ours]
    b = problem.second[:, theirs][:, :, theirs]
    both, square = a * b, a**2 + b**2
    top = 2 * (both.sum((0, 1)) + both.sum((0, 2)))
    bottom = square.sum((0, 1)) + square.sum((0, 2))
    found = np.zeros(len(pairs))
    found[ours] = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return found
