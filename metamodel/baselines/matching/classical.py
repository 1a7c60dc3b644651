"""Our own matcher without learning, behind the interface of the opponents and with their budget.

It is no opponent: reports name it beside the meta-model, whose last steps unroll the same energy.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from metamodel.analogy.graph import CircuitBatch
from metamodel.analogy.solver import SolverSetting, rounded, solve
from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.problem import Problem, agreement, as_matrix


class Classical(MatchingOpponent):
    """Directed, channel-wise, partial Frank–Wolfe on the edge-gain energy."""

    @property
    def name(self) -> str:
        return "classical"

    def settings(self) -> tuple[Setting, ...]:
        return grid(tau=[0.2, 0.35, 0.5, 0.65], power=[0.5, 1.0], n_starts=[1, 4])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        first, second = (
            _batch(edges, kinds)
            for edges, kinds in zip(
                problem.powered(float(setting["power"])), (problem.kinds, problem.kinds_theirs), strict=True
            )
        )
        found = SolverSetting(
            tau=float(setting["tau"]), weight=1.0, kappa=0.0, n_starts=int(setting["n_starts"])
        )
        alike = torch.tensor(problem.alike / max(len(problem.free), 1), dtype=torch.float32)[None]
        p = solve(first, second, found, alike)
        pairs = rounded(p, first, second, found, alike)[0].numpy()
        return as_matrix(pairs, len(problem.kinds_theirs)) * np.maximum(
            agreement(problem, pairs)[:, None], 1e-6
        )


def _batch(edges: Float[ndarray, "channel node node2"], kinds: ndarray) -> CircuitBatch:
    """One circuit; edges are normalised anew."""
    n = len(kinds)
    found = torch.tensor(edges / max(float(np.sqrt((edges**2).sum())), 1e-12), dtype=torch.float32)
    return CircuitBatch(
        edges=found[None],
        features=torch.zeros(1, n, 0),
        kinds=torch.tensor(kinds)[None],
        depth=torch.zeros(1, n),
        mask=torch.ones(1, n, dtype=torch.bool),
    )
