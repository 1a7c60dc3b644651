"""Gromov–Wasserstein couplings of circuits by POT: fused, partial and unbalanced.

A node's mass goes where the edges that it would have there are the edges that it has. Kinds are a cost that
nothing outweighs. Circuits are solved one by one: padded with nodes of mass 0, POT answers NaN.
"""

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.library import library
from metamodel.baselines.matching.problem import Problem

FORBIDDEN = 30.0
"""Cost of a pair of two kinds, in deviations of the similarity."""
MASS_FLOOR = 0.2
"""Share of uniform mass that a node has at least, where mass follows edges."""
STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """What POT is asked about a pair of circuits."""

    cost: Float[ndarray, "node theirs"]
    """M: of moving mass from a node to another."""
    edges: tuple[Float[ndarray, "node node2"], Float[ndarray, "theirs theirs2"]]
    """C and C', of one scale."""
    masses: tuple[Float[ndarray, " node"], Float[ndarray, " theirs"]]
    """Each sums to 1."""


class Transport(MatchingOpponent):
    """A coupling with `(1 − α)⟨M, T⟩ + α Σ (C_ik − C'_jl)² T_ij T_kl` at its heart."""

    soft = True

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        first, second = (edges.sum(0) for edges in problem.powered(float(setting["power"])))
        scale = np.sqrt((first**2).mean() + (second**2).mean()) or 1.0
        cost = np.where(problem.allowed, problem.alike.max() - problem.alike, FORBIDDEN)
        p, q = (mass(edges, str(setting.get("mass", "uniform"))) for edges in (first, second))
        with warnings.catch_warnings():
            # POT warns where its inner solver stops early, and divides by marginals that a plan left empty
            warnings.filterwarnings("ignore", category=UserWarning, module=r"ot\.")
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"ot\.")
            given = Given(cost=cost, edges=(first / scale, second / scale), masses=(p, q))
            found = self.coupled(library("ot"), given, setting)
        found = np.nan_to_num(np.asarray(found)) / np.maximum(p[:, None], q[None, :])
        return found / np.maximum(1.0, np.maximum(found.sum(0).max(), found.sum(1).max()))

    @abstractmethod
    def coupled(self, ot: ModuleType, given: Given, setting: Setting) -> Float[ndarray, "node theirs"]:
        """The plan."""


def mass(edges: Float[ndarray, "node node2"], form: str) -> Float[ndarray, " node"]:
    """Mass of nodes, which sums to 1.

    Args:
        form: `uniform`, or `edges` for the share of edges that each touches, with a floor.
    """
    n = len(edges)
    touched = edges.sum(0) + edges.sum(1)
    if form == "uniform" or touched.sum() == 0:
        return np.full(n, 1 / n)
    floored = touched / touched.sum() + MASS_FLOOR / n
    return floored / floored.sum()


class Fused(Transport):
    """Fused Gromov–Wasserstein (Vayer et al. 2020): all mass moves."""

    @property
    def name(self) -> str:
        return "fgw"

    def settings(self) -> tuple[Setting, ...]:
        return grid(alpha=[0.5, 0.8, 0.95, 0.99], power=[0.5, 1.0], mass=["uniform", "edges"])

    def coupled(self, ot: ModuleType, given: Given, setting: Setting) -> Float[ndarray, "node theirs"]:
        return ot.gromov.fused_gromov_wasserstein(
            given.cost,
            *given.edges,
            *given.masses,
            alpha=float(setting["alpha"]),
            symmetric=False,
            max_iter=STEPS,
        )


class Partial(Transport):
    """Partial fused Gromov–Wasserstein (Chapel et al. 2020): a set share of mass moves."""

    @property
    def name(self) -> str:
        return "partial_fgw"

    def settings(self) -> tuple[Setting, ...]:
        return grid(alpha=[0.8, 0.95], power=[0.5, 1.0], share=[0.5, 0.65, 0.8, 0.95])

    def coupled(self, ot: ModuleType, given: Given, setting: Setting) -> Float[ndarray, "node theirs"]:
        return ot.gromov.partial_fused_gromov_wasserstein(
            given.cost,
            *given.edges,
            *given.masses,
            m=float(setting["share"]),
            alpha=float(setting["alpha"]),
            symmetric=False,
            numItermax=STEPS,
            warn=False,
        )


class Unbalanced(Transport):
    """Fused unbalanced Gromov–Wasserstein (Thual et al. 2022): mass may be made and lost, at a cost."""

    @property
    def name(self) -> str:
        return "unbalanced_fgw"

    def settings(self) -> tuple[Setting, ...]:
        return grid(alpha=[0.05, 0.5], power=[0.5, 1.0], rho=[0.3, 3.0], epsilon=[0.01, 0.1])

    def coupled(self, ot: ModuleType, given: Given, setting: Setting) -> Float[ndarray, "node theirs"]:
        try:
            plan, _ = ot.gromov.fused_unbalanced_gromov_wasserstein(
                *given.edges,
                *given.masses,
                reg_marginals=float(setting["rho"]),
                epsilon=float(setting["epsilon"]),
                alpha=float(setting["alpha"]),
                M=given.cost,
                unbalanced_solver="sinkhorn_log",
                max_iter=20,
                max_iter_ot=50,
            )
        except ValueError as error:
            if "NaN in coupling" not in str(error):
                raise
            return np.zeros_like(given.cost)  # it diverges on some circuits: then it matches nothing
        return plan
