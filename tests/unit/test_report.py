"""What an evaluation writes: the form of metrics.json, verdicts, the card's numbers, and refusals."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from metamodel.baselines import opponents
from metamodel.baselines.prior import Prior
from metamodel.baselines.single_feature import best_single_feature
from metamodel.config import InputError
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.evaluate import evaluate
from metamodel.evaluation.figure import draw
from metamodel.evaluation.report import DIFFERENCES, METRICS, Report, gap_to_best, load, save, show
from metamodel.features.examples import Prediction
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE

LABELS = ("previous_token", "copying", "induction")
METHODS = [
    "meta-model",
    "prior",
    "best_single_feature",
    "nearest",
    "logistic",
    "boosted_trees",
    "statistics",
    "token_space",
]


class Oracle:
    """Answers the truth, which it is given beforehand."""

    def __init__(self, *groups):
        self.truths = {seen.id: truth for examples in groups for seen, truth in examples}

    def __call__(self, seen) -> Prediction:
        truth = self.truths[seen.id]
        return Prediction(
            function_probability=(truth.function_state == POSITIVE).float(),
            function_score=truth.function_score.nan_to_num(0.0),
            node_member=truth.node_member.float(),
            edge_member=truth.edge_member.float(),
            slice_accuracy=truth.slice_accuracy.nan_to_num(0.0),
            probe_answer=truth.probe_answer,
        )


def evaluated(planted_examples, answer=None, *, seed: int = 0, readers=None, tests=None):
    train, validation = planted_examples(14, seed=0), planted_examples(4, seed=1)
    tests = tests or {
        "seed": planted_examples(8, seed=2),
        "task": planted_examples(6, seed=3, family="other"),
    }
    return evaluate(
        answer or Oracle(*tests.values()),
        train=train,
        validation=validation,
        tests=tests,
        labels=LABELS,
        determined=("copying",),
        command="python -m metamodel.train",
        zoo="planted@abc",
        seed=seed,
        readers=readers,
    )


@pytest.fixture(scope="module")
def evaluation(planted_examples):
    return evaluated(planted_examples)


@pytest.fixture(scope="module")
def report(evaluation) -> Report:
    return evaluation.report


def test_metrics_json_has_the_form_of_the_design(report, tmp_path):
    save(report, tmp_path)
    found = json.loads((tmp_path / METRICS).read_text())
    assert list(found) == ["schema_version", "command", "zoo", "splits"]
    assert list(found["splits"]) == ["seed", "task"]
    metrics = found["splits"]["seed"]
    assert {
        "average_precision",
        *(f"average_precision/{label}" for label in LABELS),
        "average_precision/circuit_node",
        "average_precision/circuit_edge",
        "within_subject_average_precision",
        "kendall_tau",
        "calibration_error",
        "behavior_accuracy",
        "slice_accuracy_error",
    } == set(metrics)
    for name, methods in metrics.items():
        assert [m for m in methods if m != "right_answer"] == METHODS, name
        for score in methods.values():
            assert list(score) == ["value", "low", "high", "n_lineages"]
            assert score["n_lineages"] == 8
    assert metrics["average_precision/induction"]["prior"]["value"] is None
    differences = json.loads((tmp_path / DIFFERENCES).read_text())["splits"]["seed"]
    assert set(differences) == set(metrics)
    assert "meta-model" not in differences["average_precision"]


def test_a_saved_report_is_read_back(report, tmp_path):
    save(report, tmp_path)
    save(load(tmp_path), tmp_path / "..")
    assert (tmp_path / METRICS).read_text() == (tmp_path.parent / METRICS).read_text()


def test_a_perfect_reader_scores_one_and_wins_where_baselines_cannot_know(report):
    seed = report.scores["seed"]
    for metric in (
        "average_precision",
        "within_subject_average_precision",
        "kendall_tau",
        "behavior_accuracy",
    ):
        assert seed[metric]["meta-model"].value == pytest.approx(1.0), metric
    for metric in ("calibration_error", "slice_accuracy_error"):
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


def interval(value: float, low: float, high: float, n_lineages: int = 5) -> Interval:
    return Interval(value=value, low=low, high=high, n_lineages=n_lineages)


@pytest.mark.parametrize(
    ("metric", "ours", "gap", "baseline", "verdict"),
    [
        ("average_precision", 0.9, (0.1, 0.02, 0.2), "b", "win"),
        ("average_precision", 0.9, (0.1, -0.02, 0.2), "b", "even"),
        ("average_precision", 0.9, (0.1, 0.1, 0.1, 1), "b", "even"),
        ("average_precision", 0.5, (-0.3, -0.4, -0.2), "b", "lose"),
        ("calibration_error", 0.1, (-0.6, -0.7, -0.5), "a", "win"),
        ("calibration_error", 0.9, (0.2, 0.1, 0.3), "a", "lose"),
    ],
)
def test_the_best_baseline_and_the_verdict_follow_the_metrics_direction(metric, ours, gap, baseline, verdict):
    scores = {
        "meta-model": interval(ours, 0.0, 1.0),
        "a": interval(0.7, 0.0, 1.0),
        "b": interval(0.8, 0.0, 1.0),
        "right_answer": interval(0.99, 0.0, 1.0),
    }
    report = Report(
        command="",
        zoo="",
        scores={"seed": {metric: scores}},
        differences={"seed": {metric: {"a": interval(*gap), "b": interval(*gap)}}},
    )
    found = gap_to_best(report, "seed", metric)
    assert found is not None
    assert (found.baseline, found.verdict) == (baseline, verdict)


def test_the_table_shows_every_metric_and_method(report):
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    show(report, console)
    text = console.file.getvalue()
    for word in (
        "split seed",
        "split task",
        "meta-model",
        "logistic",
        "kendall_tau",
        "induction",
        "n/a",
        "win",
    ):
        assert word in text, word


def test_the_figure_is_the_same_bytes_twice(evaluation, tmp_path):
    draw(evaluation.report, evaluation.reliability, tmp_path / "a.svg")
    draw(evaluation.report, evaluation.reliability, tmp_path / "b.svg")
    found = (tmp_path / "a.svg").read_bytes()
    assert found == (tmp_path / "b.svg").read_bytes()
    assert b"previous token" in found
    assert len(found) < 500_000


def test_an_empty_split_is_refused_in_one_line(planted_examples):
    with pytest.raises(InputError) as error:
        evaluated(planted_examples, tests={"seed": planted_examples(2, seed=2), "task": []})
    assert str(error.value) == (
        "split task: expected at least one subject, got none. "
        "Build a zoo that holds some, or choose another split."
    )


def test_labels_without_any_positive_are_refused_in_one_line(planted_examples):
    def negative(examples):
        return [(s, replace(t, function_state=t.function_state.clamp_max(NEGATIVE))) for s, t in examples]

    with pytest.raises(InputError) as error:
        evaluated(planted_examples, tests={"seed": negative(planted_examples(2, seed=2))})
    assert str(error.value) == (
        "labels on seed: expected a label with positives, got none. "
        "Build more subjects, or subjects that learned their task."
    )


def test_a_zoo_with_other_labels_is_refused_in_one_line(planted_examples):
    with pytest.raises(InputError) as error:
        evaluated(planted_examples, tests={"seed": planted_examples(1, seed=2, n_labels=4)})
    assert str(error.value) == (
        "repeated-2-0: labels: expected 3 (previous_token, copying, induction), got 4. "
        "Use a zoo with the labels that the checkpoint was trained on."
    )


def test_a_missing_report_and_one_of_another_version_are_refused_in_one_line(report, tmp_path):
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / METRICS}: expected a report, got no file. Run `python -m metamodel.evaluate`."
    )
    save(report, tmp_path)
    old = json.loads((tmp_path / METRICS).read_text()) | {"schema_version": 0}
    (tmp_path / METRICS).write_text(json.dumps(old))
    with pytest.raises(InputError, match="schema_version: expected 1, got 0"):
        load(tmp_path)


def test_all_opponents_of_the_report_are_those_that_exist():
    assert ["meta-model", *(reader.name for reader in opponents())] == METHODS
    assert np.unique(METHODS).size == len(METHODS)
