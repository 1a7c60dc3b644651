"""Error against coverage: a naive walk through sorted items, resamples by hand, what confidence is worth."""

import numpy as np
import pytest

from metamodel.evaluation.abstention import COVERAGES, abstention_area, risk
from metamodel.evaluation.bootstrap import resampled_weights

N, LINEAGES = 120, 9


def drawn(seed: int, *, ties: bool = False):
    rng = np.random.default_rng(seed)
    truth = rng.random(N) < 0.4
    probability = np.clip(0.5 + (truth - 0.5) * rng.random(N) + rng.normal(0, 0.25, N), 0, 1)
    return truth, np.round(probability, 1) if ties else probability, rng.integers(0, LINEAGES, N)


def naive(truth, probability, times) -> list[float]:
    """Items in the order of confidence, each as often as drawn; equally sure ones share their errors."""
    confidence = np.maximum(probability, 1 - probability)
    wrong, found = (probability > 0.5) != truth, []
    for coverage in COVERAGES:
        left, errors, wanted = coverage * times.sum(), 0.0, coverage * times.sum()
        for value in sorted(set(confidence), reverse=True):
            tied = confidence == value
            taken = min(left, times[tied].sum())
            if taken > 0:
                errors += taken * (times[tied] * wrong[tied]).sum() / times[tied].sum()
            left -= taken
        found.append(errors / wanted)
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_equals_a_naive_walk_on_every_resample(ties):
    truth, probability, lineage = drawn(0, ties=ties)
    weights = np.concatenate([np.ones((1, LINEAGES)), resampled_weights(LINEAGES, seed=1, n_resamples=6)])
    found = risk(truth, probability, lineage, LINEAGES)(weights)
    expected = [naive(truth, probability, w[lineage]) for w in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    area = abstention_area(risk(truth, probability, lineage, LINEAGES))(weights)
    np.testing.assert_allclose(area, np.mean(expected, axis=1), atol=1e-12)


def test_confidence_that_tells_lowers_the_area_and_full_coverage_is_the_error_rate():
    truth, probability, lineage = drawn(1)
    once = np.ones((1, LINEAGES))
    curve = risk(truth, probability, lineage, LINEAGES)(once)[0]
    assert curve[-1] == pytest.approx(((probability > 0.5) != truth).mean())
    assert curve[0] < curve[-1]
    sure = np.where(probability > 0.5, 0.9, 0.1)  # the same answers, all equally sure
    flat = risk(truth, sure, lineage, LINEAGES)(once)[0]
    np.testing.assert_allclose(flat, curve[-1])
    perfect = risk(truth, truth * 1.0, lineage, LINEAGES)(once)[0]
    assert not perfect.any()


def test_thousands_of_items_are_taken_together_at_almost_the_same_curve():
    rng = np.random.default_rng(2)
    n = 5000
    probability = rng.random(n)
    truth = rng.random(n) < probability
    found = risk(truth, probability, np.zeros(n, dtype=int), 1)(np.ones((1, 1)))[0]
    np.testing.assert_allclose(found, naive(truth, probability, np.ones(n)), atol=2e-3)


def test_nothing_to_answer_is_not_applicable():
    none = np.zeros(0)
    curve = risk(none > 0, none, none.astype(int), LINEAGES)
    assert np.isnan(abstention_area(curve)(np.ones((2, LINEAGES)))).all()
    truth, probability, lineage = drawn(3)
    empty = risk(truth, probability, lineage, LINEAGES)(np.zeros((1, LINEAGES)))
    assert np.isnan(empty).all()
