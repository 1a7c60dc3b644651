"""The card says what metrics.json says, what its numbers rest on, and how to load."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from metamodel.config.words import TEST_SPLITS
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.card import (
    DEPARTURES,
    HEADLINES,
    METHODS,
    CardFacts,
    Pictures,
    card,
    write_card,
)
from metamodel.evaluation.card import METRICS as WORDS
from metamodel.evaluation.card_tables import Counts, ceiling_table, counts, summary
from metamodel.evaluation.controls import CONTROLS, Claims, Controls, save_controls
from metamodel.evaluation.report import (
    DIFFERENCES,
    EDIT_REFERENCES,
    METRICS,
    REFERENCES,
    Report,
    load,
    save,
    share_of_ceiling,
)
from metamodel.triples.schema import MASKED, POSITIVE, LabelDefinition

LABELS = ("previous_token", "copying", "induction")
DEFINITIONS = tuple(
    LabelDefinition(
        name=name,
        description=f"Definition of {name}.",
        statistics=(),
        effect_size=0.1,
        twin="none",
        determined_by=("weights",) if name == "copying" else (),
    )
    for name in LABELS
)


@pytest.fixture(scope="module")
def report() -> Report:
    """Random numbers of every metric and method; induction has no positives."""
    rng = np.random.default_rng(0)

    def drawn(metric: str) -> Interval:
        low, value, high = (float("nan"),) * 3 if metric.endswith("induction") else np.sort(rng.random(3))
        return Interval(value=float(value), low=float(low), high=float(high), n_lineages=9)

    metrics = (*HEADLINES, *(f"average_precision/{label}" for label in LABELS))
    methods = ("meta-model", *METHODS)

    def scores() -> dict[str, dict[str, dict[str, Interval]]]:
        return {
            split: {metric: {method: drawn(metric) for method in methods} for metric in metrics}
            for split in ("seed", "task")
        }

    return Report(
        command="python -m metamodel.train",
        zoo="z f",
        scores=scores(),
        differences=scores(),
        counted={"seed": ("previous_token",), "task": ("previous_token", "induction")},
    )


def numbers(values: object) -> set[str]:
    """Every value, low and high of a report's JSON, as the card writes it."""
    if isinstance(values, dict):
        return set().union(*(numbers(v) for v in values.values())) if values else set()
    return {f"{values:.3f}", f"{values:+.3f}"} if isinstance(values, float) else set()


FACTS = CardFacts(
    name="function-test",
    track="weights",
    labels=DEFINITIONS,
    config={"optim": {"lr": 0.002}},
    counts={
        "train": Counts(n_subjects=14, positive=(5, 0, 2), asked=(56, 56, 40)),
        "validation": Counts(n_subjects=4, positive=(1, 0, 1), asked=(16, 16, 8)),
    },
)


def claims(*values: float) -> Claims:
    highest, share = (Interval(value=v, low=v - 0.01, high=v + 0.01, n_lineages=5) for v in values)
    return Claims(highest_probability=highest, share_positive=share)


CLAIMS = Controls(n_subjects=7, trained=claims(0.912, 0.433), untrained=claims(0.521, 0.087))


def test_the_numbers_of_the_card_are_those_of_metrics_json(report, tmp_path):
    save(report, tmp_path)
    save_controls(CLAIMS, tmp_path)
    write_card(tmp_path, load(tmp_path), FACTS, controls=CLAIMS)
    lines = (tmp_path / "README.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("| `")]
    written = set(re.findall(r"[+-]?\d+\.\d{3}", "\n".join(tables)))
    metrics, differences = (json.loads((tmp_path / name).read_text()) for name in (METRICS, DIFFERENCES))
    ceilings = ceiling_table(report).splitlines()[2:]
    assert len(tables) == 2 * (len(HEADLINES) + len(LABELS)) + len(ceilings)
    assert written <= numbers(metrics["splits"]) | numbers(differences["splits"])
    claims = [line for line in lines if line.startswith(("| as they are |", "| untrained copies |"))]
    stated = set(re.findall(r"\d+\.\d{3}", "\n".join(claims)))
    assert len(claims) == 2
    assert len(stated) == 12
    assert stated <= numbers(json.loads((tmp_path / CONTROLS).read_text()))
    values = {
        f"{score['value']:.3f}"
        for split in metrics["splits"].values()
        for methods in split.values()
        for name, score in methods.items()
        if score["value"] is not None and name != "right_answer"
    }
    assert values <= written


def test_the_summary_names_the_best_baseline_of_each_split(report):
    lines = summary(report, "average_precision").splitlines()
    assert len(lines) == 4
    for split, line in zip(("seed", "task"), lines[2:], strict=True):
        scores = report.scores[split]["average_precision"]
        best = max(set(METHODS) - REFERENCES, key=lambda name: scores[name].value)
        assert f"| {split} | 9 | **{scores['meta-model'].value:.3f}**" in line
        assert f"| {best}: {scores[best].value:.3f} [" in line
        assert f"| {report.differences[split]['average_precision'][best].value:+.3f} [" in line


def test_the_card_states_the_share_of_the_ceiling_or_how_to_measure_it(report):
    text = card(report, FACTS)
    for split in ("seed", "task"):
        share = share_of_ceiling(report, split, "average_precision")
        value = report.scores[split]["average_precision"]["noise_ceiling"].value
        assert share is not None
        assert f" {share:.0%} of {value:.3f} |" in text
    assert "`calibration_error`" not in ceiling_table(report)
    assert "data_gen.remeasured" not in text
    scores = {
        split: {
            metric: {m: score for m, score in methods.items() if m != "noise_ceiling"}
            for metric, methods in metrics.items()
        }
        for split, metrics in report.scores.items()
    }
    without = card(replace(report, scores=scores), replace(FACTS, config={"zoo": "data/mine"}))
    assert "`python -m data_gen.remeasured data/mine` makes it" in without
    assert "noise ceiling |" not in without


def test_labels_that_averages_do_not_count_are_marked_split_by_split(report):
    text = card(report, FACTS)
    assert text.count("| `average_precision/copying` † |") == 2
    assert text.count("| `average_precision/induction` † |") == 1
    assert "`average_precision/previous_token` †" not in text
    assert "† marks labels" in text
    assert "†" not in card(replace(report, counted={}), FACTS).split("## Limits")[0]


def test_pictures_and_controls_are_shown_where_there_are_some(report):
    bare = card(report, FACTS)
    assert "![" not in bare
    assert "untrained copies |" not in bare
    assert "| split | meta-model | the same answers against shuffled labels |" in bare
    full = card(report, FACTS, pictures=Pictures(results="r.svg", curves="c.png"), controls=CLAIMS)
    assert "](r.svg)" in full
    assert "](c.png)" in full
    assert "7 test subjects, and a re-initialised copy of each" in full


def test_every_split_metric_and_method_of_reports_is_put_in_words(report):
    assert set(DEPARTURES) == set(TEST_SPLITS)
    assert set(METHODS) >= REFERENCES - EDIT_REFERENCES
    assert {metric.partition("/")[0] for metric in HEADLINES} == set(WORDS)
    text = card(report, FACTS)
    for name in (*WORDS, *METHODS):
        assert f"- `{name}`: " in text, name


def test_a_changed_number_changes_the_card(report):
    scores = {
        split: {
            metric: {m: replace(s, value=s.value / 2) for m, s in methods.items()}
            for metric, methods in metrics.items()
        }
        for split, metrics in report.scores.items()
    }
    assert card(replace(report, scores=scores), FACTS) != card(report, FACTS)


def test_the_card_says_what_is_determined_and_how_to_load(report):
    text = card(report, FACTS)
    assert "outside the macro average: `copying`" in text
    assert 'metamodel.load("checkpoints/function-test")' in text
    assert "n/a" in text
    assert "python -m metamodel.evaluate checkpoints/function-test" in text
    assert "determined" not in card(report, replace(FACTS, track="activations")).lower()


def test_the_card_says_what_its_numbers_rest_on(report, planted_examples):
    truths = [truth for _, truth in planted_examples(3, seed=5)]
    found = counts(truths)
    assert found.n_subjects == 3
    state = torch.cat([truth.function_state for truth in truths])
    assert found.positive[0] == int((state[:, 0] == POSITIVE).sum()) > 0
    assert found.positive[2] == 0
    assert found.asked[0] == int((state[:, 0] != MASKED).sum()) < len(state)
    text = card(report, FACTS)
    assert "Trained on 14 subjects, tuned on 4" in text
    assert f"| {DEFINITIONS[0].name} | 5 of 56 | 1 of 16 |" in text
