"""What an evaluation scores: which labels, components and subjects count, for every method alike."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import LABELS, METHODS, Oracle, evaluated, shown
from sklearn.metrics import average_precision_score

from metamodel.baselines.prior import Prior
from metamodel.baselines.single_feature import best_single_feature
from metamodel.evaluation.items import Items
from metamodel.evaluation.measures import measures_of
from metamodel.evaluation.report import (
    gap_to_best,
    share_of_ceiling,
    stands_outside,
)
from metamodel.features.examples import NONE_OF_THESE, Prediction
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE


def test_a_perfect_reader_scores_one_and_wins_where_baselines_cannot_know(report):
    seed = report.scores["seed"]
    for metric in (
        "average_precision",
        "within_subject_average_precision",
        "kendall_tau",
        "behavior_accuracy",
    ):
        assert seed[metric]["meta-model"].value == pytest.approx(1.0), metric
    for metric in ("circuit_average_precision", "circuit_average_precision/edge"):
        assert seed[metric]["meta-model"].value == pytest.approx(1.0), metric
    for metric in ("calibration_error", "abstention_area", "slice_accuracy_error"):
        assert seed[metric]["meta-model"].value == pytest.approx(0.0), metric
    gap = gap_to_best(report, "seed", "average_precision/copying")
    assert gap is not None
    assert gap.verdict == "win"
    assert seed["behavior_accuracy"]["right_answer"].value == pytest.approx(0.5)


def test_a_reader_without_a_clue_stays_at_the_base_rate_and_loses(planted_examples):
    tests = {"seed": planted_examples(25, seed=2)}
    generator = torch.Generator().manual_seed(0)

    def clueless(seen) -> Prediction:
        true = Oracle(*tests.values())(seen)
        return replace(
            true, function_probability=torch.rand(true.function_probability.shape, generator=generator)
        )

    report = evaluated(planted_examples, clueless, tests=tests, readers=(best_single_feature(),)).report
    state = torch.cat([t.function_state[:, 0] for _, t in tests["seed"]])
    base = (state == POSITIVE).sum() / (state != MASKED).sum()
    found = report.scores["seed"]["average_precision/previous_token"]["meta-model"].value
    assert found == pytest.approx(float(base), abs=0.08)
    gap = gap_to_best(report, "seed", "average_precision/previous_token")
    assert gap is not None
    assert gap.verdict == "lose"
    assert report.scores["seed"]["kendall_tau"]["meta-model"].value == pytest.approx(1.0)


def test_determined_labels_stay_outside_the_macro_average(report):
    seed = report.scores["seed"]
    for method in METHODS:
        # induction has no positives and copying is determined: one label is left
        assert seed["average_precision"][method] == seed["average_precision/previous_token"][method]
    assert seed["average_precision/copying"]["prior"].value < 0.9


def test_a_label_counts_from_five_positives_of_three_lineages_on(planted_examples):
    examples = planted_examples(4, seed=2)

    def counted(positives_of_subjects: tuple[int, ...], determined=()) -> tuple[str, ...]:
        """The first components of each subject are positive for `copying`, and nothing else is."""
        given = []
        for (seen, truth), n in zip(examples, positives_of_subjects, strict=True):
            state = torch.full_like(truth.function_state, NEGATIVE)
            state[:n, 1] = POSITIVE
            given.append((seen, replace(truth, function_state=state)))
        return Items(given, labels=LABELS, determined=determined).counted

    assert counted((2, 2, 1, 0)) == ("copying",)
    assert counted((2, 1, 1, 0)) == ()  # four positives
    assert counted((4, 4, 0, 0)) == ()  # two lineages
    assert counted((2, 2, 1, 0), determined=("copying",)) == ()


def test_shared_components_are_those_in_the_circuits_of_two_behaviors_of_one_subject(planted_examples):
    examples = planted_examples(4, seed=2)
    circuits = [torch.arange(len(examples[0][1].node_member)) % n == 0 for n in (2, 3)]
    pair = [
        (s, replace(t, subject="both", lineage="l", node_member=member))
        for (s, t), member in zip(examples, circuits, strict=False)
    ]
    alone = [(s, replace(t, subject=f"{i}")) for i, (s, t) in enumerate(examples[2:])]
    oracle = Oracle(examples, pair)

    def value(examples) -> float:
        items = Items(examples, labels=LABELS)
        measure = measures_of(items, [oracle(seen) for seen, _ in examples])["shared_average_precision"]
        return float(measure(np.ones((1, items.n_lineages)))[0])

    both = pair[0][1].node_member & pair[1][1].node_member
    assert 0 < int(both.sum()) < int(pair[0][1].node_member.sum())
    assert value([*pair, *alone]) == 1.0
    oracle.truths[pair[1][0].id] = replace(pair[1][1], node_member=torch.ones_like(both))
    expected = average_precision_score(both, pair[0][1].node_member)
    assert value([*pair, *alone]) == pytest.approx(expected)
    assert expected < 1.0
    assert np.isnan(value(alone))
    assert np.isnan(value([(s, replace(t, subject="")) for s, t in examples]))


def test_algorithms_are_scored_where_they_are_known_and_unknown_programs_are_none_of_these(planted_examples):
    run = ["count", "alone", "", "sort"]
    examples = [
        (s, replace(t, algorithm=a)) for (s, t), a in zip(planted_examples(4, seed=2), run, strict=True)
    ]
    items = Items(examples, labels=LABELS, algorithms=("count", "sort"))
    assert items.algorithm == ["count", NONE_OF_THESE, "", "sort"]
    oracle = Oracle(examples)

    def value(*names: str) -> float:
        said = [replace(oracle(s), algorithm=name) for (s, _), name in zip(examples, names, strict=True)]
        return float(measures_of(items, said)["algorithm_top1"](np.ones((1, items.n_lineages)))[0])

    assert value("count", NONE_OF_THESE, "count", "sort") == 1.0
    assert value("count", NONE_OF_THESE, NONE_OF_THESE, "count") == pytest.approx(2 / 3)
    assert value("count", "alone", "", "count") == pytest.approx(1 / 3)
    unknown = Items([(s, replace(t, algorithm="")) for s, t in examples], labels=LABELS)
    measure = measures_of(unknown, [oracle(s) for s, _ in examples])["algorithm_top1"]
    assert np.isnan(measure(np.ones((1, unknown.n_lineages)))[0])


def test_masked_components_do_not_count_and_pattern_only_ones_are_negative(planted_examples):
    tests = {"seed": planted_examples(8, seed=2)}

    def scored(state_of) -> float:
        def changed(truth):
            state = state_of(truth.function_state.clone())
            return replace(truth, function_state=state)

        moved = {"seed": [(s, changed(t)) for s, t in tests["seed"]]}
        answer = Oracle(*tests.values())
        report = evaluated(planted_examples, answer, tests=moved, readers=(Prior(),)).report
        return report.scores["seed"]["average_precision/previous_token"]["meta-model"].value

    def first_positives_become(new: int):
        def change(state):
            at = (state[:, 0] == POSITIVE).nonzero()[:1]
            state[at, 0] = new
            return state

        return change

    assert scored(lambda state: state) == 1.0
    assert scored(first_positives_become(MASKED)) == 1.0
    pattern_only = scored(first_positives_become(PATTERN_ONLY))
    assert pattern_only < 0.9
    assert pattern_only == scored(first_positives_become(NEGATIVE))


def test_the_same_seed_gives_the_same_intervals(planted_examples):
    one, two, other = (
        evaluated(planted_examples, seed=seed, readers=(Prior(),)).report.scores for seed in (0, 0, 1)
    )
    assert repr(one) == repr(two)
    assert repr(one) != repr(other)


def test_rare_labels_stay_outside_every_average_of_every_method_but_keep_their_rows(planted_examples):
    tests = {"seed": planted_examples(8, seed=2)}
    rare = []
    for i, (seen, truth) in enumerate(tests["seed"]):
        state = truth.function_state.clone()
        state[:, 1] = state[:, 1].clamp_max(NEGATIVE)
        state[2, 2] = POSITIVE if i < 2 else state[2, 2]
        rare.append((seen, replace(truth, function_state=state)))
    report = evaluated(planted_examples, Oracle(rare), tests={"seed": rare}, readers=(Prior(),)).report
    seed = report.scores["seed"]
    assert report.counted == {"seed": ("previous_token",)}
    for method in ("meta-model", "prior"):
        assert seed["average_precision"][method] == seed["average_precision/previous_token"][method]
    assert seed["average_precision/induction"]["prior"].applies
    assert stands_outside(report, "seed", "average_precision/induction")
    assert not stands_outside(report, "seed", "average_precision/previous_token")
    assert not stands_outside(report, "seed", "average_precision")
    assert not stands_outside(replace(report, counted={}), "seed", "average_precision/induction")
    blocks = shown(report)
    assert "seed (8)†" in blocks["average_precision/induction"]
    assert "seed (8)†" not in blocks["average_precision/previous_token"]


def test_the_noise_ceiling_stands_beside_what_is_measured_again_and_is_no_baseline(planted_examples):
    tests = {"seed": planted_examples(8, seed=2)}
    oracle = Oracle(*tests.values())
    ceiling = {seen.id: oracle(seen) for seen, _ in tests["seed"]}
    weak = Prior()
    weak.fit(planted_examples(14, seed=0), [])
    report = evaluated(
        planted_examples, weak.predict, tests=tests, readers=(Prior(),), ceiling=ceiling
    ).report
    seed = report.scores["seed"]
    assert seed["average_precision"]["noise_ceiling"].value == 1.0
    assert "noise_ceiling" in seed["circuit_average_precision/edge"]
    for metric in ("behavior_accuracy", "slice_accuracy_error", "algorithm_top1"):
        assert "noise_ceiling" not in seed[metric]
        assert share_of_ceiling(report, "seed", metric) is None
    gap = gap_to_best(report, "seed", "average_precision")
    assert gap is not None
    assert gap.baseline == "prior"
    share = share_of_ceiling(report, "seed", "average_precision")
    assert share == pytest.approx(seed["average_precision"]["meta-model"].value)
    assert share_of_ceiling(report, "seed", "calibration_error") is None
    blocks = shown(report)
    assert re.search(f"share of ceiling +{share:.0%}", blocks["average_precision"])
    assert "share of ceiling" not in blocks["calibration_error"]
