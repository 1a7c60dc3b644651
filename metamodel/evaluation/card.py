"""The card of a checkpoint: README.md, written from metrics.json and the configuration, never by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metamodel.baselines.base import META_MODEL
from metamodel.config.words import Track
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.report import REFERENCES, Gap, Report, gap_to_best
from metamodel.features.examples import Truth
from metamodel.triples.schema import MASKED, POSITIVE, LabelDefinition

CARD = "README.md"
HEADLINES = (
    "average_precision",
    "within_subject_average_precision",
    "kendall_tau",
    "calibration_error",
    "behavior_accuracy",
    "slice_accuracy_error",
    "average_precision/circuit_node",
    "average_precision/circuit_edge",
)
"""Metrics of the first table; the second has the labels."""
SUMMARISED = ("average_precision", "behavior_accuracy")
"""Metrics of the tables with one row a split, which README repeats."""
METHODS = {
    "prior": "frequency of (family, variant) x depth x kind, backing off to depth and kind; told the task",
    "best_single_feature": "for each label the one feature that ranks training components best",
    "nearest": "nearest neighbours on the same node features",
    "logistic": "L2 logistic regression (ridge for scores, conditional logit for answers)",
    "boosted_trees": "gradient-boosted trees on the same features with their neighbourhood",
    "statistics": "seven statistics of each raw weight tensor, with boosted trees",
    "token_space": "closed forms in token and position space, calibrated only",
    "right_answer": "reference, no baseline: the task's exact rule instead of the subject",
}
"""What each opponent is. All are fitted on the same training subjects and tuned on the same validation."""
DEPARTURES = {
    "seed": "subjects of other seeds, same families, variants and sizes",
    "variant": "task variants never trained on",
    "size": "a size of subject never trained on",
    "task": "task families never trained on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card says besides numbers."""

    name: str
    """Name of the checkpoint, such as `function-small`."""
    track: Track
    labels: tuple[LabelDefinition, ...]
    config: Mapping[str, Any]
    """Resolved configuration of the run, as plain values."""
    counts: Mapping[str, "Counts"]
    """Of `train`, `validation` and every test split."""


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


def write_card(folder: Path, report: Report, facts: CardFacts, *, figure: str | None = None) -> None:
    """Writes the card beside the checkpoint's other files."""
    (folder / CARD).write_text(card(report, facts, figure=figure))


def card(report: Report, facts: CardFacts, *, figure: str | None = None) -> str:
    """Markdown. Every number of its tables stands in metrics.json or differences.json."""
    splits = list(report.scores)
    determined = [d.name for d in facts.labels if facts.track in d.determined_by]
    parts = [
        f"# {facts.name}",
        "A meta-model that reads transformers: for every attention head and MLP it says which functions it "
        "performs and how strongly, for every component and pair whether it is in the circuit, and for the "
        f"whole what it answers. It sees the track `{facts.track}` of a subject and no labels.",
        f"Trained on {facts.counts['train'].n_subjects} subjects, tuned on "
        f"{facts.counts['validation'].n_subjects}, of the zoo `{report.zoo}`. "
        "Scored on subjects of other lineages: "
        + "; ".join(f"**{s}**: {DEPARTURES.get(s, 'held out')}" for s in splits)
        + ".",
        "## Results",
        "Value with its 95 % interval, bootstrapped over lineages. *Gap* is meta-model minus the best "
        "baseline of that row on that split, paired on the same resamples; *win* or *lose* where its "
        "interval leaves out zero. Lower is better for `calibration_error` and `slice_accuracy_error` only.",
    ]
    if figure is not None:
        parts.append(f"![Average precision by label, and reliability]({figure})")
    parts += [f"`{metric}`\n\n{summary(report, metric)}" for metric in SUMMARISED]
    for split in splits:
        parts += [f"### {split}", _table(report, split, [m for m in HEADLINES if m in report.scores[split]])]
    parts.append("## Function labels")
    parts += [f"- `{label.name}`: {label.description}" for label in facts.labels]
    parts += [
        "Positive components of those for which the label is defined. A label without positives in training "
        "cannot be learned, one without positives in a test is n/a there:",
        _counts_table(facts),
    ]
    if determined:
        names = ", ".join(f"`{name}`" for name in determined)
        parts.append(f"Determined by the inputs of this track, so outside the macro average: {names}.")
    for split in splits:
        of_label = [f"average_precision/{label.name}" for label in facts.labels]
        parts += [f"### Average precision by label, {split}", _table(report, split, of_label)]
    parts += ["## Methods", *(f"- `{name}`: {words}." for name, words in _methods(report))]
    parts += [*_use(facts), *_reproduce(report, facts)]
    return "\n\n".join(_joined_lists(parts)) + "\n"


def summary(report: Report, metric: str) -> str:
    """One row a split: the meta-model, the prior, and the baseline that is best on that very split."""
    lines = [_row(["split", "lineages", "meta-model", "prior", "best baseline", "gap"]), _row(["---"] * 6)]
    for split, metrics in report.scores.items():
        scores, gap = metrics[metric], gap_to_best(report, split, metric)
        best = "n/a" if gap is None else f"{gap.baseline}: {interval_words(scores[gap.baseline])}"
        ours = interval_words(scores[META_MODEL], bold=True)
        n = scores[META_MODEL].n_lineages
        lines.append(
            _row([split, str(n), ours, interval_words(scores["prior"]), best, gap_words(gap, named=False)])
        )
    return "\n".join(lines)


def _table(report: Report, split: str, metrics: Sequence[str]) -> str:
    methods = [m for m in next(iter(report.scores[split].values())) if m not in REFERENCES]
    header = ["metric", *(m.replace("_", " ") for m in methods), "gap to the best baseline"]
    lines = [_row(header), _row(["---"] * len(header))]
    for metric in metrics:
        scores = report.scores[split][metric]
        gap = gap_to_best(report, split, metric)
        cells = [interval_words(scores[m], bold=m == META_MODEL) for m in methods]
        lines.append(_row([f"`{metric}`", *cells, gap_words(gap)]))
    for metric in metrics:
        for reference in sorted(REFERENCES & report.scores[split][metric].keys()):
            words = interval_words(report.scores[split][metric][reference])
            lines += ["", f"Reference `{reference}` for `{metric}`: {words}."]
    return "\n".join(lines)


def _counts_table(facts: CardFacts) -> str:
    lines = [_row(["label", *facts.counts]), _row(["---"] * (1 + len(facts.counts)))]
    for i, label in enumerate(facts.labels):
        cells = [f"{of.positive[i]} of {of.asked[i]}" for of in facts.counts.values()]
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


def _methods(report: Report) -> list[tuple[str, str]]:
    present = {m for metrics in report.scores.values() for by_method in metrics.values() for m in by_method}
    return [(name, METHODS.get(name, "an opponent")) for name in METHODS if name in present]


def _use(facts: CardFacts) -> list[str]:
    return [
        "## Intended use",
        "Research on mechanistic interpretability and weight-space learning: a first reading of small "
        "transformers of the kinds that it was trained on, to be checked by intervention. Probabilities are "
        "those of this zoo.",
        "## Limits",
        "- Subjects far from the zoo (deep, pretrained on text, post-norm) are outside its training "
        "distribution; nothing here measures it there.",
        "- Labels are measured scores with a null and a causal twin, not ground truth; components whose "
        "pattern lacks its twin count as negative.",
        "- Where a row says *lose* or *even*, use the simpler baseline.",
        "- Rows with n/a have no positive component on that split.",
    ]


def _reproduce(report: Report, facts: CardFacts) -> list[str]:
    config = json.dumps(facts.config, indent=1, default=str)
    return [
        "## Reproduce",
        f"```bash\n{report.command}\npython -m metamodel.evaluate checkpoints/{facts.name}\n```",
        "## Load",
        '```python\nimport metamodel\n\nreader = metamodel.load("checkpoints/'
        + facts.name
        + '")\nreader.read(subject).to_pandas()\n```',
        f"<details><summary>Configuration</summary>\n\n```json\n{config}\n```\n\n</details>",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined_lists(parts: Sequence[str]) -> list[str]:
    """Neighbouring list items in one paragraph."""
    found: list[str] = []
    for part in parts:
        if found and part.startswith("- ") and found[-1].startswith("- "):
            found[-1] += f"\n{part}"
        else:
            found.append(part)
    return found
