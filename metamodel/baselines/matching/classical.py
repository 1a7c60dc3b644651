"""The classical solver of this package, tuned like any opponent of the learned matcher."""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from metamodel.analogy.graph import CircuitBatch
from metamodel.analogy.solver import SolverSetting, solve
from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.problem import Problem

_LINEAR = 0.1
"""What one deviation of similarity is worth beside edges, times the weight that tuning chooses."""


class Classical(MatchingOpponent):
    """Partial Frank-Wolfe on the edge-gain energy: directed, channel-wise, with an analogy threshold."""

    soft = True

    @property
    def name(self) -> str:
        return "classical"

    def settings(self) -> tuple[Setting, ...]:
        return grid(tau=[0.2, 0.4, 0.6, 0.8], power=[0.5, 1.0], n_starts=[1, 4])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        a, b = problem.powered(float(setting["power"]))
        scale = np.sqrt(np.sqrt((a**2).sum() * (b**2).sum()) or 1.0)
        first = _batch(a / scale, problem.kinds, problem.depth)
        second = _batch(b / scale, problem.kinds_theirs, problem.depth_theirs)
        similarity = None if problem.similarity is None else torch.tensor(problem.similarity).float()[None]
        chosen = SolverSetting(
            tau=float(setting["tau"]), weight=_LINEAR, kappa=0.0, n_starts=int(setting["n_starts"])
        )
        return solve(first, second, chosen, similarity)[0].double().numpy()


def _batch(edges: ndarray, kinds: ndarray, depth: ndarray) -> CircuitBatch:
    return CircuitBatch(
        edges=torch.tensor(edges).float()[None],
        features=torch.zeros(1, len(kinds), 0),
        kinds=torch.tensor(kinds)[None],
        depth=torch.tensor(depth).float()[None],
        mask=torch.ones(1, len(kinds), dtype=torch.bool),
    )
