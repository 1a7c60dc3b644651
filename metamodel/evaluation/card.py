"""The card of a checkpoint: README.md, written from metrics.json and the configuration, never by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.config.words import Track
from metamodel.evaluation.card_tables import (
    Counts,
    ceiling_table,
    controls_table,
    counts_table,
    shuffled_table,
    split_table,
    summary,
)
from metamodel.evaluation.controls import N_SHUFFLES, Controls
from metamodel.evaluation.items import LEAST_LINEAGES, LEAST_POSITIVES
from metamodel.evaluation.report import LOWER_IS_BETTER, MARK, Report
from metamodel.triples.schema import LabelDefinition

CARD = "README.md"
HEADLINES = (
    "average_precision",
    "within_subject_average_precision",
    "kendall_tau",
    "calibration_error",
    "abstention_area",
    "circuit_average_precision",
    "circuit_average_precision/node",
    "circuit_average_precision/edge",
    "shared_average_precision",
    "algorithm_top1",
    "behavior_accuracy",
    "slice_accuracy_error",
)
"""Metrics of the first table; the second has the labels."""
SUMMARISED = ("average_precision", "behavior_accuracy")
"""Metrics of the tables with one row a split, which README repeats."""
METRICS = {
    "average_precision": f"of each function label, mean over labels with at least {LEAST_POSITIVES} positive "
    f"components from {LEAST_LINEAGES} lineages in that split",
    "within_subject_average_precision": "the same among the components of one subject",
    "kendall_tau": "order of the measured scores, mean over the same labels",
    "calibration_error": "of all probabilities of functions",
    "abstention_area": "mean error rate if only the surest 10, 20 … 100 % of these answers are given",
    "circuit_average_precision": "mean of that of components and that of pairs of them",
    "shared_average_precision": "components in the circuits of both of two behaviors of one subject",
    "algorithm_top1": "the program that a subject runs, where its circuit is known; programs that fewer than "
    "two training subjects run are to be called none of these",
    "behavior_accuracy": "the subject's own answers, right or wrong, on unseen prompts",
    "slice_accuracy_error": "absolute error of the accuracy on each slice of prompts",
}
"""What each metric is."""
METHODS = {
    "meta-model/weights": "the same reader trained on the track `weights`: nothing is run",
    "meta-model/activations": "the same reader trained on the track `activations`: it sees no weights",
    "prior": "frequency of (family, variant) x depth x kind, backing off to depth and kind; told the task, "
    "but for algorithms the shape alone",
    "best_single_feature": "for each label the one feature that ranks training components best",
    "nearest": "nearest neighbours on the same node features",
    "logistic": "L2 logistic regression (ridge for scores, conditional logit for answers)",
    "boosted_trees": "gradient-boosted trees on the same features with their neighbourhood",
    "statistics": "seven statistics of each raw weight tensor, with boosted trees",
    "token_space": "closed forms in token and position space, calibrated only",
    "transformer_nfn": "network on raw weights: learned invariants of each head's QK and OV products and of "
    "MLPs, in residual coordinates as they are stored (after Tran et al. 2024)",
    "neuron_graph": "network on raw weights: messages between single neurons along single weights (after "
    "Kofinas et al. 2024)",
    "probegen": "network on what components write when learned inputs are run through the subject (after "
    "Kahana et al. 2024); not beside readers of weights alone",
    "detect_head": "TransformerLens's detect_head on repeated random tokens, calibrated only, for "
    "`previous_token`, `duplicate_token`, `induction`; it sees attention patterns, from which these "
    "labels are computed and which no reader may see",
    "right_answer": "reference, no baseline: the task's exact rule instead of the subject",
    "noise_ceiling": "reference, no baseline: labels of the same subject measured on other prompts and "
    "against other untrained copies",
    "shuffled_labels": "reference, no baseline: the meta-model's answers held against labels shuffled among "
    f"a subject's components of a kind, mean of {N_SHUFFLES} shuffles",
}
"""What each opponent is. All are fitted on the same training subjects and tuned on the same validation."""
DEPARTURES = {
    "seed": "subjects of other seeds, same families, variants and sizes",
    "variant": "task variants never trained on",
    "size": "a size of subject never trained on",
    "recipe": "a training recipe never trained on, of families and sizes that were",
    "origin": "subjects that came to be in a way never trained on, by recipes of their own",
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
    counts: Mapping[str, Counts]
    """Of `train`, `validation` and every test split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Names of picture files beside the card; None where there is none."""

    results: str | None = None
    curves: str | None = None


def write_card(
    folder: Path,
    report: Report,
    facts: CardFacts,
    *,
    pictures: Pictures | None = None,
    controls: Controls | None = None,
) -> None:
    """Writes the card beside the checkpoint's other files."""
    (folder / CARD).write_text(card(report, facts, pictures=pictures, controls=controls))


def card(
    report: Report,
    facts: CardFacts,
    *,
    pictures: Pictures | None = None,
    controls: Controls | None = None,
) -> str:
    """Markdown. Every number of its tables stands in metrics.json, differences.json or controls.json."""
    splits = list(report.scores)
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
        *_results(report, facts, pictures or Pictures()),
    ]
    for split in splits:
        parts += [
            f"### {split}",
            split_table(report, split, [m for m in HEADLINES if m in report.scores[split]]),
        ]
    parts += [*_labels(report, facts), *_controls(report, controls)]
    parts += ["## Metrics", *(f"- `{name}`: {words}." for name, words in METRICS.items())]
    parts += ["## Methods", *(f"- `{name}`: {words}." for name, words in _methods(report))]
    parts += [*_use(report), *_reproduce(report, facts)]
    return "\n\n".join(_joined_lists(parts)) + "\n"


def _results(report: Report, facts: CardFacts, pictures: Pictures) -> list[str]:
    lower = ", ".join(f"`{metric}`" for metric in sorted(LOWER_IS_BETTER))
    parts = [
        "## Results",
        "Value with its 95 % interval, bootstrapped over lineages. *Gap* is meta-model minus the best "
        "baseline of that row on that split, paired on the same resamples; *win* or *lose* where its "
        f"interval leaves out zero. Lower is better for {lower} only.",
    ]
    if pictures.results is not None:
        parts.append(
            f"![Average precision by label, reliability, error against coverage]({pictures.results})"
        )
    parts += [f"`{metric}`\n\n{summary(report, metric)}" for metric in SUMMARISED]
    parts.append("### Share of the noise ceiling")
    if shares := ceiling_table(report):
        words = (
            "What the meta-model reaches of what other measurements of the same subjects reach. They are "
            "few, so a reader that has learnt from many subjects may exceed them. Behavior and algorithms "
            "are not measured again."
        )
        parts += [words, shares]
    else:
        zoo = facts.config.get("zoo", "ZOO")
        parts.append(
            "Not known: this zoo has no second measurement of its labels. "
            f"`python -m data_gen.remeasured {zoo}` makes it for a zoo whose subjects were made here; "
            "evaluate again then."
        )
    if pictures.curves is not None:
        parts.append(f"![Loss over the epochs of training]({pictures.curves})")
    return parts


def _labels(report: Report, facts: CardFacts) -> list[str]:
    parts = ["## Function labels", *(f"- `{label.name}`: {label.description}" for label in facts.labels)]
    parts += [
        "Positive components of those for which the label is defined. A label without positives in training "
        "cannot be learned, one without positives in a test is n/a there:",
        counts_table(facts.labels, facts.counts),
    ]
    determined = ", ".join(f"`{d.name}`" for d in facts.labels if facts.track in d.determined_by)
    if determined:
        parts.append(f"Determined by the inputs of this track, so outside the macro average: {determined}.")
    if report.counted:
        parts.append(
            f"{MARK} marks labels that a split's averages do not count: fewer than {LEAST_POSITIVES} "
            f"positive components or {LEAST_LINEAGES} lineages of them there"
            + (", or determined by the inputs." if determined else ".")
        )
    for split in report.scores:
        of_label = [f"average_precision/{label.name}" for label in facts.labels]
        parts += [f"### Average precision by label, {split}", split_table(report, split, of_label)]
    return parts


def _controls(report: Report, controls: Controls | None) -> list[str]:
    parts = [
        "## Controls",
        "Labels shuffled inside each subject among components of a kind: what is left is owed to knowing "
        "the subject and the kind, not the component.",
        shuffled_table(report),
    ]
    if controls is not None:
        parts += [
            f"{controls.n_subjects} test subjects, and a re-initialised copy of each, which performs next to "
            "no function: labels ask for more than such copies show.",
            controls_table(controls),
        ]
    return parts


def _methods(report: Report) -> list[tuple[str, str]]:
    present = {m for metrics in report.scores.values() for by_method in metrics.values() for m in by_method}
    return [(name, words) for name, words in METHODS.items() if name in present]


def _use(report: Report) -> list[str]:
    lineages = {
        split: max(score.n_lineages for by_method in metrics.values() for score in by_method.values())
        for split, metrics in report.scores.items()
    }
    return [
        "## Intended use",
        "Research on mechanistic interpretability and weight-space learning: a first reading of small "
        "transformers of the kinds that it was trained on, to be checked by intervention. Probabilities are "
        "those of this zoo.",
        "## Limits",
        "- Subjects far from the zoo (deep, pretrained on text, post-norm) are outside its training "
        "distribution; nothing here measures it there.",
        "- Labels are measured scores with a null and a causal twin, not ground truth; components whose "
        "pattern lacks its twin count as negative. The noise ceiling is itself an estimate, from as many "
        "measurements as the zoo holds; a high share of a low ceiling is no good reader.",
        "- Intervals rest on few lineages ("
        + ", ".join(f"{split} {n}" for split, n in lineages.items())
        + f"), and fewer where a label is rare: {MARK} rows are for looking at, not for concluding. Of the "
        "many rows some win or lose by chance; nothing corrects for that.",
        "- The best baseline of a row is chosen after the fact, which favours it.",
        "- Algorithms are known of subjects that were made to run them, and of no trained one; "
        "behaviors are shared by the few subjects that learnt several tasks.",
        "- Where a row says *lose* or *even*, use the simpler baseline.",
        "- Rows with n/a have nothing to score on that split: no positive component, or no label or subject "
        "that counts.",
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


def _joined_lists(parts: Sequence[str]) -> list[str]:
    """Neighbouring list items in one paragraph."""
    found: list[str] = []
    for part in parts:
        if found and part.startswith("- ") and found[-1].startswith("- "):
            found[-1] += f"\n{part}"
        else:
            found.append(part)
    return found
