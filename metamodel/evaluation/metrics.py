"""What is measured, as functions of how often each lineage counts.

Every metric here is built once from predictions and truth, and is then a cheap function of weights
`[resample, lineage]`: ones give the value, bootstrap counts give its interval. Sorting and pairing happen
once, so a thousand resamples cost about one matrix product. NaN means not applicable, such as a label without
positives.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

LineageWeights = Float[ndarray, "resample lineage"]
Measure = Callable[[LineageWeights], Float[ndarray, " resample"]]
Curve = tuple[Float[ndarray, " bin"], Float[ndarray, " bin"], Int[ndarray, " bin"]]
"""Mean probability, frequency and number of items of each bin."""
N_BINS = 10
"""Equal-width bins of the calibration error."""


def average_precision(
    truth: Bool[ndarray, " item"],
    score: Float[ndarray, " item"],
    lineage: Int[ndarray, " item"],
    n_lineages: int,
) -> Measure:
    """Area under precision over recall, sum of (R_k - R_{k-1}) P_k over distinct scores, as in scikit-learn.

    Items with equal scores enter together, so a constant score gives the base rate. Without positives NaN.
    """
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    counted = np.zeros((len(order), n_lineages))
    counted[np.arange(len(order)), lineage[order]] = 1.0
    if not len(order):
        return lambda weights: np.full(len(weights), np.nan)
    all_until = counted.cumsum(0)[last_of_ties].T
    positive_until = (counted * truth[order, None]).cumsum(0)[last_of_ties].T

    def measure(weights: LineageWeights) -> Float[ndarray, " resample"]:
        positives = weights @ positive_until
        precision = _ratio(positives, weights @ all_until, empty=0.0)
        gained = np.diff(positives, axis=1, prepend=0.0)
        return _ratio((gained * precision).sum(1), positives[:, -1], empty=np.nan)

    return measure


def within_subject_average_precision(
    truth: Bool[ndarray, " item"],
    score: Float[ndarray, " item"],
    lineage: Int[ndarray, " item"],
    subject: Int[ndarray, " item"],
    n_lineages: int,
) -> Measure:
    """Mean over subjects of the average precision among their own components.

    Knowing which task a subject was trained on does not help here. Subjects without both classes are
    left out.
    """
    values, owners = [], []
    for one in np.unique(subject):
        own = subject == one
        if truth[own].any() and not truth[own].all():
            alone = average_precision(truth[own], score[own], np.zeros(int(own.sum()), dtype=np.int64), 1)
            values.append(alone(np.ones((1, 1)))[0])
            owners.append(lineage[own][0])
    return mean(np.array(values, dtype=np.float64), np.array(owners, dtype=np.int64), n_lineages)


def numbered(lineages: Sequence[str]) -> tuple[Int[ndarray, " item"], int]:
    """The number of each item's lineage, in order of appearance, and how many lineages there are."""
    index = {name: i for i, name in enumerate(dict.fromkeys(lineages))}
    return np.array([index[name] for name in lineages], dtype=np.int64), len(index)


def mean(values: Float[ndarray, " item"], lineage: Int[ndarray, " item"], n_lineages: int) -> Measure:
    """Mean over items; NaN items are left out."""
    known = ~np.isnan(values)
    total = np.bincount(lineage[known], weights=values[known], minlength=n_lineages)
    count = np.bincount(lineage[known], minlength=n_lineages).astype(np.float64)
    return lambda weights: _ratio(weights @ total, weights @ count, empty=np.nan)


def auroc(
    truth: Bool[ndarray, " item"], score: Float[ndarray, " item"], lineage: Int[ndarray, " item"]
) -> Measure:
    """How often what is true scores above what is not, ties half; NaN without both."""
    true, false = score[truth], score[~truth]
    above = (true[:, None] > false[None]) + 0.5 * (true[:, None] == false[None])

    def measure(weights: LineageWeights) -> Float[ndarray, " resample"]:
        one, other = weights[:, lineage[truth]], weights[:, lineage[~truth]]
        return _ratio(((one @ above) * other).sum(1), one.sum(1) * other.sum(1), empty=np.nan)

    return measure


def kendall_tau(
    truth: Float[ndarray, " item"],
    score: Float[ndarray, " item"],
    lineage: Int[ndarray, " item"],
    n_lineages: int,
) -> Measure:
    """Kendall's tau-b between true and predicted scores; 0 where a method predicts one value for all.

    Concordant, untied-in-truth and untied-in-prediction pairs are each a quadratic form in the weights of the
    lineages, so resampling needs no pair again. Copies of an item in a resample are tied, as they should be.
    """
    of_truth = np.sign(truth[:, None] - truth[None, :])
    of_score = np.sign(score[:, None] - score[None, :])
    owner = np.zeros((len(truth), n_lineages))
    owner[np.arange(len(truth)), lineage] = 1.0

    def between_lineages(pairs: Float[ndarray, "item item"]) -> Float[ndarray, "lineage lineage"]:
        return owner.T @ pairs @ owner

    concordant = between_lineages(of_truth * of_score)
    untied_truth, untied_score = between_lineages(of_truth**2), between_lineages(of_score**2)

    def measure(weights: LineageWeights) -> Float[ndarray, " resample"]:
        agree, in_truth, in_score = (
            ((weights @ pairs) * weights).sum(1) for pairs in (concordant, untied_truth, untied_score)
        )
        tau = _ratio(agree, np.sqrt(in_truth * in_score), empty=0.0)
        return np.where(in_truth > 0, tau, np.nan)

    return measure


def calibration_error(
    truth: Bool[ndarray, " item"],
    probability: Float[ndarray, " item"],
    lineage: Int[ndarray, " item"],
    n_lineages: int,
) -> Measure:
    """Expected calibration error: mean over items of |mean probability - frequency| of their bin."""
    bins = np.clip((probability * N_BINS).astype(np.int64), 0, N_BINS - 1)
    excess = np.zeros((n_lineages, N_BINS))
    np.add.at(excess, (lineage, bins), probability - truth)
    count = np.bincount(lineage, minlength=n_lineages).astype(np.float64)
    return lambda weights: _ratio(np.abs(weights @ excess).sum(1), weights @ count, empty=np.nan)


def macro(measures: Sequence[Measure]) -> Measure:
    """Mean over those measures that apply, resample by resample, so alike for every method."""

    def measure(weights: LineageWeights) -> Float[ndarray, " resample"]:
        values = (
            np.stack([one(weights) for one in measures]) if measures else np.full((1, len(weights)), np.nan)
        )
        known = ~np.isnan(values)
        return _ratio(np.where(known, values, 0.0).sum(0), known.sum(0).astype(np.float64), empty=np.nan)

    return measure


def reliability(truth: Bool[ndarray, " item"], probability: Float[ndarray, " item"]) -> Curve:
    """The reliability curve, of bins that hold any item."""
    bins = np.clip((probability * N_BINS).astype(np.int64), 0, N_BINS - 1)
    count = np.bincount(bins, minlength=N_BINS)
    filled = count > 0
    predicted = np.bincount(bins, weights=probability, minlength=N_BINS)[filled] / count[filled]
    observed = np.bincount(bins, weights=truth, minlength=N_BINS)[filled] / count[filled]
    return predicted, observed, count[filled]


def _ratio(top: ndarray, bottom: ndarray, *, empty: float) -> ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), empty), where=bottom > 0)
