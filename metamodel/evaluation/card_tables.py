"""The tables of a card: every number in them stands in metrics.json, differences.json or controls.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from metamodel.baselines.base import META_MODEL
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.controls import Controls
from metamodel.evaluation.measures import PRECISION
from metamodel.evaluation.report import (
    MARK,
    NOISE_CEILING,
    REFERENCES,
    RIGHT_ANSWER,
    SHUFFLED_LABELS,
    Gap,
    Report,
    gap_to_best,
    share_of_ceiling,
    stands_outside,
)
from metamodel.features.examples import Truth
from metamodel.triples.schema import MASKED, POSITIVE, LabelDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much one split holds: what its numbers rest on."""

    n_subjects: int
    positive: tuple[int, ...]
    """Components that are positive, label by label."""
    asked: tuple[int, ...]
    """Components for which the label is defined."""


def counts(truths: Sequence[Truth]) -> Counts:
    """Counts of the subjects of one split."""
    state = torch.cat([truth.function_state for truth in truths])
    return Counts(
        n_subjects=len(truths),
        positive=tuple((state == POSITIVE).sum(0).tolist()),
        asked=tuple((state != MASKED).sum(0).tolist()),
    )


def summary(report: Report, metric: str, *, floor: str = "prior") -> str:
    """One row a split: the meta-model, the least of methods, and the one that is best on that very split."""
    lines = _head(["split", "lineages", "meta-model", floor, "best baseline", "gap"])
    for split, metrics in report.scores.items():
        scores, gap = metrics[metric], gap_to_best(report, split, metric)
        best = "n/a" if gap is None else f"{gap.baseline}: {interval_words(scores[gap.baseline])}"
        ours = interval_words(scores[META_MODEL], bold=True)
        n = scores[META_MODEL].n_lineages
        lines.append(
            _row([split, str(n), ours, interval_words(scores[floor]), best, gap_words(gap, named=False)])
        )
    return "\n".join(lines)


def ceiling_table(report: Report) -> str:
    """The meta-model's share of the noise ceiling, metric by metric and split by split; empty without one."""
    splits = list(report.scores)
    lines = _head(["metric", *splits])
    for metric in report.scores[splits[0]] if splits else ():
        shares = [share_of_ceiling(report, split, metric) for split in splits]
        if metric.startswith(PRECISION) or all(share is None for share in shares):
            continue
        cells = []
        for split, share in zip(splits, shares, strict=True):
            cells.append("n/a" if share is None else f"{share:.0%} of {_value(report, split, metric)}")
        lines.append(_row([f"`{metric}`", *cells]))
    return "\n".join(lines) if len(lines) > 2 else ""


def _value(report: Report, split: str, metric: str) -> str:
    return f"{report.scores[split][metric][NOISE_CEILING].value:.3f}"


def split_table(report: Report, split: str, metrics: Sequence[str]) -> str:
    """Every method, the gap to the best baseline, and the references that say anything of these metrics."""
    scores = report.scores[split]
    first = next(iter(scores.values()))
    methods = [name for name in first if name not in REFERENCES]
    columns = [r for r in (NOISE_CEILING, SHUFFLED_LABELS) if any(r in scores[metric] for metric in metrics)]
    names = [name.replace("_", " ") for name in (*methods, *columns)]
    lines = _head(["metric", *names[: len(methods)], "gap to the best baseline", *names[len(methods) :]])
    for metric in metrics:
        by_method = scores[metric]
        cells = [interval_words(by_method[m], bold=m == META_MODEL) for m in methods]
        references = [interval_words(by_method[r]) if r in by_method else "" for r in columns]
        mark = f" {MARK}" if stands_outside(report, split, metric) else ""
        gap = gap_words(gap_to_best(report, split, metric))
        lines.append(_row([f"`{metric}`{mark}", *cells, gap, *references]))
    for metric in metrics:
        if RIGHT_ANSWER in scores[metric]:
            words = interval_words(scores[metric][RIGHT_ANSWER])
            lines += ["", f"Reference `{RIGHT_ANSWER}` for `{metric}`: {words}."]
    return "\n".join(lines)


def shuffled_table(report: Report) -> str:
    """Average precision against the labels, and against labels shuffled inside each subject."""
    lines = _head(["split", "meta-model", "the same answers against shuffled labels"])
    for split, metrics in report.scores.items():
        found = metrics["average_precision"]
        cells = [interval_words(found[name]) for name in (META_MODEL, SHUFFLED_LABELS) if name in found]
        lines.append(_row([split, *cells, *[""] * (2 - len(cells))]))
    return "\n".join(lines)


def controls_table(found: Controls) -> str:
    """What the meta-model claims of test subjects, and of untrained copies of them."""
    lines = _head(["subjects", "highest probability of a function", "components with a function above 1/2"])
    for name, claims in (("as they are", found.trained), ("untrained copies", found.untrained)):
        cells = [interval_words(claims.highest_probability), interval_words(claims.share_positive)]
        lines.append(_row([name, *cells]))
    return "\n".join(lines)


def counts_table(labels: Sequence[LabelDefinition], of_split: Mapping[str, Counts]) -> str:
    """Positive components of those that are asked, label by label and split by split."""
    lines = _head(["label", *of_split])
    for i, label in enumerate(labels):
        cells = [f"{of.positive[i]} of {of.asked[i]}" for of in of_split.values()]
        lines.append(_row([label.name, *cells]))
    return "\n".join(lines)


def interval_words(score: Interval, *, bold: bool = False) -> str:
    if not score.applies:
        return "n/a"
    value = f"**{score.value:.3f}**" if bold else f"{score.value:.3f}"
    return f"{value} [{score.low:.3f}, {score.high:.3f}]"


def gap_words(gap: Gap | None, *, named: bool = True) -> str:
    if gap is None:
        return "n/a"
    d, to = gap.difference, f" to {gap.baseline.replace('_', ' ')}" if named else ""
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]{to}: {gap.verdict}"


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
