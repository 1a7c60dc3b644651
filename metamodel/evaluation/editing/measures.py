"""From what each method did with each episode to every metric of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metamodel.baselines.base import META_MODEL
from metamodel.baselines.editing import Episode
from metamodel.config.edits import GOOD, PAIR
from metamodel.evaluation import metrics
from metamodel.evaluation.editing.scores import EditScores
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import ORACLE, OTHER_SUBJECT, SHUFFLED_SPECIFICATION

LEAST_GAIN = 0.2
"""Gain is normalised where the oracle gains at least so much."""
COLUMNS = (
    "efficacy",
    "generalisation",
    "unseen",
    "locality_near",
    "locality_far",
    "two_hop",
    "kl",
    "harmonic_mean",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one method did with one episode."""

    scores: EditScores
    at_drawdown: float
    """Largest share of inputs in scope answered as wanted, of the factors of the sweep that cost at most
    DRAWDOWN of each locality; 0 if none does."""
    relative_norm: float
    milliseconds: float
    forecast: float = float("nan")


def measures_of(
    episodes: Sequence[Episode],
    outcomes: Mapping[str, Sequence[Outcome]],
    lineage: np.ndarray,
    n_lineages: int,
) -> dict[str, dict[str, Measure]]:
    """metric -> method -> measure. Infeasible edits count for the forecast only.

    Args:
        outcomes: of each method, one for each episode.
        lineage: index of each episode's lineage.
    """
    feasible = np.array([e.edit.kind != "infeasible" for e in episodes])
    kinds = np.array([e.edit.kind for e in episodes])
    pairs = np.array([int((e.examples.role == PAIR).sum()) for e in episodes])

    def mean(values: np.ndarray, among: np.ndarray) -> Measure:
        kept = among & ~np.isnan(values)
        return metrics.mean(values[kept], lineage[kept], n_lineages)

    found: dict[str, dict[str, Measure]] = {}
    s = {name: np.array([o.scores.harmonic_mean for o in of]) for name, of in outcomes.items()}
    floor, ceiling = s["no_op"], s[ORACLE]
    gains = ceiling - floor >= LEAST_GAIN
    for name, of in outcomes.items():
        values = {c: np.array([getattr(o.scores, c) for o in of], dtype=float) for c in COLUMNS}
        for column in COLUMNS:
            found.setdefault(column, {})[name] = mean(values[column], feasible)
        gain = np.where(gains, (s[name] - floor) / np.where(gains, ceiling - floor, 1.0), np.nan)
        found.setdefault("normalised_gain", {})[name] = mean(gain, feasible)
        at = np.array([o.at_drawdown for o in of])
        found.setdefault("efficacy_at_drawdown", {})[name] = mean(at, feasible)
        norm = np.array([o.relative_norm for o in of])
        found.setdefault("relative_norm", {})[name] = mean(norm, feasible)
        took = np.array([o.milliseconds for o in of])
        found.setdefault("milliseconds", {})[name] = mean(took, feasible)
        for kind in sorted(set(kinds[feasible])):
            found.setdefault(f"harmonic_mean/{kind}", {})[name] = mean(s[name], kinds == kind)
        for m in sorted(set(pairs[kinds == "rule"])):
            among = (kinds == "rule") & (pairs == m)
            found.setdefault(f"rule_generalisation/{m}", {})[name] = mean(values["generalisation"], among)
    gap = s[META_MODEL] - s[SHUFFLED_SPECIFICATION]
    told = feasible & (kinds != "repair")
    comparable = np.array([o.relative_norm != 0 for o in outcomes[OTHER_SUBJECT]])
    found["specification_gap"] = {META_MODEL: mean(gap, told)}
    found["subject_gap"] = {META_MODEL: mean(s[META_MODEL] - s[OTHER_SUBJECT], told & comparable)}
    forecast = np.array([o.forecast for o in outcomes[META_MODEL]])
    found["forecast_auroc"] = {META_MODEL: metrics.auroc(s[META_MODEL] >= GOOD, forecast, lineage)}
    return found


def constant(value: float) -> Measure:
    """The same for any resample."""
    return lambda weights: np.full(len(weights), value)


def equivalent(curve: Mapping[int, float], s: float) -> float:
    """The fewest steps of tuned fine-tuning whose mean S is at least `s`; above all, twice the most."""
    return float(next((k for k in sorted(curve) if curve[k] >= s), 2 * max(curve)))
