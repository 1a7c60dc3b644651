"""The card of a matcher: README.md beside its network, written from its report and configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metamodel.evaluation.card_tables import interval_words, summary
from metamodel.evaluation.matching.levels import AXES, Level, levels_table
from metamodel.evaluation.report import META_MODEL, Report

METRICS = {
    "partial_f1": "F1 of matched pairs of components where parts are missing on either side (`planted`, "
    "`partial`); interchangeable components count as one another",
    "partial_f1/<kind>": "the same for each kind of pair",
    "dustbin_average_precision": "confidence that a component has no counterpart, components of both",
    "partial_f1/both_subjects": "over pairs of two stored subjects of known correspondence (`program`, and "
    "relatives): there opponents that must run both subjects take part",
    "partial_f1/same_shape": "over those of them whose shapes agree, for re-basin",
    "label_agreement": "of circuits of the same task in other seeds: how much likelier matched components "
    "share a function than others of their kind and depth do; 1 always, 0 chance",
    "absent_auroc": "telling pairs whose circuit is there from others of as many edges and as much mass",
    "transplant": "of pairs of one task: interchange of matched components across subjects, 0 for others of "
    "their kind and depth, 1 for the subject's own",
    "label_agreement/same_shape, transplant/same_shape": "the same, of subjects of one shape, for re-basin",
    "breakdown_error": "median difference of the number of pairs from the true one; lower is better",
}
"""What each metric is."""
METHODS = {
    "classical": "partial Frank-Wolfe on the edge-gain energy, directed and channel by channel",
    "random": "any map of one kind onto itself",
    "uniform": "no preference: what kinds alone say",
    "depth_and_kind": "nearest depth of the same kind",
    "local_statistics": "edge mass in and out, by channel",
    "raw_similarity": "features of nodes as they are, by the Hungarian algorithm",
    "prompt_only": "those features that are computed from prompts",
    "activation_correlation": "correlation, over the same inputs, of how much components write; for pairs "
    "whose two subjects are at hand, blank elsewhere",
    "raw_activations": "linear CKA of what components write on the same inputs; for the same pairs",
    "weight_matching": "permutations of weights (re-basin), for those of them whose shapes agree",
    "faq": "scipy's FAQ, channels added up",
    "faq_channels": "FAQ channel by channel",
    "sm": "pygmtools SM",
    "rrwm": "pygmtools RRWM",
    "ipfp": "pygmtools IPFP",
    "ngm": "pygmtools NGM, trained on the same pairs",
    "fgw": "POT: fused Gromov-Wasserstein",
    "partial_fgw": "POT: the same, of a part of the mass",
    "unbalanced_fgw": "POT: the same with marginals that may give way",
    "structure_mapping": "growth of maps from local hypotheses (after SME)",
    "constant_guess": "of the breakdown point: the median of training pairs",
    "size_prior": "of the breakdown point: linear in the numbers of components",
}
"""What stands beside the matcher. All are tuned on the same validation pairs, and may use raw features or the
similarity that the matcher learned."""
NEED_SUBJECTS = ("activation_correlation", "raw_activations", "weight_matching")
OF_PAIRS = ("partial_f1/both_subjects", "label_agreement", "transplant")
BY_SHAPE = ("partial_f1/same_shape", "label_agreement/same_shape", "transplant/same_shape")
SUMMARISED = ("partial_f1", "dustbin_average_precision", "absent_auroc")
SPLITS = {
    "seed": "subjects of other seeds",
    "size": "subjects of sizes never trained on",
    "task": "families of tasks never trained on",
}


def write_matching_card(
    folder: Path, report: Report, levels: Sequence[Level], *, name: str, config: dict[str, Any]
) -> None:
    """Writes README.md. Every figure is the report's."""
    present = {name for by_metric in report.scores.values() for of in by_metric.values() for name in of}
    floor = "random" if "random" in present else META_MODEL
    lines = [
        f"# {name}",
        "",
        "Maps the circuit of one network onto that of another: `metamodel.load(folder).match(a, b)`, "
        "`python -m metamodel.match`.",
        "",
        "```bash",
        report.command,
        "```",
        "",
        f"Zoo of pairs: `{report.zoo}`. Intervals: 95 %, bootstrapped over the lineages of both circuits. "
        "*win* or *lose* where the interval of the paired gap to the best opponent of that very split leaves "
        "out zero.",
        "",
        *(f"- **{split}**: {words}" for split, words in SPLITS.items() if split in report.scores),
        "",
    ]
    for metric in SUMMARISED:
        if all(metric in by_metric for by_metric in report.scores.values()):
            lines += [f"`{metric}`: {METRICS[metric]}", "", summary(report, metric, floor=floor), ""]
    lines += ["`partial_f1` by kind of pair, the best bold:", "", kinds_table(report), ""]
    lines += _of_subjects(report)
    if levels:
        lines += [
            "## Level by level",
            "",
            "`partial_f1` of all splits together; `levels.json` has every method.",
        ]
        for axes in (AXES, *((axis,) for axis in AXES)):
            lines += ["", levels_table(levels, axes)]
        lines += [""]
    for split, by_metric in report.scores.items():
        lines += [f"## Split `{split}`", "", methods_table(by_metric), ""]
    lines += ["## Metrics", "", *(f"- `{key}`: {words}" for key, words in METRICS.items()), ""]
    lines += ["## Methods", "", *(f"- `{key}`: {words}" for key, words in METHODS.items() if key in present)]
    lines += [
        "",
        "## Limits",
        "",
        "- Circuits are those that single edges show: components that back each other up have no edges.",
        "- Maps are one to one: one component that does the work of two is matched to one of them.",
        "- Trained on circuits of one to four layers; natural pairs have no known truth and are judged by "
        "what components do.",
        "",
        "## Configuration",
        "",
        "```json",
        json.dumps(config, indent=1),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines))


def kinds_table(report: Report) -> str:
    """A row for each split and kind of pair: the matcher, the classical solver, the best of the others."""
    lines = ["| split | kind | meta-model | classical | best opponent |", f"|{' --- |' * 5}"]
    for split, by_metric in report.scores.items():
        for metric, of in by_metric.items():
            if not metric.startswith("partial_f1/"):
                continue
            others = {name: one.value for name, one in of.items() if name not in (META_MODEL, "classical")}
            best = max(others, key=lambda name: others[name]) if others else ""
            shown = [META_MODEL, "classical", best]
            top = max(of[name].value for name in shown if name in of)
            cells = []
            for name in shown:
                words = interval_words(of[name], bold=of[name].value == top) if name in of else ""
                cells.append(f"{name}: {words}" if name == best and best else words)
            lines.append(f"| {split} | {metric.split('/')[1]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _of_subjects(report: Report) -> list[str]:
    """Tables of the metrics in which opponents take part that need both subjects; nothing without any."""
    lines = []
    for split, by_metric in report.scores.items():
        metrics = [metric for metric in (*OF_PAIRS, *BY_SHAPE) if metric in by_metric]
        if any(name in by_metric[metric] for metric in metrics for name in NEED_SUBJECTS):
            lines += [f"Split `{split}`:", "", table_of(by_metric, metrics), ""]
    if not lines:
        return []
    words = (
        "Opponents that run both subjects are scored on pairs of two stored subjects alone, blank elsewhere."
    )
    return ["## Where both subjects are at hand", "", words, "", *lines]


def methods_table(by_metric: Any) -> str:
    """A row a method, a column for each metric that is not of one kind of pair."""
    return table_of(by_metric, [metric for metric in by_metric if "/" not in metric])


def table_of(by_metric: Any, shown: Sequence[str]) -> str:
    """The same of these metrics."""
    names = list(dict.fromkeys(name for metric in shown for name in by_metric[metric]))
    lines = [f"| method | {' | '.join(shown)} |", f"|{' --- |' * (len(shown) + 1)}"]
    for name in names:
        cells = [interval_words(by_metric[m][name]) if name in by_metric[m] else "" for m in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
