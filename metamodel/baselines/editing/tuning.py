"""How opponents are tuned: every setting is tried on all episodes, and the best mean S is kept.

One setting for all kinds of edits would hold back what suits one kind well, so each family of kinds that
there are episodes of has its own choice. Other kinds get the one that is best over all.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from metamodel.baselines.editing.base import Changes, Episode
from metamodel.config.edits import KIND_FAMILIES

Judge = Callable[[Episode, Changes], float]
"""The harmonic mean S of a change, from 0 to 1. Evaluation supplies it: what is measured has one home."""
Choice = TypeVar("Choice", bound=Hashable)
Proposals = Callable[[Episode], Iterable[tuple[Choice, Changes]]]
"""All settings of a method with what they propose for one episode."""


Choices = Mapping[str, Choice]
"""A setting for each family of kinds that was tuned on."""
ALL = ""
"""Beside the families: all episodes."""


def family_of(kind: str) -> str:
    """The family of a kind; ALL for one that belongs to none."""
    return {str(key): value for key, value in KIND_FAMILIES.items()}.get(kind, ALL)


def mean_scores(
    episodes: Sequence[Episode], proposals: Proposals[Choice], judge: Judge
) -> dict[str, dict[Choice, float]]:
    """Mean S of each setting, by family of kinds and over ALL, from one pass."""
    families = [{ALL, family_of(episode.edit.kind)} for episode in episodes]
    count = Counter(family for both in families for family in both)
    total: dict[str, dict[Choice, float]] = {ALL: {}} | {family: {} for family in count}
    for episode, both in zip(episodes, families, strict=True):
        for setting, changes in proposals(episode):
            s = judge(episode, changes)
            for family in both:
                of = total[family]
                of[setting] = of.get(setting, 0.0) + s / count[family]
    return total


def best(scores: Mapping[Choice, float], default: Choice) -> Choice:
    """The setting with the highest mean, the first of equals; `default` where nothing was tried."""
    return max(scores, key=lambda setting: scores[setting]) if scores else default


def tuned(
    episodes: Sequence[Episode], proposals: Proposals[Choice], judge: Judge, default: Choice
) -> tuple[Choice, dict[str, Choice]]:
    """The best setting over all episodes, and that of each family of kinds among them."""
    return chosen(mean_scores(episodes, proposals, judge), default)


def chosen(found: Mapping[str, Mapping[Choice, float]], default: Choice) -> tuple[Choice, dict[str, Choice]]:
    """The same from mean scores."""
    whole = best(found[ALL], default)
    return whole, {family: best(of, whole) for family, of in found.items() if family != ALL}
