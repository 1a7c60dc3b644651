"""Spearman's correlation as scipy has it, and what its interval says."""

import numpy as np
import pytest
from rank_agreement import RankAgreement, summary
from scipy.stats import spearmanr


@pytest.fixture
def heads() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=40).round(1)  # with ties
    return truth + draw.normal(size=40), truth


def test_the_value_is_that_of_scipy_and_lies_in_its_interval(heads):
    found = RankAgreement(40, seed=0).of(*heads)
    assert found[0] == pytest.approx(spearmanr(*heads).statistic)
    said = summary(found)
    assert said["low"] < said["value"] < said["high"] < 1


def test_only_the_order_counts_and_turning_it_round_turns_the_sign(heads):
    score, truth = heads
    agreement = RankAgreement(40, seed=0)
    found = agreement.of(score, truth)
    np.testing.assert_allclose(agreement.of(np.exp(score), truth), found)
    np.testing.assert_allclose(agreement.of(-score, truth), -found)
    assert agreement.of(truth, truth)[0] == pytest.approx(1)


def test_a_score_that_is_the_same_everywhere_has_no_correlation(heads):
    found = RankAgreement(40, seed=0).of(np.ones(40), heads[1])
    assert summary(found) == {"value": None, "low": None, "high": None}
