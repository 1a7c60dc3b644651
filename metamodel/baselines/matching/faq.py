"""Fast approximate quadratic assignment (Vogelstein et al. 2015), by scipy and with channels kept apart."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import quadratic_assignment

from metamodel.analogy.pairs import NONE
from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.problem import Problem, agreement, as_matrix, assigned
from metamodel.subjects.config import KINDS

SWEEPS = 1000
"""Of scaling rows and columns, at most."""
STEEPEST = 3.0
"""Logarithms of a start lie within this: a steeper one takes scaling too long."""


class ScipyFaq(MatchingOpponent):
    """`scipy.optimize.quadratic_assignment`: directed, channels added, the smaller circuit padded.

    Two wishes are told through what scipy has no word for: kinds are self-loops of opposite sign, so that
    pairs of one kind gain; the similarity is where the search starts.
    """

    @property
    def name(self) -> str:
        return "faq"

    def settings(self) -> tuple[Setting, ...]:
        return grid(power=[0.5, 1.0], padding=["zeros", "centred"], kinds=[0.3, 1.0], n_steps=[30, 100])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        a, b = (edges.sum(0) for edges in problem.powered(float(setting["power"])))
        ours, theirs = (np.concatenate([s, f]) for s, f in _in_order(problem))
        n_seeds, size = len(problem.seeds), max(len(ours), len(theirs))
        if size == n_seeds:
            return problem.spread(np.zeros((len(problem.free), len(problem.free_theirs))))
        same = problem.allowed[np.ix_(ours, theirs)]
        loop = float(setting["kinds"]) * max(a.max(), b.max())
        loops = [
            np.where(kinds == KINDS.index("head"), loop, -loop)
            for kinds in (problem.kinds[ours], problem.kinds_theirs[theirs])
        ]
        centred = setting["padding"] == "centred"
        padded = []
        for edges, own in ((a[np.ix_(ours, ours)], loops[0]), (b[np.ix_(theirs, theirs)], loops[1])):
            filled = np.zeros((size, size))
            filled[: len(edges), : len(edges)] = edges - (edges.mean() if centred else 0.0)
            filled[np.arange(len(edges)), np.arange(len(edges))] = own
            padded.append(filled)
        seeds = np.stack([np.arange(n_seeds)] * 2, axis=1)
        start = self._start(problem, size - n_seeds)
        found = quadratic_assignment(
            *padded,
            method="faq",
            options={
                "maximize": True,
                "partial_match": seeds,
                "P0": start,
                "maxiter": int(setting["n_steps"]),
                # nothing is drawn; without one scipy warns where numpy was seeded
                "rng": np.random.default_rng(0),
            },
        ).col_ind
        pairs = np.full(len(problem.allowed), NONE)
        for i, j in enumerate(found):
            if i < len(ours) and j < len(theirs) and same[i, j]:
                pairs[ours[i]] = theirs[j]
        return as_matrix(pairs, len(theirs)) * agreement(problem, pairs)[:, None]

    @staticmethod
    def _start(problem: Problem, size: int) -> "Float[ndarray, 'row column'] | str":
        if problem.similarity is None:
            return "barycenter"
        start = np.zeros((size, size))
        alike = problem.among_free(
            np.where(problem.allowed, np.clip(problem.alike, -STEEPEST, STEEPEST), -STEEPEST)
        )
        start[: len(problem.free), : len(problem.free_theirs)] = alike
        return _doubly_stochastic(np.exp(start))


def _doubly_stochastic(start: Float[ndarray, "row column"]) -> Float[ndarray, "row column"]:
    """Rows and columns scaled until both sum to 1 as nearly as scipy asks."""
    for _ in range(SWEEPS):
        start = start / start.sum(0, keepdims=True)
        start = start / start.sum(1, keepdims=True)
        if np.allclose(start.sum(0), 1.0, atol=1e-6, rtol=0):
            break
    return start


def _in_order(problem: Problem) -> tuple[tuple[ndarray, ndarray], tuple[ndarray, ndarray]]:
    """Seeds first, in the same order on both sides: scipy wants them sorted."""
    return (problem.seeds[:, 0], problem.free), (problem.seeds[:, 1], problem.free_theirs)


class ChannelFaq(MatchingOpponent):
    """The same with channels kept apart and the similarity as a linear term, as in graspologic's.

    `max_P Σ_c ⟨A_c, P B_c Pᵀ⟩ + ⟨S, P⟩` by Frank–Wolfe with exact steps; rectangular, so nothing is padded.
    """

    @property
    def name(self) -> str:
        return "faq_channels"

    def settings(self) -> tuple[Setting, ...]:
        return grid(power=[0.25, 0.5, 0.75, 1.0], start=["flat", "anchors"], n_steps=[10, 30])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        a, b = problem.powered(float(setting["power"]))
        scale = np.sqrt((a**2).sum() * (b**2).sum())
        a, b = a / np.sqrt(scale or 1.0), b / np.sqrt(scale or 1.0)
        linear = problem.alike / max(len(problem.free), 1) * problem.allowed
        p = problem.allowed / np.maximum(
            np.maximum(problem.allowed.sum(0)[None], problem.allowed.sum(1)[:, None]), 1
        )
        if setting["start"] == "anchors":
            seeds = problem.spread(np.zeros((len(problem.free), len(problem.free_theirs))))
            p = as_matrix(assigned(_slope(a, b, seeds) + linear, problem.allowed), p.shape[1])
        for _ in range(int(setting["n_steps"])):
            slope = _slope(a, b, p) + linear
            direction = as_matrix(assigned(slope, problem.allowed), p.shape[1]) - p
            first = float((slope * direction).sum())
            second = float((_slope(a, b, direction) * direction).sum()) / 2
            step = 1.0 if second >= 0 else min(1.0, -first / (2 * second))
            if first <= 1e-12:
                break
            p = p + step * direction
        pairs = assigned(p, problem.allowed)
        return as_matrix(pairs, p.shape[1]) * agreement(problem, pairs)[:, None]


def _slope(a: ndarray, b: ndarray, p: Float[ndarray, "node theirs"]) -> Float[ndarray, "node theirs"]:
    """Derivative of `Σ_c ⟨A_c, P B_c Pᵀ⟩`."""
    return (a @ p @ b.swapaxes(1, 2) + a.swapaxes(1, 2) @ p @ b).sum(0)
