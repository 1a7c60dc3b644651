"""How opponents are tuned: every setting is tried on all episodes, and the best mean S is kept."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from metamodel.baselines.editing.base import Changes, Episode

Judge = Callable[[Episode, Changes], float]
"""The harmonic mean S of a change, from 0 to 1. Evaluation supplies it: what is measured has one home."""
Choice = TypeVar("Choice", bound=Hashable)
Proposals = Callable[[Episode], Iterable[tuple[Choice, Changes]]]
"""All settings of a method with what they propose for one episode."""


def mean_scores(
    episodes: Sequence[Episode], proposals: Proposals[Choice], judge: Judge
) -> Mapping[Choice, float]:
    """Mean S of each setting."""
    total: dict[Choice, float] = {}
    for episode in episodes:
        for setting, changes in proposals(episode):
            total[setting] = total.get(setting, 0.0) + judge(episode, changes) / len(episodes)
    return total


def best(scores: Mapping[Choice, float], default: Choice) -> Choice:
    """The setting with the highest mean, the first of equals; `default` where nothing was tried."""
    return max(scores, key=lambda setting: scores[setting]) if scores else default
