"""What an evaluation writes: the form of metrics.json, verdicts, the card's numbers, and refusals."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score

from metamodel.baselines import opponents
from metamodel.baselines.prior import Prior
from metamodel.baselines.single_feature import best_single_feature
from metamodel.config import InputError
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.evaluate import evaluate
from metamodel.evaluation.figure import draw
from metamodel.evaluation.items import Items
from metamodel.evaluation.measures import measures_of
from metamodel.evaluation.report import (
    DIFFERENCES,
    METRICS,
    REFERENCES,
    Report,
    gap_to_best,
    load,
    save,
    share_of_ceiling,
    show,
    stands_outside,
)
from metamodel.features.examples import NONE_OF_THESE, Prediction
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
    "transformer_nfn",
    "neuron_graph",
    "probegen",
    "detect_head",
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
            algorithm=truth.algorithm or NONE_OF_THESE,
        )


def evaluated(planted_examples, answer=None, *, seed: int = 0, readers=None, tests=None, ceiling=None):
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
        ceiling=ceiling,
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
    console = Console(file=io.StringIO(), width=190, force_terminal=False)
    show(report, console)
    assert "induction †" in console.file.getvalue()
    assert "previous_token †" not in console.file.getvalue()


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
    console = Console(file=io.StringIO(), width=190, force_terminal=False)
    show(report, console)
    assert f"meta-model at {share:.0%} of the ceiling" in console.file.getvalue()


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
    console = Console(file=io.StringIO(), width=190, force_terminal=False)
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
