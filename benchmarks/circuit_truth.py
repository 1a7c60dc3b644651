"""Which circuit method recovers circuits that are known: all against both truths, by origin and size.

    python benchmarks/circuit_truth.py data/medium

For each subject of a zoo whose circuit is known (at most `--per-task` of a program and origin), the prompts
on which its triple was harvested, and |score| of each method: AUROC and average precision against the
structural truth and against the part of it that counterfactual patching can see. Means over subjects, with
95 % intervals bootstrapped over lineages, and the paired gaps to exact patching. The last line of stdout is
one JSON object.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ranking import TRUTHS, agreement
from sklearn.metrics import roc_auc_score

from data_gen.config import HarvestConfig
from data_gen.harvesting import circuit_prompts
from data_gen.subject_task import task_of
from metamodel.circuits.acdc import ACDC
from metamodel.circuits.attribution import EAP, EAPIG
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.baselines import RandomScores, WeightNorm
from metamodel.circuits.exact import Exact
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import Metric
from metamodel.circuits.scores import EdgeMethod
from metamodel.circuits.subsets import RandomSubsets
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.triples import Triple, Zoo

METHODS: Mapping[str, tuple[EdgeMethod, Metric, Intervention]] = {
    "exact": (Exact(), "margin", "noising"),
    "exact_logit_difference": (Exact(), "logit_difference", "noising"),
    "exact_denoising": (Exact(), "margin", "denoising"),
    "exact_mean": (Exact(), "margin", "mean"),
    "exact_zero": (Exact(), "margin", "zero"),
    "eap": (EAP(), "margin", "noising"),
    "eap_ig_inputs": (EAPIG(), "margin", "noising"),
    "eap_ig_inputs_80": (EAPIG(steps=80), "margin", "noising"),
    "eap_ig_inputs_logit_difference": (EAPIG(), "logit_difference", "noising"),
    "eap_ig_inputs_80_logit_difference": (EAPIG(steps=80), "logit_difference", "noising"),
    "eap_ig_activations": (EAPIG(over="activations"), "margin", "noising"),
    "acdc": (ACDC(thresholds=tuple(10.0 ** (i / 2) for i in range(-6, 3))), "margin", "noising"),
    "subsets": (RandomSubsets(), "margin", "noising"),
    "weight_norm": (WeightNorm(), "margin", "noising"),
    "random": (RandomScores(), "margin", "noising"),
}
REFERENCE = "exact"
CHANNELS = ("q", "k", "v", "in", "logits")
N_ACDC_PROMPTS = 12
"""Prompts for the greedy sweep, which runs a circuit for each edge, one after the other."""
N_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How well one method ranks the edges of one subject."""

    subject: str
    lineage: str
    origin: str
    size: str
    method: str
    truth: str
    auroc: float
    average_precision: float
    by_channel: Mapping[str, float]
    """AUROC among the edges into one kind of input."""
    seconds: float
    last: str
    """The true edge that the method ranks lowest."""
    last_size: float
    """|score| of that edge."""
    exact_size: float
    """What patching it alone does to the margin."""


def rows_of(triple: Triple, zoo_seed: int, config: HarvestConfig, methods: Iterable[str]) -> list[Row]:
    """One row a method and truth; none for a truth that holds all edges or none."""
    info, truth = triple.info, triple.truth
    assert truth is not None
    prompts = circuit_prompts(task_of(info, zoo_seed), info.id, config, zoo_seed)
    edges = component_edges(triple.subject.config).edges
    channels = [edge.destination.channel for edge in edges]
    exact = Exact().score(triple.subject, prompts).size
    rows = []
    for name in methods:
        method, metric, intervention = METHODS[name]
        few = prompts.where(torch.arange(min(N_ACDC_PROMPTS, len(prompts)))) if name == "acdc" else prompts
        start = time.perf_counter()
        value = method.score(triple.subject, few, metric, intervention).value
        seconds = time.perf_counter() - start
        for kind in TRUTHS:
            known = getattr(truth, kind)
            found = agreement(known, value)
            if found:
                by_channel = {}
                for channel in CHANNELS:
                    among = torch.tensor([c == channel for c in channels])
                    positive = known[among]
                    if positive.any() and not positive.all():
                        score = value[among].abs()
                        by_channel[channel] = float(roc_auc_score(positive.numpy(), score.numpy()))
                last = int(torch.where(known, value.abs(), torch.inf).argmin())
                rows.append(
                    Row(
                        subject=info.id,
                        last=edges[last].name,
                        last_size=float(value[last].abs()),
                        lineage=info.lineage,
                        origin=info.origin,
                        size=info.size,
                        method=name,
                        truth=kind,
                        by_channel=by_channel,
                        seconds=seconds,
                        exact_size=float(exact[last]),
                        **found,
                    )
                )
    return rows


def chosen(zoo: Zoo, per_task: int) -> list[str]:
    """Ids of subjects with a known circuit: the first ones of each program, origin and size."""
    taken: dict[tuple[str, str, str], int] = {}
    found = []
    for id in zoo.ids:
        info = zoo.info(id)
        if info.origin in ("compiled", "siit", "planted"):
            # Random programs are tasks of their own; all of them together count as one program would.
            family = "rasp-random" if info.family.startswith("rasp-random") else info.family
            key = (family, info.origin, info.size)
            taken[key] = taken.get(key, 0) + 1
            if taken[key] <= per_task * (6 if family == "rasp-random" else 1):
                found.append(id)
    return found


def interval(values: Mapping[str, list[float]], seed: int = 0) -> dict[str, float]:
    """Mean over subjects, and the 95 % interval over resampled lineages."""
    groups = [np.array(group) for group in values.values()]
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = np.random.default_rng(seed).integers(len(groups), size=(N_RESAMPLES, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "value": round(float(sums.sum() / counts.sum()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": int(counts.sum()),
        "n_lineages": len(groups),
    }


def by_lineage(rows: Iterable[Row], metric: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.lineage, []).append(getattr(row, metric))
    return found


def table(rows: list[Row], metric: str) -> dict[str, dict[str, dict[str, float]]]:
    """{method: {truth: interval}}."""
    return {
        method: {
            truth: interval(by_lineage(found, metric))
            for truth in TRUTHS
            if (found := [row for row in rows if (row.method, row.truth) == (method, truth)])
        }
        for method in dict.fromkeys(row.method for row in rows)
    }


def gaps(rows: list[Row], metric: str, baseline: str = REFERENCE) -> dict[str, dict[str, dict[str, float]]]:
    """Each method minus one of them, exact noising, on the same subject: {method: {truth: interval}}."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for truth in TRUTHS:
        mine = [row for row in rows if row.truth == truth]
        reference = [row for row in mine if row.method == baseline]
        for method in dict.fromkeys(row.method for row in mine if row.method != baseline):
            theirs = [row for row in mine if row.method == method]
            found: dict[str, list[float]] = {}
            for one, other in zip(theirs, reference, strict=True):
                found.setdefault(one.lineage, []).append(getattr(one, metric) - getattr(other, metric))
            result.setdefault(method, {})[truth] = interval(found)
    return result


def channels(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean AUROC among edges into one kind of input: {method: {truth: {channel: mean}}}."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        for truth in TRUTHS:
            mine = [row.by_channel for row in rows if (row.method, row.truth) == (method, truth)]
            held = {c: [one[c] for one in mine if c in one] for c in CHANNELS}
            means = {c: round(float(np.mean(values)), 3) for c, values in held.items() if values}
            result.setdefault(method, {})[truth] = means
    return result


def worst_subjects(rows: list[Row]) -> dict[str, dict[str, object]]:
    """For each method the subject whose visible edges it ranks worst, and the edge that it ranks last."""
    found = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if (row.method, row.truth) == (method, "visible")]
        if mine:
            row = min(mine, key=lambda row: row.average_precision)
            found[method] = {
                "subject": row.subject,
                "average_precision": round(row.average_precision, 3),
                "edge": row.last,
                "score": round(row.last_size, 3),
                "exact": round(row.exact_size, 3),
            }
    return found


def measure(zoo: Zoo, *, per_task: int, methods: Iterable[str] = tuple(METHODS)) -> dict[str, object]:
    """All figures of this file, for the subjects of one zoo."""
    config = HarvestConfig(**zoo.manifest.config["harvest"])
    seed = int(zoo.manifest.config["seed"])
    ids, rows = chosen(zoo, per_task), list[Row]()
    for i, id in enumerate(ids):
        rows += rows_of(zoo.triple(id), seed, config, methods)
        print(f"\r{i + 1}/{len(ids)} subjects", end="", file=sys.stderr)
    print(file=sys.stderr)

    def split(column: str) -> dict[str, dict[str, object]]:
        values = dict.fromkeys(getattr(row, column) for row in rows)
        parts = {value: [row for row in rows if getattr(row, column) == value] for value in values}
        return {
            value: {"average_precision": table(part, "average_precision"), "auroc": table(part, "auroc")}
            for value, part in parts.items()
        }

    return {
        "zoo": zoo.name,
        "n_subjects": len(ids),
        "average_precision": table(rows, "average_precision"),
        "auroc": table(rows, "auroc"),
        "gap_to_exact": {
            "average_precision": gaps(rows, "average_precision"),
            "auroc": gaps(rows, "auroc"),
            "of_logit_difference": gaps(
                [row for row in rows if row.method.endswith("logit_difference")],
                "average_precision",
                "exact_logit_difference",
            ),
        },
        "auroc_by_channel": channels(rows),
        "worst_subject": worst_subjects(rows),
        "by_origin": split("origin"),
        "by_size": split("size"),
        "median_milliseconds": {
            method: round(1e3 * float(np.median([r.seconds for r in rows if r.method == method])), 1)
            for method in dict.fromkeys(row.method for row in rows)
        },
    }


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.circuit_truth", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo with known circuits")
    parser.add_argument("--per-task", type=int, default=4, help="subjects of each program, origin and size")
    options = parse_options(parser, arguments)
    torch.set_num_threads(1)
    print(json.dumps(measure(Zoo.open(Path(options.zoo)), per_task=options.per_task)))


if __name__ == "__main__":
    run_command(main)
