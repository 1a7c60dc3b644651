"""Opponents that solve nothing: chance, and what depth, kind and local statistics of nodes say."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from metamodel.baselines.matching.base import MatchingOpponent, Setting, grid
from metamodel.baselines.matching.problem import Problem

FLOOR = 1e-3
"""Share of mass below which logarithms tell nothing apart."""


class Random(MatchingOpponent):
    """Any map within kinds: it depends on the numbers of nodes only, so it cannot find anything."""

    @property
    def name(self) -> str:
        return "random"

    @property
    def sources(self) -> tuple[str, ...]:
        return ("none",)

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        return np.random.default_rng(problem.allowed.shape).random(problem.allowed.shape)


class Uniform(MatchingOpponent):
    """Every pair of one kind alike: what a coupling says that has learnt nothing."""

    soft = True

    @property
    def name(self) -> str:
        return "uniform"

    @property
    def sources(self) -> tuple[str, ...]:
        return ("none",)

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        most = np.maximum(problem.allowed.sum(0)[None, :], problem.allowed.sum(1)[:, None])
        return problem.allowed / np.maximum(most, 1)


class DepthAndKind(MatchingOpponent):
    """Assignment by depth within kinds; it sees no edges. Components of one layer it cannot tell apart."""

    @property
    def name(self) -> str:
        return "depth_and_kind"

    def settings(self) -> tuple[Setting, ...]:
        return grid(scale=[0.02, 0.05, 0.1, 0.2, 0.4, 0.8])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        apart = np.abs(problem.depth[:, None] - problem.depth_theirs[None, :])
        return squashed(-apart / float(setting["scale"]) + problem.alike)


class LocalStatistics(MatchingOpponent):
    """Assignment by how much each node reads and writes at each channel, and of that from and to anchors."""

    @property
    def name(self) -> str:
        return "local_statistics"

    def settings(self) -> tuple[Setting, ...]:
        return grid(bend=[0.25, 0.5, 1.0, "log"], order=[1.0, 2.0], anchors=["apart", "together"])

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        ours, theirs = (
            _described(edges, anchors if setting["anchors"] == "apart" else anchors[:0], setting["bend"])
            for edges, anchors in zip((problem.first, problem.second), problem.seeds.T, strict=True)
        )
        scale = np.concatenate([ours, theirs]).std(0) + FLOOR
        apart = (np.abs((ours[:, None] - theirs[None, :]) / scale) ** float(setting["order"])).mean(-1)
        return squashed(-apart + problem.alike)


def _described(
    edges: Float[ndarray, "channel node node2"], anchors: ndarray, bend: float | int | str
) -> Float[ndarray, "node statistic"]:
    total = max(float(edges.sum()), FLOOR)
    parts = [
        edges.sum(1),
        edges.sum(2),
        *(edges[:, anchor] for anchor in anchors),
        *(edges[:, :, anchor] for anchor in anchors),
    ]
    shares = np.concatenate(parts).T / total
    return np.log(shares + FLOOR) if isinstance(bend, str) else shares**bend


class Similarity(MatchingOpponent):
    """Assignment by one given similarity of nodes alone; it sees no edges."""

    def __init__(self, name: str, source: str):
        """Args:
        source: the similarity by name: `raw` or `learned`; `prompts`, from features that need prompts only;
            `activations`, correlation of activations on inputs that both subjects were run on; `weights`.
        """
        self._name, self._source = name, source

    @property
    def name(self) -> str:
        return self._name

    @property
    def sources(self) -> tuple[str, ...]:
        return (self._source,)

    def worth(self, problem: Problem, setting: Setting) -> Float[ndarray, "node theirs"]:
        return squashed(problem.alike)


def squashed(score: ndarray) -> ndarray:
    """Any number as one from 0 to 1, in the same order."""
    return 0.5 * (1.0 + np.tanh(score / 2))
