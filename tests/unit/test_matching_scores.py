"""Scores of matches: against values by hand, against brute force, and by what they must not depend on."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from numpy import ndarray
from sklearn.metrics import average_precision_score, roc_auc_score

from metamodel.analogy.graph import CHANNELS, CircuitGraph
from metamodel.analogy.pairs import NONE, MatchedPair, Side
from metamodel.config.errors import InputError
from metamodel.evaluation.matching.intervals import (
    auroc_of,
    difference_of,
    interval_of,
    mean_of,
    median_of,
    n_lineages,
    pair_weights,
    precision_of,
)
from metamodel.evaluation.matching.scores import (
    BreakdownGuesses,
    alone,
    breakdown_error,
    counts,
    label_agreement,
    partial_f1,
)
from metamodel.subjects.config import KINDS

HEAD, MLP = KINDS.index("head"), KINDS.index("mlp")


def circuit(kinds: Sequence[int], depth: Sequence[float] | None = None) -> CircuitGraph:
    """Two embeddings, some inner nodes, an unembedding; no edges, for scores look at none."""
    n = len(kinds) + 3
    inner = list(depth) if depth is not None else [0.5] * len(kinds)
    return CircuitGraph(
        edges=torch.zeros(len(CHANNELS), n, n),
        features=torch.zeros(n, 0),
        kinds=torch.tensor([0, 1, *kinds, KINDS.index("unembedding")]),
        depth=torch.tensor([0.0, 0.0, *inner, 1.0]),
        names=tuple(map(str, range(n))),
    )


def side(
    n: int, orbit: Sequence[int] | None = None, labels: torch.Tensor | None = None, lineage: str = ""
) -> Side:
    held = torch.zeros(n, 2, dtype=torch.bool)
    if labels is not None:
        held[2 : 2 + len(labels)] = labels
    return Side(
        lineage=lineage,
        orbit=torch.arange(n) if orbit is None else torch.tensor([100, 101, *orbit, 102]),
        labels=held,
        known=torch.ones(n, 2, dtype=torch.bool),
    )


def pair(
    truth: Sequence[int] | None,
    n_theirs: int,
    *,
    n: int | None = None,
    orbit: Sequence[int] | None = None,
    orbit_theirs: Sequence[int] | None = None,
    lineages: tuple[str, str] = ("a", "b"),
) -> MatchedPair:
    """All heads; truth is among inner nodes, by their own numbers."""
    n = len(truth) if truth is not None else n or 0
    return MatchedPair(
        first=circuit([HEAD] * n),
        second=circuit([HEAD] * n_theirs),
        truth=None if truth is None else mapping(truth, n_theirs),
        kind="planted",
        split="validation",
        first_side=side(n + 3, orbit, lineage=lineages[0]),
        second_side=side(n_theirs + 3, orbit_theirs, lineage=lineages[1]),
    )


def mapping(inner: Sequence[int], n_theirs: int) -> torch.Tensor:
    shifted = [j + 2 if j != NONE else NONE for j in inner]
    return torch.tensor([0, 1, *shifted, n_theirs + 2])


def test_f1_by_hand():
    one = pair([0, 1, 2, NONE], 4)
    # two right of three made, three true
    found = counts(one, mapping([0, 1, 3, NONE], 4))
    assert (found.right, found.made, found.true) == (2, 3, 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert partial_f1(one, mapping([0, 1, 2, NONE], 4)) == 1
    assert partial_f1(one, mapping([1, 2, 0, NONE], 4)) == 0
    assert partial_f1(one, mapping([0, 1, 2, 3], 4)) == pytest.approx(6 / 7)
    assert partial_f1(one, mapping([NONE] * 4, 4)) == 0


def test_anchors_count_nowhere():
    one = pair([0, NONE], 2)
    wrong_anchors = mapping([0, NONE], 2)
    wrong_anchors[[0, 1, -1]] = NONE
    assert partial_f1(one, wrong_anchors) == 1
    empty = pair([NONE, NONE], 2)
    assert partial_f1(empty, mapping([NONE, NONE], 2)) == 1
    assert partial_f1(empty, mapping([0, NONE], 2)) == 0


def test_interchangeable_nodes_count_as_one_another_but_no_more_often_than_they_correspond():
    one = pair([0, 1, 2], 3, orbit=[0, 0, 1], orbit_theirs=[0, 0, 1])
    assert partial_f1(one, mapping([1, 0, 2], 3)) == 1
    assert partial_f1(one, mapping([2, 0, 1], 3)) == pytest.approx(1 / 3)
    # only one of two interchangeable nodes has a counterpart: either of them may take it, but once
    lonely = pair([0, NONE, 2], 3, orbit=[0, 0, 1], orbit_theirs=[0, 0, 1])
    assert partial_f1(lonely, mapping([NONE, 0, 2], 3)) == 1
    assert counts(lonely, mapping([0, 1, 2], 3)).right == 2
    # without orbits the same maps are wrong
    plain = pair([0, 1, 2], 3)
    assert partial_f1(plain, mapping([1, 0, 2], 3)) == pytest.approx(1 / 3)


def test_f1_with_orbits_is_the_best_over_exchanges_of_interchangeable_nodes():
    """By brute force: the truth may be moved by any permutation inside orbits, on either side."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        orbit, orbit_theirs = (torch.randint(2, (4,), generator=generator).tolist() for _ in range(2))
        truth, said = (
            [j if j < 4 else NONE for j in torch.randperm(6, generator=generator)[:4].tolist()]
            for _ in range(2)
        )
        found = counts(pair(truth, 4, orbit=orbit, orbit_theirs=orbit_theirs), mapping(said, 4))
        best = 0
        for p in permutations(range(4)):
            if any(orbit[p[i]] != orbit[i] for i in range(4)):
                continue
            for q in permutations(range(4)):
                if any(orbit_theirs[q[j]] != orbit_theirs[j] for j in range(4)):
                    continue
                moved = [NONE] * 4
                for i, j in enumerate(truth):
                    if j != NONE:
                        moved[p[i]] = q[j]
                best = max(best, sum(a == b != NONE for a, b in zip(moved, said, strict=True)))
        assert found.right == best


def test_scores_follow_no_order_of_nodes():
    one = pair([0, 1, NONE, 2], 4, orbit=[0, 0, 1, 2], orbit_theirs=[5, 6, 7, 7])
    said = mapping([1, 0, 2, 3], 4)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randperm(7, generator=generator), torch.randperm(7, generator=generator)
    place = torch.argsort(second)
    moved = torch.where(said[first] >= 0, place[said[first].clamp_min(0)], said[first])
    assert counts(one.permuted(first, second), moved) == counts(one, said)


def test_unknown_truths_and_maps_of_another_size_are_refused():
    with pytest.raises(InputError, match="expected a known truth, got none"):
        partial_f1(pair(None, 2, n=2), mapping([0, 1], 2))
    with pytest.raises(InputError, match="expected 5 entries, got 6"):
        partial_f1(pair([0, 1], 2), mapping([0, 1, NONE], 3))


def test_who_is_alone_is_told_on_both_sides():
    one = pair([0, NONE], 3)
    p = torch.zeros(5, 6)
    p[2, 2], p[3, 3] = 0.9, 0.25
    lonely, sure = alone(one, p)
    assert lonely.tolist() == [False, True, False, True, True]
    assert sure == pytest.approx([0.1, 0.75, 0.1, 0.75, 1.0])
    swapped, sure_swapped = alone(one.swapped(), p.T)
    assert sorted(zip(swapped, sure_swapped, strict=True)) == sorted(zip(lonely, sure, strict=True))


def ones(n: int) -> ndarray:
    return np.ones((1, n))


def test_precision_and_auroc_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    truths = [generator.random(n) < 0.4 for n in (5, 7, 6)]
    scores = [generator.random(n).round(1) for n in (5, 7, 6)]
    expected = average_precision_score(np.concatenate(truths), np.concatenate(scores))
    assert precision_of(truths, scores)(ones(3))[0] == pytest.approx(expected)
    present, score = generator.random(40) < 0.5, generator.random(40).round(1)
    measure = auroc_of(present, score)
    assert measure(ones(40))[0] == pytest.approx(roc_auc_score(present, score))
    # weights are copies
    copies = generator.integers(0, 3, 40)
    copied = roc_auc_score(np.repeat(present, copies), np.repeat(score, copies))
    assert measure(copies[None].astype(float))[0] == pytest.approx(copied)
    assert measure(0 * ones(40)).tolist() == pytest.approx([np.nan], nan_ok=True)
    assert auroc_of(present, -score)(ones(40))[0] == pytest.approx(1 - measure(ones(40))[0])


def test_weighted_median_is_that_of_copies():
    generator = np.random.default_rng(1)
    values = np.append(generator.integers(0, 9, 12).astype(float), np.nan)
    copies = generator.integers(0, 4, (6, 13))
    found = median_of(values)(copies.astype(float))
    for row, value in zip(copies, found, strict=True):
        assert value == np.quantile(np.repeat(values[:-1], row[:-1]), 0.5, method="inverted_cdf")
    assert np.isnan(median_of(np.full(2, np.nan))(ones(2))[0])


def test_pairs_are_resampled_by_both_lineages():
    pairs = [
        pair([0], 1, lineages=("a", "a")),
        pair([0], 1, lineages=("a", "b")),
        pair([0], 1, lineages=("c", "b")),
        pair([0], 1, lineages=("", "")),
    ]
    weights = pair_weights(pairs, seed=0, n_resamples=400)
    assert n_lineages(pairs) == 4
    # wherever a is not drawn, neither of its pairs counts, and a pair counts twice where both are drawn
    assert (weights[weights[:, 0] == 0][:, 1] == 0).all()
    rows = weights[:, 0] > 0
    assert set((weights[rows][:, 1] / weights[rows][:, 0]).tolist()) >= {0.0, 1.0, 2.0}
    assert weights[:, [0, 3]].mean(0) == pytest.approx([1, 1], abs=0.15)


def test_intervals_widen_where_pairs_share_a_lineage():
    values = np.array([0.0, 1.0] * 10)
    shared = [pair([0], 1, lineages=(f"l{i % 2}", f"l{i % 2}")) for i in range(20)]
    apart = [pair([0], 1, lineages=(f"l{i}", f"l{i}")) for i in range(20)]
    wide, narrow = (interval_of(mean_of(values), pairs) for pairs in (shared, apart))
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > narrow.high - narrow.low > 0
    assert (wide.n_lineages, narrow.n_lineages) == (2, 20)
    nothing = difference_of(mean_of(values), mean_of(values - 0.25), apart)
    assert (nothing.low, nothing.value, nothing.high) == pytest.approx((0.25, 0.25, 0.25))


def test_guesses_of_the_breakdown_point():
    # exactly half of the first circuit's inner nodes correspond
    training = [pair([*range(k), *[NONE] * k], m) for k, m in ((2, 5), (3, 4), (4, 9), (5, 5), (6, 8))]
    guesses = BreakdownGuesses.of(training)
    assert guesses.constant == 4
    assert guesses.slopes == pytest.approx((0, 0.5, 0), abs=1e-9)
    other = pair([0, 1, 2, NONE, NONE, NONE, NONE, NONE], 7)
    assert guesses.size_prior(other) == 4
    assert breakdown_error(other, guesses.size_prior(other)) == 1
    assert breakdown_error(other, 3) == 0
    assert guesses.size_prior(pair([NONE] * 10, 2)) == 2
    with pytest.raises(InputError, match="breakdown guesses: expected known truths"):
        BreakdownGuesses.of([pair(None, 2, n=2)])


def natural(labels: torch.Tensor, labels_theirs: torch.Tensor, depth: Sequence[float]) -> MatchedPair:
    n, m = len(labels), len(labels_theirs)
    return replace(
        pair(None, m, n=n),
        first=circuit([HEAD] * n),
        second=circuit([HEAD] * m, depth),
        first_side=side(n + 3, labels=labels),
        second_side=side(m + 3, labels=labels_theirs),
        kind="natural",
    )


def test_label_agreement_by_hand():
    """Four heads of one layer; two have label 0 and two label 1. Chance agrees half the time."""
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    one = natural(labels, labels, [0.5] * 4)
    assert label_agreement(one, mapping([0, 1, 2, 3], 4)) == 1
    assert label_agreement(one, mapping([1, 0, 3, 2], 4)) == 1
    half = label_agreement(one, mapping([0, 2, 1, 3], 4))
    assert half == pytest.approx(0, abs=0.1)
    # nothing agrees: (0 − ½) / (1 − ½)
    assert label_agreement(one, mapping([2, 3, 0, 1], 4)) == pytest.approx(-1, abs=0.2)
    assert label_agreement(one, mapping([2, 3, 0, 1], 4), seed=1) != label_agreement(
        one, mapping([2, 3, 0, 1], 4), seed=0
    )


def test_what_kind_and_depth_determine_is_no_agreement():
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    # label 0 stands in the first layer and label 1 in the second, so that every shuffle agrees too
    determined = natural(labels, labels, [0.3, 0.3, 0.7, 0.7])
    assert np.isnan(label_agreement(determined, mapping([0, 1, 2, 3], 4)))
    nobody = natural(torch.zeros(2, 2).bool(), torch.zeros(2, 2).bool(), [0.5, 0.5])
    assert np.isnan(label_agreement(nobody, mapping([0, 1], 2)))
    assert np.isnan(label_agreement(determined, mapping([NONE] * 4, 4)))


def test_labels_that_are_not_known_of_both_are_not_judged():
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    one = natural(labels, labels, [0.5] * 4)
    said = mapping([0, 1, 3, NONE], 4)
    known = one.second_side.known.clone()
    known[:, 1] = False
    # of label 1 nothing is known there: only the two heads with label 0 are judged
    hidden = replace(one, second_side=replace(one.second_side, known=known))
    assert label_agreement(hidden, said) == 1
    assert label_agreement(hidden, mapping([0, 2, 1, NONE], 4)) < 1
