"""Solvers of quadratic assignment in Lawler's form, by pygmtools: they need the affinity of pairs of pairs.

`K[(i, j), (k, l)]` is a dense matrix of (nm)² numbers, so this is for small circuits only. Anchors are not
among its nodes: what the edges to them say stands on the diagonal, beside the similarity.
"""

import warnings
from abc import abstractmethod
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.library import library
from metamodel.baselines.matching.problem import Problem, agreement, as_matrix, assigned
from metamodel.config.errors import require

MOST_PAIRS = 4096
"""Pairs of nodes of which an affinity is made: 64 MiB of numbers."""


def affinity(
    problem: Problem, *, power: float, form: str, weight: float = 1.0
) -> Float[Tensor, "entry same"]:
    """`K`, pairs (i, j) in the order `j * n + i`, nonnegative; entries of pairs that may not match are 0.

    Args:
        form: `product`, `Σ_c a b`; `gain`, `Σ_c max(2ab − (a² + b²)/2, 0)`: only edges that are alike.
        weight: of the edges to anchors.

    Raises: InputError for circuits with too many nodes.
    """
    n, m = len(problem.free), len(problem.free_theirs)
    require(
        n * m <= MOST_PAIRS,
        "opponents in Lawler's form",
        expected=f"at most {MOST_PAIRS} pairs of nodes",
        got=n * m,
        do="Match smaller circuits, or leave these opponents out.",
    )
    a, b = (torch.tensor(edges, dtype=torch.float32) for edges in problem.powered(power))
    inner_a = a[:, problem.free][:, :, problem.free]
    inner_b = b[:, problem.free_theirs][:, :, problem.free_theirs]
    k = torch.zeros(m, n, m, n)
    for one, other in zip(inner_a, inner_b, strict=True):
        if not (one.any() and other.any()):
            continue
        # [j, i, l, k] of the edges i -> k and j -> l
        product = one[None, :, None, :] * other[:, None, :, None]
        if form == "gain":
            square = one[None, :, None, :] ** 2 + other[:, None, :, None] ** 2
            product = (2 * product - square / 2).clamp_min(0)
        k += product
    k = k.reshape(n * m, n * m)
    k = k + k.T
    scale = float(k.max()) or 1.0
    anchored = weight * problem.among_free(problem.from_anchors(*problem.powered(power)))
    if problem.similarity is not None:
        anchored = anchored + scale * np.exp(problem.among_free(problem.alike)) / 2
    allowed = torch.tensor(problem.among_free(problem.allowed).T.reshape(-1), dtype=torch.float32)
    k = k + torch.diag(torch.tensor(anchored.T.reshape(-1), dtype=torch.float32))
    return k * allowed[:, None] * allowed[None, :] / scale


class Lawler(MatchingOpponent):
    """A solver of pygmtools."""

    def settings(self) -> tuple[Setting, ...]:
        return grid(power=[0.5, 1.0], form=["product", "gain"], anchors=[0.5, 2.0], n_steps=[20, 100])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        n, m = len(problem.free), len(problem.free_theirs)
        if n * m == 0:
            return problem.spread(np.zeros((n, m)))
        k = affinity(
            problem,
            power=float(setting["power"]),
            form=str(setting["form"]),
            weight=float(setting["anchors"]),
        )
        pygmtools = library("pygmtools")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", module="pygmtools")
            x = self.solved(pygmtools, k, n, m, setting)
        return problem.spread(np.nan_to_num(x.double().numpy()))

    @abstractmethod
    def solved(
        self, pygmtools: ModuleType, k: Float[Tensor, "entry same"], n: int, m: int, setting: Setting
    ) -> Float[Tensor, "row column"]:
        """What each pair is worth, 0 to 1."""


class SpectralMatching(Lawler):
    """Leading eigenvector of the affinity (Leordeanu & Hebert 2005)."""

    @property
    def name(self) -> str:
        return "sm"

    def solved(
        self, pygmtools: ModuleType, k: Float[Tensor, "entry same"], n: int, m: int, setting: Setting
    ) -> Float[Tensor, "row column"]:
        x = pygmtools.sm(k, n, m, max_iter=int(setting["n_steps"]), backend="pytorch")
        return x / x.max().clamp_min(1e-12)


class ReweightedWalks(Lawler):
    """Reweighted random walks (Cho et al. 2010)."""

    @property
    def name(self) -> str:
        return "rrwm"

    def settings(self) -> tuple[Setting, ...]:
        return grid(power=[0.5, 1.0], form=["product", "gain"], anchors=[1.0], jump=[0.2, 0.5], beta=[10, 30])

    def solved(
        self, pygmtools: ModuleType, k: Float[Tensor, "entry same"], n: int, m: int, setting: Setting
    ) -> Float[Tensor, "row column"]:
        x = pygmtools.rrwm(
            k, n, m, alpha=float(setting["jump"]), beta=float(setting["beta"]), backend="pytorch"
        )
        return x / x.max().clamp_min(1e-12)


class IntegerProjection(Lawler):
    """Integer projected fixed point (Leordeanu et al. 2009); its pairs are as sure as their edges agree."""

    @property
    def name(self) -> str:
        return "ipfp"

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        pairs = assigned(super().worth(problem, setting), problem.allowed)
        return as_matrix(pairs, problem.allowed.shape[1]) * agreement(problem, pairs)[:, None]

    def solved(
        self, pygmtools: ModuleType, k: Float[Tensor, "entry same"], n: int, m: int, setting: Setting
    ) -> Float[Tensor, "row column"]:
        return pygmtools.ipfp(k, n, m, max_iter=int(setting["n_steps"]), backend="pytorch")
