"""Do ratio signatures tell tasks and functions apart across seeds, and untrained subjects not?

    python benchmarks/ratio_signatures.py data/medium [--permutations 999]

Trained subjects of one task each, kin left out, one size at a time (families come in different sizes), sizes
with at least three families of at least four lineages. Signatures of whole subjects are grouped by task;
those of heads by function label, one head a subject and label, and heads with several of the labels left out.

    icc         between-task variance over between plus within-seed, one-way and unbiased; median over ratios
    map         mean average precision of retrieving the same task from other lineages, by distance of
                standardised signatures, beside the mean and 95 % quantile of permuted tasks
    split_half  correlation over tasks of the means of two halves of the seeds; median over ratios and splits
    stable      share of ratios whose ICC exceeds permuted tasks (Benjamini-Hochberg, 5 %), and per task those
                whose spread over seeds is below that of random groups of as many subjects

The same is done for re-initialised subjects of the same shapes (of heads: at the same places), which know the
task from vocabulary and context alone, and for plain statistics of weights. The last line of stdout is one
JSON object; progress goes to stderr.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_gen.null import reinitialised
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.features.ratios import component_names, ratio_signature, subject_names
from metamodel.features.statistics import weight_statistics
from metamodel.subjects.config import KINDS, components
from metamodel.subjects.subject import Subject, unstack
from metamodel.triples.schema import POSITIVE, Triple
from metamodel.triples.store import Zoo

LEAST_LINEAGES, LEAST_GROUPS = 4, 3
FUNCTIONS = ("previous_token", "duplicate_token", "induction", "name_mover")
"""Labels of heads; heads with one of them alone are compared (induction heads also count as movers: there
`induction` goes before)."""
FALSE_DISCOVERIES = 0.05
N_SPLITS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one subject, or one head, is described by."""

    group: str
    """Task, or function."""
    size: str
    lineage: str
    described: dict[str, np.ndarray]


def icc(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """ICC(1) of each column, unbiased by unequal groups; NaN where nothing varies."""
    names, counts = np.unique(group, return_counts=True)
    n, k = len(group), len(names)
    means = np.stack([x[group == name].mean(0) for name in names])
    between = (counts[:, None] * (means - x.mean(0)) ** 2).sum(0) / (k - 1)
    within = sum(((x[group == name] - m) ** 2).sum(0) for name, m in zip(names, means, strict=True)) / (n - k)
    size = (n - (counts**2).sum() / n) / (k - 1)
    component = (between - within) / size
    with np.errstate(invalid="ignore", divide="ignore"):
        return component / (component + within)


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1 over what is not NaN; NaN becomes the mean, dead columns go."""
    kept = (~np.isnan(x)).sum(0) > 1
    x = x[:, kept]
    spread = np.nanstd(x, axis=0)
    x = (x - np.nanmean(x, axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return np.nan_to_num(x)


def retrieval(x: np.ndarray, group: np.ndarray, lineage: np.ndarray) -> float:
    """Mean average precision of finding the same group in other lineages."""
    square = (x**2).sum(1)
    distance = square[:, None] + square - 2 * x @ x.T
    found = []
    for i in range(len(x)):
        others = np.flatnonzero(lineage != lineage[i])
        right = (group[others] == group[i])[np.argsort(distance[i, others], kind="stable")]
        if right.any():
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            found.append(precision[right].mean())
    return float(np.mean(found))


def split_half(x: np.ndarray, group: np.ndarray, draw: np.random.Generator) -> float:
    names = np.unique(group)
    found = []
    for _ in range(N_SPLITS):
        halves = []
        for name in names:
            rows = draw.permutation(np.flatnonzero(group == name))
            halves.append([x[half].mean(0) for half in np.array_split(rows, 2)])
        one, other = np.moveaxis(np.array(halves), 1, 0)
        one, other = one - one.mean(0), other - other.mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0)))
    return float(np.nanmedian(found))


def discoveries(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg (1995): which of all these are significant."""
    order = np.argsort(p, axis=None)
    below = p.ravel()[order] <= FALSE_DISCOVERIES * np.arange(1, p.size + 1) / p.size
    chosen = np.zeros(p.size, dtype=bool)
    chosen[order[: (np.flatnonzero(below).max() + 1) if below.any() else 0]] = True
    return chosen.reshape(p.shape)


def steady(x: np.ndarray, group: np.ndarray, n: int, draw: np.random.Generator) -> tuple[list, np.ndarray]:
    """For each task and column the share of random groups of its size that spread as little."""
    names = list(np.unique(group))
    p = []
    for name in names:
        rows = np.flatnonzero(group == name)
        own = x[rows].std(0)
        random = np.stack([x[draw.choice(len(x), len(rows), replace=False)].std(0) for _ in range(n)])
        p.append((1 + (random <= own).sum(0)) / (n + 1))
    return names, np.stack(p)


def measured(rows: list[Row], how: str, n: int, names: tuple[str, ...] | None) -> dict[str, object]:
    """All figures of one description of one size's rows."""
    group, lineage = np.array([r.group for r in rows]), np.array([r.lineage for r in rows])
    raw = np.stack([r.described[how] for r in rows])
    kept = (~np.isnan(raw)).sum(0) > 1
    kept[kept] &= np.nanstd(raw[:, kept], axis=0) > 1e-6
    x, draw = standardised(raw[:, kept]), np.random.default_rng(0)
    value = icc(x, group)
    permuted = [draw.permutation(group) for _ in range(n)]
    p = (1 + np.sum([icc(x, one) >= value for one in permuted], axis=0)) / (n + 1)
    null = [retrieval(x, one, lineage) for one in permuted[:100]]
    tasks, steadiness = steady(x, group, n, draw)
    firm, quiet = discoveries(p), discoveries(steadiness)
    found: dict[str, object] = {
        "n": len(rows),
        "n_ratios": int(kept.sum()),
        "icc": _round(float(np.nanmedian(value))),
        "icc_above_half": _round(float(np.nanmean(value > 0.5))),
        "map": _round(retrieval(x, group, lineage)),
        "map_null": _round(np.mean(null)),
        "map_null_95": _round(np.quantile(null, 0.95)),
        "split_half": _round(split_half(x, group, draw)),
        "stable": _round(firm.mean()),
        "stable_of_task": {task: _round(q.mean()) for task, q in zip(tasks, quiet, strict=True)},
    }
    if names is not None:
        own = [name for name, k in zip(names, kept, strict=True) if k]
        best = [i for i in np.argsort(-np.nan_to_num(value)) if firm[i]][:8]
        found["most_stable"] = {own[i]: _round(float(value[i])) for i in best}
        found["steadiest_of_task"] = {
            task: [own[i] for i in np.argsort(row) if q[i]][:5]
            for task, row, q in zip(tasks, steadiness, quiet, strict=True)
        }
    return found


def _round(x: float | np.floating) -> float:
    return round(float(x), 4)


def untrained(subject: Subject, seed: int) -> Subject:
    return Subject(config=subject.config, weights=unstack(reinitialised(subject.config, 1, seed), 0))


def plain(subject: Subject) -> np.ndarray:
    """Statistics of weights, averaged over the components of each kind."""
    table = weight_statistics(subject)
    kinds = [node.kind for node in components(subject.config)]
    nothing = torch.full((table.shape[1],), torch.nan)
    means = [
        table[[k == kind for k in kinds]].mean(0) if kind in kinds else nothing for kind in KINDS
    ]  # a kind that a size lacks is missing in all its subjects
    return torch.cat(means).double().numpy()


def heads_of(triple: Triple, labels: list[str]) -> list[tuple[int, str]]:
    """The head of each function with the largest score among those that have that function alone."""
    positive = triple.labels.state == POSITIVE
    best: dict[str, tuple[float, int]] = {}
    for i, node in enumerate(components(triple.subject.config)):
        own = [name for name in FUNCTIONS if positive[i, labels.index(name)]]
        own = [name for name in own if name != "name_mover" or "induction" not in own]
        if node.kind == "head" and len(own) == 1:
            score = float(triple.labels.raw[i, labels.index(own[0])])
            best[own[0]] = max(best.get(own[0], (-1e9, -1)), (score, i))
    return [(i, name) for name, (_, i) in best.items()]


def read(zoo: Zoo) -> tuple[list[Row], list[Row]]:
    """Whole subjects, and heads."""
    labels = [label.name for label in zoo.labels]
    infos = [zoo.info(id) for id in zoo.ids]
    n_tasks = Counter(info.subject for info in infos)
    chosen = [
        info
        for info in infos
        if info.origin == "trained" and info.relation == "none" and n_tasks[info.subject] == 1
    ]
    wholes, heads = [], []
    for seed, info in enumerate(chosen):
        print(f"\rsignatures {seed + 1}/{len(chosen)}", end="", file=sys.stderr)
        triple = zoo.triple(info.id)
        copy = untrained(triple.subject, seed)
        own, other = ratio_signature(triple.subject), ratio_signature(copy)
        wholes.append(
            Row(
                group=info.family,
                size=info.size,
                lineage=info.lineage,
                described={
                    "ratios": own.of_subject().double().numpy(),
                    "untrained": other.of_subject().double().numpy(),
                    "statistics": plain(triple.subject),
                    "untrained_statistics": plain(copy),
                },
            )
        )
        table, untaught = own.of_components().double().numpy(), other.of_components().double().numpy()
        statistics = weight_statistics(triple.subject).double().numpy()
        for i, name in heads_of(triple, labels):
            described = {"ratios": table[i], "untrained": untaught[i], "statistics": statistics[i]}
            heads.append(Row(group=name, size=info.size, lineage=info.lineage, described=described))
    print(file=sys.stderr)
    return wholes, heads


def by_size(rows: list[Row]) -> dict[str, list[Row]]:
    """Sizes with enough groups of enough lineages, and those groups."""
    found = {}
    for size in sorted({row.size for row in rows}):
        some = [row for row in rows if row.size == size]
        counts = Counter(group for group, _ in {(row.group, row.lineage) for row in some})
        some = [row for row in some if counts[row.group] >= LEAST_LINEAGES]
        if len({row.group for row in some}) >= LEAST_GROUPS:
            found[size] = some
    return found


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.ratio_signatures", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo")
    parser.add_argument("--permutations", type=int, default=999, help="permuted tasks of a null")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    wholes, heads = read(Zoo.open(Path(given.zoo)))
    result: dict[str, dict[str, object]] = {}
    for what, rows, names in (
        ("subjects", wholes, subject_names()),
        ("heads", heads, component_names()),
    ):
        result[what] = {}
        for size, some in by_size(rows).items():
            groups = Counter(row.group for row in some)
            figures: dict[str, object] = {"groups": dict(groups)}
            for how in some[0].described:
                own = names if how in ("ratios", "untrained") else None
                figures[how] = measured(some, how, given.permutations, own)
                shown = {k: v for k, v in figures[how].items() if isinstance(v, int | float)}  # pyright: ignore
                print(what, size, how, shown, file=sys.stderr)
            result[what][size] = figures
    print(json.dumps({"permutations": given.permutations, **result}))


if __name__ == "__main__":
    run_command(main)
