"""The card of an editor: README.md beside its network, written from its report and configuration."""

import json
from pathlib import Path
from typing import Any

from metamodel.evaluation.card_tables import interval_words, summary
from metamodel.evaluation.report import META_MODEL, Report

METRICS = {
    "efficacy": "pairs that are answered as wanted",
    "generalisation": "inputs in scope that were not shown as pairs",
    "unseen": "inputs in scope of a template that no specification shows and no editor trains on; a part of "
    "generalisation",
    "locality_near": "inputs that the edit easily hits, and that were not shown, answered as before",
    "locality_far": "the same of all others",
    "two_hop": "answers that change because a fact on the way to them did",
    "kl": "KL divergence from the answers before on inputs that stay, in nats; lower is better",
    "harmonic_mean": "S: of efficacy, generalisation and both localities, as far as they apply",
    "normalised_gain": "S between no edit (0) and the oracle (1), where the oracle gains at least 0.2",
    "efficacy_at_drawdown": "inputs in scope answered as wanted (pairs and others), at the best factor of "
    "the change from 0.25 to 1.5 that costs at most 0.5 points of each locality",
    "harmonic_mean_after_ten": "S of ten rewrites in sequence, scored after the last; five of the opponents",
    "relative_norm": "of all that is added, relative to the weights it is added to; lower is better",
    "specification_gap": "S less S with wanted answers drawn at random, repairs left out",
    "subject_gap": "S less S of what is proposed for another subject that is asked the same questions, "
    "where there is one; repairs left out",
    "forecast_auroc": "the editor's forecast of S >= 0.9, infeasible edits included",
    "fine_tuning_steps_equivalent": "steps of tuned fine-tuning for the same mean S, 200 for more than "
    "100; no interval; infeasible edits included",
    "milliseconds": "of a proposal, one thread; lower is better",
}
"""What each metric is."""
METHODS = {
    "no_op": "changes nothing",
    "gradient_step": "one step, best rate and subset of matrices",
    "fine_tuning": "Adam, best number of steps up to 100, rate and subset; KL on inputs to keep",
    "fine_tuning_without_keeps": "the same on the pairs alone",
    "readout": "Adam on the unembedding",
    "ridge": "ridge regression at the last writing matrix, towards locally optimised outputs",
    "readout_ridge": "ridge regression at the unembedding",
    "rome": "ROME and MEMIT's closed form with the covariance of the examples",
    "null_space": "the same, projected onto the null space of what is to stay (after AlphaEdit)",
    "ultra_edit": "normalised ridge of inputs and output gradients, without training (after UltraEdit)",
    "profile_match": "the rule inferred from profiles of the answers' Gram matrix (Hungarian), the better of "
    "two Gram matrices; scope from the best kernel classifier; preconditioned steps",
    "self_label": "the same rule labels all inputs, then Adam",
    "fine_tuning_sums": "fine_tuning, also told what follows where answers are sums, as pairs and inputs to "
    "keep; in the families of kinds in which that helped it in tuning",
    "self_label_sums": "self_label, told the same",
    "mend": "MEND's editor across subjects of one width, trained on the same edits",
    "weights_only": "a network that sees no activations",
    "head_ablation": "the best single head removed",
    "co_ablation": "heads removed one after the other",
    "task_vector": "mean change of solved training edits of the same kind",
    "transported_task_vector": "the same, carried over by Procrustes on the examples",
    "nearest_case": "the change of the most similar solved edit, carried over",
    "oracle": "reference, no baseline: Adam on the whole edited function, whose truth it knows",
    "shuffled_specification": "reference, no baseline: the editor, told answers drawn at random",
    "other_subject": "reference, no baseline: the editor, shown another subject's activations; no change "
    "where no other is asked the same",
}
"""What stands beside the editor. All are tuned on the same edits of training subjects, with a setting for
each family of kinds: facts, rules, removal, repair, transplant."""
BY_KIND = (META_MODEL, "profile_match", "self_label", "fine_tuning", "ridge")
"""Methods of the table by kind of edit."""
SUMMARISED = ("harmonic_mean", "generalisation", "normalised_gain")
SPLITS = {
    "edit": "new edits of training subjects",
    "seed": "subjects of other seeds; rules that no training edit has",
    "size": "wider and deeper subjects, and a modulus never trained on",
    "task": "families of tasks never trained on",
    "kind": "kinds of rules never trained on (answers multiplied), on subjects of training and other seeds",
}


def write_editing_card(folder: Path, report: Report, *, name: str, config: dict[str, Any]) -> None:
    """Writes README.md. Every figure is the report's."""
    present = {name for by_metric in report.scores.values() for of in by_metric.values() for name in of}
    lines = [
        f"# {name}",
        "",
        "Proposes changes of weights of networks that it has never seen: `metamodel.load(folder)"
        ".propose(subject, spec)`, `python -m metamodel.edit`.",
        "",
        "```bash",
        report.command,
        "```",
        "",
        f"Zoo: `{report.zoo}`. Intervals: 95 %, bootstrapped over lineages. *win* or *lose* where the "
        "interval of the paired gap to the best opponent of that very split leaves out zero.",
        "",
        *(f"- **{split}**: {words}" for split, words in SPLITS.items() if split in report.scores),
        "",
    ]
    for metric in SUMMARISED:
        lines += [f"`{metric}`: {METRICS[metric]}", "", summary(report, metric, floor="no_op"), ""]
    rules = rules_table(report)
    if rules:
        lines += ["Generalisation of rules, by the number of pairs shown:", "", rules, ""]
    lines += ["Mean S by kind of edit, five of the methods:", "", kinds_table(report), ""]
    for split, by_metric in report.scores.items():
        lines += [f"## Split `{split}`", "", split_methods(by_metric), ""]
    lines += ["## Metrics", "", "Infeasible edits are left out where nothing else is said.", ""]
    lines += [*(f"- `{key}`: {words}" for key, words in METRICS.items()), ""]
    lines += ["## Methods", ""]
    lines += [f"- `{key}`: {words}" for key, words in METHODS.items() if key in present]
    lines += [
        "",
        "## Limits",
        "",
        "- Edits are written into the last matrix that writes into the residual stream, changes of a whole "
        "behavior into the last MLP, repairs into one component. What cannot be written there cannot be "
        "edited: answers of two hops through a rewritten fact stay as they are.",
        "- A damaged component is looked for among what heads and MLPs write by (`W_O`, `W_out`), one at a "
        "time, which is how the zoo damages its subjects. The less else speaks for damage (how sure the "
        "subject is of the pairs, sizes of heads), the surer a repair must leave it, so that noise is often "
        "passed over where few pairs are told; the proposal's notes name the component.",
        "- Inputs of one specification have one length, and candidates for answers are at most 32.",
        "- Trained on subjects of one and two layers with ReLU MLPs that answer one token.",
        "",
        "## Configuration",
        "",
        "```json",
        json.dumps(config, indent=1),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines))


def rules_table(report: Report) -> str:
    """A row for each split and number of pairs: the editor, and the two that infer rules without training."""
    shown = [META_MODEL, "profile_match", "self_label", "fine_tuning", "oracle"]
    lines = [f"| split | pairs | {' | '.join(shown)} |", f"|{' --- |' * (len(shown) + 2)}"]
    for split, by_metric in report.scores.items():
        for metric, of in by_metric.items():
            if metric.startswith("rule_generalisation/") and of[META_MODEL].applies:
                cells = [interval_words(of[name]) if name in of else "" for name in shown]
                lines.append(f"| {split} | {metric.split('/')[1]} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def kinds_table(report: Report) -> str:
    """A row for each split and kind of edit, its best bold; methods that are not there are left out."""
    present = next(iter(report.scores.values()))["harmonic_mean"]
    shown = [name for name in BY_KIND if name in present]
    lines = [f"| split | kind | {' | '.join(shown)} |", f"|{' --- |' * (len(shown) + 2)}"]
    for split, by_metric in report.scores.items():
        for metric, of in by_metric.items():
            if metric.startswith("harmonic_mean/"):
                values = [of[name].value for name in shown]
                cells = [f"**{v:.2f}**" if v == max(values) else f"{v:.2f}" for v in values]
                lines.append(f"| {split} | {metric.split('/')[1]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def split_methods(by_metric: Any) -> str:
    """A row a method, a column for each metric that all methods have."""
    shown = ("harmonic_mean", "efficacy", "generalisation", "locality_near", "locality_far", "kl")
    shown = (*shown, "normalised_gain", "efficacy_at_drawdown", "relative_norm", "milliseconds")
    lines = [f"| method | {' | '.join(shown)} |", f"|{' --- |' * (len(shown) + 1)}"]
    for name in by_metric["harmonic_mean"]:
        cells = [interval_words(by_metric[metric][name]) for metric in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    single = (
        "specification_gap",
        "subject_gap",
        "harmonic_mean_after_ten",
        "forecast_auroc",
        "fine_tuning_steps_equivalent",
    )
    words = [f"{key} {interval_words(by_metric[key][META_MODEL])}" for key in single if key in by_metric]
    return "\n".join([*lines, "", "; ".join(words)])
