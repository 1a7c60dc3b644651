"""How much better a reader is where it is sure: error against coverage, if it may leave the rest unsaid.

Selective prediction (El-Yaniv and Wiener 2010): items are answered in the order of confidence max(p, 1 - p),
and an answer is wrong where thresholding p at 1/2 misses the truth.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from metamodel.evaluation.metrics import LineageWeights, Measure

COVERAGES = np.arange(1, 11) / 10
"""Shares of items that are answered."""
N_LEVELS = 200
"""Quantiles of confidence; items between two of them count as equally sure, which leaves resampling cheap."""

RiskCurve = Callable[[LineageWeights], Float[ndarray, "resample coverage"]]


def risk(
    truth: Bool[ndarray, " item"],
    probability: Float[ndarray, " item"],
    lineage: Int[ndarray, " item"],
    n_lineages: int,
) -> RiskCurve:
    """Error rate at each of `COVERAGES`, as a function of how often each lineage counts.

    Of equally sure items a share is answered, with their common error rate. NaN without items.
    """
    if not len(truth):
        return lambda weights: np.full((len(weights), len(COVERAGES)), np.nan)
    confidence = np.maximum(probability, 1 - probability)
    wrong = (probability > 0.5) != truth
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, N_LEVELS + 1)))
    level = len(edges) - np.searchsorted(edges, confidence, side="right")  # 0: the surest
    answered, mistaken = np.zeros((2, n_lineages, len(edges)))
    np.add.at(answered, (lineage, level), 1.0)
    np.add.at(mistaken, (lineage, level), wrong)

    def curve(weights: LineageWeights) -> Float[ndarray, "resample coverage"]:
        count, errors = ((weights @ of).cumsum(1) for of in (answered, mistaken))
        zero = np.zeros((len(weights), 1))
        count, errors = np.hstack([zero, count]), np.hstack([zero, errors])
        wanted = count[:, -1:] * COVERAGES
        last = (count[:, None, :] < wanted[:, :, None] * (1 - 1e-12)).sum(2).clip(1, count.shape[1] - 1)
        low, high = (np.take_along_axis(count, at, axis=1) for at in (last - 1, last))
        below, above = (np.take_along_axis(errors, at, axis=1) for at in (last - 1, last))
        share = np.divide(wanted - low, high - low, out=np.zeros_like(wanted), where=high > low)
        found = below + share * (above - below)
        return np.divide(found, wanted, out=np.full_like(wanted, np.nan), where=wanted > 0)

    return curve


def abstention_area(curve: RiskCurve) -> Measure:
    """Mean error rate over `COVERAGES`: the area under the risk-coverage curve. Lower is better."""
    return lambda weights: curve(weights).mean(1)
