"""Scores of pairs as functions of how often each lineage counts, so that intervals resample lineages.

A pair of two lineages counts as often as the one is drawn times as often as the other is: pairs that share a
lineage are no fresh data, on either side. Every metric is built once from scores of pairs and is then a cheap
function of the weights of pairs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from metamodel.analogy.pairs import MatchedPair
from metamodel.evaluation.bootstrap import Interval, interval, paired_difference, resampled_weights
from metamodel.evaluation.metrics import Measure, auroc, average_precision, mean

PairWeights = Float[ndarray, "resample pair"]


def pair_weights(pairs: Sequence[MatchedPair], *, seed: int, n_resamples: int = 1000) -> PairWeights:
    """How often each resample counts each pair. Synthetic pairs are each their own lineage."""
    names, owners = _owners(pairs)
    weights = resampled_weights(len(names), seed=seed, n_resamples=n_resamples)
    once = np.ones((n_resamples, 1))
    padded = np.concatenate([weights, once], 1)
    return padded[:, owners[:, 0]] * padded[:, owners[:, 1]]


def n_lineages(pairs: Sequence[MatchedPair]) -> int:
    return len(_owners(pairs)[0])


def _owners(pairs: Sequence[MatchedPair]) -> tuple[list[str], Int[ndarray, "pair 2"]]:
    """Lineages, and the two of each pair; the number behind the last lineage for no second one."""
    of_pair = [[name for name in pair.lineages if name] or [f"synthetic {i}"] for i, pair in enumerate(pairs)]
    names = sorted({name for held in of_pair for name in held})
    place = {name: i for i, name in enumerate(names)}
    owners = [[*(place[name] for name in held), len(names)][:2] for held in of_pair]
    return names, np.array(owners, dtype=np.int64).reshape(len(owners), 2)


def mean_of(values: Float[ndarray, " pair"]) -> Measure:
    """Mean over pairs; NaN pairs are left out."""
    return mean(values, np.arange(len(values)), len(values))


def median_of(values: Float[ndarray, " pair"]) -> Measure:
    """Weighted median over pairs, the lower of two; NaN pairs are left out."""
    order = np.argsort(values)
    order = order[~np.isnan(values[order])]

    def measure(weights: PairWeights) -> Float[ndarray, " resample"]:
        until = weights[:, order].cumsum(1)
        if not len(order):
            return np.full(len(weights), np.nan)
        total = until[:, -1:]
        found = values[order][(until < total / 2).sum(1).clip(max=len(order) - 1)]
        return np.where(total[:, 0] > 0, found, np.nan)

    return measure


def precision_of(truths: Sequence[Bool[ndarray, "..."]], scores: Sequence[Float[ndarray, "..."]]) -> Measure:
    """Average precision over the items of all pairs, such as nodes that have no counterpart.

    Args:
        truths: of each pair, `[item]`.
        scores: likewise, higher for likelier.
    """
    pair = np.repeat(np.arange(len(truths)), [len(truth) for truth in truths])
    return average_precision(np.concatenate(truths), np.concatenate(scores), pair, len(truths))


def auroc_of(present: Bool[ndarray, " pair"], scores: Float[ndarray, " pair"]) -> Measure:
    """How often a present pair scores above an absent one, ties half; NaN without both."""
    return auroc(present, scores, np.arange(len(scores)))


def interval_of(measure: Measure, pairs: Sequence[MatchedPair], *, seed: int = 0) -> Interval:
    """Value and bootstrap interval over lineages; the measure was built from these pairs, in this order."""
    return replace(interval(measure, pair_weights(pairs, seed=seed)), n_lineages=n_lineages(pairs))


def difference_of(ours: Measure, theirs: Measure, pairs: Sequence[MatchedPair], *, seed: int = 0) -> Interval:
    """Interval of `ours − theirs` on the same resamples."""
    found = paired_difference(ours, theirs, pair_weights(pairs, seed=seed))
    return replace(found, n_lineages=n_lineages(pairs))
