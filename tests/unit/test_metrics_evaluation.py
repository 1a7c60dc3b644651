"""Metrics against scikit-learn and SciPy, and the weighted bootstrap against naive resampling."""

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score

from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights

N, LINEAGES = 120, 9


def drawn(seed: int, *, ties: bool = False):
    rng = np.random.default_rng(seed)
    truth = rng.random(N) < 0.3
    score = rng.random(N) * 0.7 + 0.3 * truth
    score = np.round(score, 1) if ties else score
    return truth, score, rng.integers(0, LINEAGES, N)


def once(measure):
    return measure(np.ones((1, LINEAGES)))[0]


def repeated(weights, lineage):
    """Indices of a naive resample: every item as often as its lineage was drawn."""
    return np.repeat(np.arange(N), weights[lineage].astype(int))


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_equals_scikit_learns(ties):
    truth, score, lineage = drawn(0, ties=ties)
    ours = once(metrics.average_precision(truth, score, lineage, LINEAGES))
    assert ours == pytest.approx(average_precision_score(truth, score), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_average_precision_equals_a_naive_resample(ties):
    truth, score, lineage = drawn(1, ties=ties)
    weights = resampled_weights(LINEAGES, seed=3, n_resamples=20)
    fast = metrics.average_precision(truth, score, lineage, LINEAGES)(weights)
    naive = [average_precision_score(truth[i], score[i]) for i in (repeated(w, lineage) for w in weights)]
    np.testing.assert_allclose(fast, naive, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_kendall_tau_equals_scipys_on_naive_resamples(ties):
    _, score, lineage = drawn(2, ties=ties)
    truth = np.round(score + np.random.default_rng(7).normal(size=N), 1)
    weights = resampled_weights(LINEAGES, seed=4, n_resamples=8)
    measure = metrics.kendall_tau(truth, score, lineage, LINEAGES)
    assert once(measure) == pytest.approx(kendalltau(truth, score).statistic, abs=1e-12)
    naive = [kendalltau(truth[i], score[i]).statistic for i in (repeated(w, lineage) for w in weights)]
    np.testing.assert_allclose(measure(weights), naive, atol=1e-12)


def test_calibration_error_and_mean_equal_naive_resamples():
    truth, score, lineage = drawn(3)
    weights = resampled_weights(LINEAGES, seed=5, n_resamples=8)

    def naive_error(i):
        bins = np.minimum((score[i] * 10).astype(int), 9)
        found = [abs((score[i] - truth[i])[bins == b].sum()) for b in range(10)]
        return sum(found) / len(i)

    fast = metrics.calibration_error(truth, score, lineage, LINEAGES)(weights)
    np.testing.assert_allclose(fast, [naive_error(repeated(w, lineage)) for w in weights], atol=1e-12)
    averages = metrics.mean(score, lineage, LINEAGES)(weights)
    np.testing.assert_allclose(averages, [score[repeated(w, lineage)].mean() for w in weights], atol=1e-12)


def test_a_perfect_score_reaches_one_and_a_constant_one_the_base_rate():
    truth, _, lineage = drawn(4)
    assert once(metrics.average_precision(truth, truth * 1.0, lineage, LINEAGES)) == 1.0
    constant = metrics.average_precision(truth, np.zeros(N), lineage, LINEAGES)
    assert once(constant) == pytest.approx(truth.mean())
    assert once(metrics.calibration_error(truth, truth * 1.0, lineage, LINEAGES)) == 0.0
    assert once(metrics.kendall_tau(truth * 1.0, np.zeros(N), lineage, LINEAGES)) == 0.0


def test_a_shuffled_score_stays_near_the_base_rate():
    truth, score, lineage = drawn(5)
    rng = np.random.default_rng(0)
    found = [
        once(metrics.average_precision(truth, rng.permutation(score), lineage, LINEAGES)) for _ in range(50)
    ]
    assert np.mean(found) == pytest.approx(truth.mean(), abs=0.05)


def test_within_subject_average_precision_ignores_what_differs_between_subjects():
    truth, _, _ = drawn(6)
    subject = np.arange(N) // 10
    lineage = subject % LINEAGES
    rate = np.array([truth[subject == s].mean() for s in range(N // 10)])
    knows_task = rate[subject]
    pooled = once(metrics.average_precision(truth, knows_task, lineage, LINEAGES))
    within = once(metrics.within_subject_average_precision(truth, knows_task, lineage, subject, LINEAGES))
    mixed = [s for s in range(N // 10) if 0 < rate[s] < 1]
    assert within == pytest.approx(rate[mixed].mean())
    assert pooled > within + 0.05
    perfect = metrics.within_subject_average_precision(truth, truth * 1.0, lineage, subject, LINEAGES)
    assert once(perfect) == 1.0


def test_a_label_without_positives_is_not_applicable_and_leaves_the_macro():
    truth, score, lineage = drawn(7)
    none = metrics.average_precision(np.zeros(N, dtype=bool), score, lineage, LINEAGES)
    some = metrics.average_precision(truth, score, lineage, LINEAGES)
    weights = resampled_weights(LINEAGES, seed=0, n_resamples=10)
    assert not interval(none, weights).applies
    assert interval(metrics.macro([none, some]), weights) == interval(some, weights)
    assert not interval(metrics.macro([]), weights).applies


def test_an_empty_set_of_items_is_not_applicable():
    nothing = np.zeros(0, dtype=int)
    measure = metrics.average_precision(nothing > 0, nothing * 1.0, nothing, LINEAGES)
    assert np.isnan(once(measure))
    assert np.isnan(once(metrics.kendall_tau(nothing * 1.0, nothing * 1.0, nothing, LINEAGES)))


def test_intervals_hold_the_value_and_pairing_narrows_a_difference():
    truth, score, lineage = drawn(8)
    weights = resampled_weights(LINEAGES, seed=0, n_resamples=400)
    ours = metrics.average_precision(truth, score + 0.02 * truth, lineage, LINEAGES)
    theirs = metrics.average_precision(truth, score, lineage, LINEAGES)
    a, b, gap = interval(ours, weights), interval(theirs, weights), paired_difference(ours, theirs, weights)
    assert a.low <= a.value <= a.high
    assert gap.value == pytest.approx(a.value - b.value)
    assert gap.high - gap.low < (a.high - a.low) / 2


def test_lineages_are_resampled_not_items():
    """Items of a lineage that all agree widen the interval beyond that of independent items."""
    rng = np.random.default_rng(0)
    lineage = np.arange(N) % LINEAGES
    values = rng.normal(size=LINEAGES)[lineage]
    of_lineages = interval(metrics.mean(values, lineage, LINEAGES), resampled_weights(LINEAGES, seed=0))
    of_items = interval(metrics.mean(values, np.arange(N), N), resampled_weights(N, seed=0))
    assert of_lineages.high - of_lineages.low > 2 * (of_items.high - of_items.low)


def test_resamples_depend_on_the_seed_alone():
    assert (resampled_weights(5, seed=1) == resampled_weights(5, seed=1)).all()
    assert (resampled_weights(5, seed=1) != resampled_weights(5, seed=2)).any()


def test_lineages_are_numbered_as_they_appear():
    numbers, n = metrics.numbered(["b", "a", "b", "c"])
    assert numbers.tolist() == [0, 1, 0, 2]
    assert n == 3
