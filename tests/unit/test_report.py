"""What an evaluation writes: the form of metrics.json, verdicts, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from oracle import LABELS, METHODS, evaluated, interval

from metamodel.baselines import opponents
from metamodel.config import InputError
from metamodel.evaluation.figure import draw
from metamodel.evaluation.report import (
    DIFFERENCES,
    METRICS,
    REFERENCES,
    Report,
    gap_to_best,
    load,
    save,
)
from metamodel.triples.schema import NEGATIVE


def test_metrics_json_has_the_form_of_the_design(report, tmp_path):
    save(report, tmp_path)
    found = json.loads((tmp_path / METRICS).read_text())
    assert list(found) == ["schema_version", "command", "zoo", "counted", "splits"]
    assert list(found["splits"]) == ["seed", "task"]
    metrics = found["splits"]["seed"]
    assert {
        "average_precision",
        *(f"average_precision/{label}" for label in LABELS),
        "circuit_average_precision",
        "circuit_average_precision/node",
        "circuit_average_precision/edge",
        "shared_average_precision",
        "algorithm_top1",
        "abstention_area",
        "within_subject_average_precision",
        "kendall_tau",
        "calibration_error",
        "behavior_accuracy",
        "slice_accuracy_error",
    } == set(metrics)
    for name, methods in metrics.items():
        assert [m for m in methods if m not in REFERENCES] == METHODS, name
        for score in methods.values():
            assert list(score) == ["value", "low", "high", "n_lineages"]
            assert score["n_lineages"] == 8
    assert metrics["average_precision/induction"]["prior"]["value"] is None
    assert found["counted"] == {"seed": ["previous_token"], "task": ["previous_token"]}
    differences = json.loads((tmp_path / DIFFERENCES).read_text())["splits"]["seed"]
    assert set(differences) == set(metrics)
    assert "meta-model" not in differences["average_precision"]


def test_a_saved_report_is_read_back(report, tmp_path):
    save(report, tmp_path)
    save(load(tmp_path), tmp_path / "..")
    assert (tmp_path / METRICS).read_text() == (tmp_path.parent / METRICS).read_text()


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


def test_the_figure_is_the_same_bytes_twice(evaluation, tmp_path):
    draw(evaluation, tmp_path / "a.svg")
    draw(evaluation, tmp_path / "b.svg")
    found = (tmp_path / "a.svg").read_bytes()
    assert found == (tmp_path / "b.svg").read_bytes()
    for word in (b"previous token", b"circuit edge", b"seed: reliability", b"task: abstention"):
        assert word in found
    assert "copying †" in found.decode()
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
