"""How well scores put heads into the order of a measurement: Spearman's rank correlation and its interval.

Heads are resampled: there is one model, and the question is which of its heads do what. Heads of one layer
are not independent, so intervals are on the narrow side.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from metamodel.evaluation.bootstrap import LEVEL

N_RESAMPLES = 1000
Resampled = Float[ndarray, " resample"]
"""A correlation on all heads, then on each bootstrap resample of them."""


class RankAgreement:
    """Correlations with measurements of the same heads, all on the same resamples."""

    def __init__(self, n_heads: int, *, seed: int, n_resamples: int = N_RESAMPLES):
        drawn = np.random.default_rng(seed).integers(n_heads, size=(n_resamples, n_heads))
        self.rows = np.concatenate([np.arange(n_heads)[None], drawn])

    def of(self, score: Float[ndarray, " item"], measured: Float[ndarray, " item"]) -> Resampled:
        """NaN where either is constant."""
        left, right = rankdata(score[self.rows], axis=1), rankdata(measured[self.rows], axis=1)
        left, right = left - left.mean(1, keepdims=True), right - right.mean(1, keepdims=True)
        size = np.sqrt((left**2).sum(1) * (right**2).sum(1))
        return np.where(size > 0, (left * right).sum(1) / np.where(size > 0, size, 1), np.nan)


def summary(values: Resampled) -> dict[str, float | None]:
    """Value and percentile interval, as JSON holds them; None where it does not apply."""
    if np.isnan(values[0]):
        return {"value": None, "low": None, "high": None}
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "value": round(float(values[0]), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }
