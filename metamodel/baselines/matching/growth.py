"""Growth by structural consistency, after the structure-mapping engine (Falkenhainer et al. 1989).

Local hypotheses are pairs of one kind; a hypothesis supports another where an edge of the one circuit lies
over a like edge of the other. Support trickles down from anchors, and the map grows from the best-supported
hypothesis on, one to one, as long as the next one still gains.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from metamodel.analogy.energy import Edges, gradient
from metamodel.analogy.pairs import NONE
from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.problem import Problem, agreement, as_matrix


class StructureMapping(MatchingOpponent):
    """Greedy growth; where it stops, the rest is unmatched."""

    @property
    def name(self) -> str:
        return "structure_mapping"

    def settings(self) -> tuple[Setting, ...]:
        return grid(tau=[0.2, 0.35, 0.5, 0.65], trickle=[0.0, 0.5], power=[0.5, 1.0])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        a, b = problem.powered(float(setting["power"]))
        norms = [np.sqrt((edges**2).sum()) or 1.0 for edges in (a, b)]
        edges = Edges.of(torch.tensor(a / norms[0]), torch.tensor(b / norms[1]))
        tau = float(setting["tau"])
        p = as_matrix(np.full(len(problem.allowed), NONE), problem.allowed.shape[1])
        p[tuple(problem.seeds.T)] = 1.0
        linear = problem.alike / max(len(problem.free), 1) / 2
        trickled = float(setting["trickle"]) * _support(edges, p, tau, problem.allowed)
        pairs = np.full(len(problem.allowed), NONE)
        pairs[problem.seeds[:, 0]] = problem.seeds[:, 1]
        while True:
            open_pairs = problem.allowed & (p.sum(1) == 0)[:, None] & (p.sum(0) == 0)[None, :]
            if not open_pairs.any():
                break
            gain = gradient(edges, torch.tensor(p), tau).numpy() + linear + trickled
            i, j = np.unravel_index(np.argmax(np.where(open_pairs, gain, -np.inf)), gain.shape)
            if gain[i, j] <= 0:
                break
            p[i, j], pairs[i] = 1.0, j
        return as_matrix(pairs, p.shape[1]) * agreement(problem, pairs)[:, None]


def _support(
    edges: Edges, p: Float[ndarray, "node theirs"], tau: float, allowed: ndarray
) -> Float[ndarray, "node theirs"]:
    """What each hypothesis would gain by the hypotheses that anchors support, were these part of the map."""
    near = np.clip(gradient(edges, torch.tensor(p), tau).numpy(), 0, None) * allowed
    near = near / max(float(near.sum(0).max()), float(near.sum(1).max()), 1e-12)
    return np.clip(gradient(edges, torch.tensor(near), tau).numpy(), 0, None) * allowed
