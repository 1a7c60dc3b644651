"""The card says what metrics.json says, what its numbers rest on, and how to load."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.card import HEADLINES, METHODS, CardFacts, Counts, card, counts, summary, write_card
from metamodel.evaluation.report import DIFFERENCES, METRICS, Report, load, save
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

    return Report(command="python -m metamodel.train", zoo="z f", scores=scores(), differences=scores())


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


def test_the_numbers_of_the_card_are_those_of_metrics_json(report, tmp_path):
    save(report, tmp_path)
    write_card(tmp_path, load(tmp_path), FACTS)
    tables = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| `")]
    written = set(re.findall(r"[+-]?\d+\.\d{3}", "\n".join(tables)))
    metrics, differences = (json.loads((tmp_path / name).read_text()) for name in (METRICS, DIFFERENCES))
    assert len(tables) == 2 * (8 + len(LABELS))
    assert written <= numbers(metrics["splits"]) | numbers(differences["splits"])
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
        best = max(set(METHODS) - {"right_answer"}, key=lambda name: scores[name].value)
        assert f"| {split} | 9 | **{scores['meta-model'].value:.3f}**" in line
        assert f"| {best}: {scores[best].value:.3f} [" in line
        assert f"| {report.differences[split]['average_precision'][best].value:+.3f} [" in line


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
