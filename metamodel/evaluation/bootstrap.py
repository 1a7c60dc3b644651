"""Intervals: lineages are resampled, since components of one subject are no fresh data."""

from dataclasses import dataclass

import numpy as np

from metamodel.evaluation.metrics import LineageWeights, Measure

N_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value and its percentile bootstrap interval. NaN in all three: not applicable."""

    value: float
    low: float
    high: float
    n_lineages: int
    """Lineages that were resampled."""

    @property
    def applies(self) -> bool:
        return not np.isnan(self.value)


def resampled_weights(n_lineages: int, *, seed: int, n_resamples: int = N_RESAMPLES) -> LineageWeights:
    """How often each resample draws each lineage: multinomial counts, rows sum to `n_lineages`."""
    generator = np.random.default_rng(seed)
    shares = np.full(n_lineages, 1 / n_lineages)
    return generator.multinomial(n_lineages, shares, size=n_resamples).astype(np.float64)


def interval(measure: Measure, weights: LineageWeights) -> Interval:
    """Value on all lineages, and the middle `LEVEL` of its values over resamples in which it applies."""
    return _summary(measure(np.ones((1, weights.shape[1])))[0], measure(weights), weights.shape[1])


def paired_difference(ours: Measure, theirs: Measure, weights: LineageWeights) -> Interval:
    """Interval of `ours - theirs` on the same resamples, so what both find hard cancels."""
    once = np.ones((1, weights.shape[1]))
    return _summary(ours(once)[0] - theirs(once)[0], ours(weights) - theirs(weights), weights.shape[1])


def _summary(value: float, values: np.ndarray, n_lineages: int) -> Interval:
    known = values[~np.isnan(values)]
    if np.isnan(value) or not len(known):
        return Interval(value=np.nan, low=np.nan, high=np.nan, n_lineages=n_lineages)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=float(value), low=float(low), high=float(high), n_lineages=n_lineages)
