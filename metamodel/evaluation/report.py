"""What an evaluation found: every metric, every method, every split, with intervals.

`metrics.json` has one form for every question; `differences.json` beside it has the same form and holds
meta-model minus method, on the same resamples.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metamodel.baselines.base import META_MODEL, is_ours
from metamodel.config.errors import InputError, require
from metamodel.evaluation.bootstrap import Interval

SCHEMA_VERSION = 1
METRICS, DIFFERENCES = "metrics.json", "differences.json"
RIGHT_ANSWER, NOISE_CEILING, SHUFFLED_LABELS = "right_answer", "noise_ceiling", "shuffled_labels"
ORACLE, SHUFFLED_SPECIFICATION, OTHER_SUBJECT = "oracle", "shuffled_specification", "other_subject"
EDIT_REFERENCES = frozenset({ORACLE, SHUFFLED_SPECIFICATION, OTHER_SUBJECT})
REFERENCES = frozenset({RIGHT_ANSWER, NOISE_CEILING, SHUFFLED_LABELS}) | EDIT_REFERENCES
"""Methods that know what no reader knows, or are asked something else: shown, never counted as baselines."""
LOWER_IS_BETTER = frozenset(
    {
        "calibration_error",
        "abstention_area",
        "slice_accuracy_error",
        "kl",
        "milliseconds",
        "breakdown_error",
        "relative_norm",
    }
)
MARK = "†"
"""Beside labels that a split's averages do not count."""
FEWEST = 4
"""Lineages below which a bootstrap interval is no ground for a verdict."""

Scores = Mapping[str, Mapping[str, Mapping[str, Interval]]]
"""split -> metric -> method -> interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Scores of all methods, and how far the meta-model is from each."""

    command: str
    """How it was made."""
    zoo: str
    """Name and fingerprint of the zoo."""
    scores: Scores
    differences: Scores
    """Meta-model minus method, paired."""
    counted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """split -> labels that its averages count; a split is missing where a report does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The meta-model against the best of its opponents."""

    baseline: str
    difference: Interval
    """Meta-model minus baseline, in the metric's own direction."""
    verdict: str
    """`win` or `lose` if the interval leaves out 0 and rests on `FEWEST` lineages, `even` otherwise."""


def gap_to_best(report: Report, split: str, metric: str) -> Gap | None:
    """The gap to the baseline that is best on this very split; None where the metric does not apply.

    Choosing the opponent after the fact favours the opponent.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    found = {
        name: sign * score.value
        for name, score in report.scores[split][metric].items()
        if not is_ours(name) and name not in REFERENCES and score.applies
    }
    if not found or not report.scores[split][metric][META_MODEL].applies:
        return None
    best = max(found, key=lambda name: found[name])
    difference = report.differences[split][metric][best]
    low, high = sorted((sign * difference.low, sign * difference.high))
    few = difference.n_lineages < FEWEST
    verdict = "even" if few else "win" if low > 0 else "lose" if high < 0 else "even"
    return Gap(baseline=best, difference=difference, verdict=verdict)


def share_of_ceiling(report: Report, split: str, metric: str) -> float | None:
    """How much of the noise ceiling the meta-model reaches; None without one, or where lower is better."""
    by_method = report.scores[split][metric]
    ceiling, ours = by_method.get(NOISE_CEILING), by_method[META_MODEL]
    if ceiling is None or not (ceiling.applies and ours.applies) or metric in LOWER_IS_BETTER:
        return None
    return ours.value / ceiling.value if ceiling.value > 0 else None


def stands_outside(report: Report, split: str, metric: str) -> bool:
    """Whether this is the metric of a label that the split's averages do not count."""
    name, _, label = metric.partition("/")
    return name == "average_precision" and bool(label) and label not in report.counted.get(split, (label,))


def as_json(report: Report, scores: Scores) -> dict[str, Any]:
    """The one form of `metrics.json`; what does not apply is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": report.command,
        "zoo": report.zoo,
        "counted": {split: list(labels) for split, labels in report.counted.items()},
        "splits": {
            split: {
                metric: {method: plain_interval(interval) for method, interval in methods.items()}
                for metric, methods in metrics.items()
            }
            for split, metrics in scores.items()
        },
    }


def save(report: Report, folder: Path) -> None:
    """Writes `metrics.json` and `differences.json`."""
    for name, scores in ((METRICS, report.scores), (DIFFERENCES, report.differences)):
        (folder / name).write_text(json.dumps(as_json(report, scores), indent=1) + "\n")


def load(folder: Path) -> Report:
    """What `save` wrote.

    Raises: InputError if a file is missing or of another schema version.
    """
    metrics, differences = (_read(folder / name) for name in (METRICS, DIFFERENCES))
    return Report(
        command=metrics["command"],
        zoo=metrics["zoo"],
        scores=_intervals(metrics["splits"]),
        differences=_intervals(differences["splits"]),
        counted={split: tuple(labels) for split, labels in metrics.get("counted", {}).items()},
    )


def interval_line(score: Interval) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" if score.applies else "n/a"


def plain_interval(score: Interval) -> dict[str, float | int | None]:
    """As JSON: what does not apply is null."""
    values = {"value": score.value, "low": score.low, "high": score.high}
    found: dict[str, float | int | None] = {
        key: None if math.isnan(value) else round(value, 6) for key, value in values.items()
    }
    return found | {"n_lineages": score.n_lineages}


def interval_of(values: Mapping[str, Any]) -> Interval:
    """What `plain_interval` gave."""
    numbers = {key: math.nan if values[key] is None else values[key] for key in ("value", "low", "high")}
    return Interval(**numbers, n_lineages=values["n_lineages"])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            str(path), expected="a report", got="no file", do="Run `python -m metamodel.evaluate`."
        )
    found = json.loads(path.read_text())
    require(
        found.get("schema_version") == SCHEMA_VERSION,
        f"{path}: schema_version",
        expected=str(SCHEMA_VERSION),
        got=found.get("schema_version"),
        do="Evaluate again with this version.",
    )
    return found


def _intervals(splits: Mapping[str, Any]) -> Scores:
    return {
        split: {
            metric: {m: interval_of(v) for m, v in methods.items()} for metric, methods in metrics.items()
        }
        for split, metrics in splits.items()
    }
