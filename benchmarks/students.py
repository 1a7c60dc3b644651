"""Whether students compute like their teachers, each way of being like one beside plain training.

    python -m data_gen.student --config configs/student/small.yaml
    python benchmarks/students.py data/students-small

Exact edges on prompts that were held out: distance of circuits, transplant, accuracy; means and 95 %
intervals over lineages of teachers, and paired differences to plain training at equal steps; then means of
single cells, such as brackets in a deeper student. The last line of stdout is one JSON object: `{"values":
{metric: {arm: ...}}, "against_plain", "distance_change", "accuracy_lost", "against_cka"}`; `--out FILE`
writes it too, with the value of each pair.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.evaluation.bootstrap import paired_difference, resampled_weights
from metamodel.evaluation.metrics import mean
from metamodel.evaluation.report import interval_line, plain_interval
from metamodel.evaluation.students import METRICS, PLAIN, StudentScores, student_scores
from metamodel.triples.student_store import StudentZoo

SHOWN = ("circuit_distance", "accuracy")
"""Metrics of single cells."""


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.students", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo of students")
    parser.add_argument("--out", type=str, default=None, help="JSON file of all values")
    options = parse_options(parser, arguments)
    zoo = StudentZoo.open(options.zoo)

    def progress(done: int, whole: int) -> None:
        print(f"\r{done}/{whole} pairs", end="\n" if done == whole else "", file=sys.stderr, flush=True)

    found = student_scores(zoo, progress=progress)
    for metric in METRICS:
        print(f"\n{metric:28}{'mean':>24}{'minus plain':>28}")
        for arm, value in found.values[metric].items():
            change = found.against_plain[metric].get(arm)
            print(f"  {arm:26}{interval_line(value):>24}{interval_line(change) if change else '':>28}")
    result: dict[str, object] = {
        "zoo": f"{zoo.name} {zoo.fingerprint}",
        "n_pairs": len(zoo.pairs),
        "values": _plain(found.values),
        "against_plain": _plain(found.against_plain),
    }
    distance, accuracy = found.values["circuit_distance"], found.against_plain["accuracy"]
    ours = [arm for arm in ("circuit", "circuit_interchange") if arm in distance]
    result["distance_change"] = {
        arm: round(distance[arm].value / distance[PLAIN].value - 1, 4) for arm in distance if arm != PLAIN
    }
    result["accuracy_lost"] = {arm: round(-change.value, 4) for arm, change in accuracy.items()}
    if "cka" in distance:
        lineages = [pair.lineage for pair in zoo.pairs]
        result["against_cka"] = {
            metric: {arm: _difference(of[arm], of["cka"], lineages) for arm in ours}
            for metric, of in found.raw.items()
        }
    _show_cells(zoo, found)
    if options.out:
        Path(options.out).write_text(json.dumps(result | {"pairs": found.raw}, indent=1) + "\n")
    print(json.dumps(result))


def _show_cells(zoo: StudentZoo, found: StudentScores) -> None:
    """Distance and accuracy of each family and pair of sizes."""
    cells: dict[str, list[str]] = {}
    for pair in zoo.pairs:
        teacher, student = pair.teacher.config, next(iter(pair.students.values())).config
        sizes = " to ".join(f"l{c.n_layers}h{c.n_heads}{'-mlp' * c.has_mlp}" for c in (teacher, student))
        cells.setdefault(f"{pair.family} {sizes}", []).append(pair.name)
    print("\ncircuit distance / accuracy")
    for cell, names in cells.items():
        print(f"  {cell}, {len(names)} pairs")
        for arm in found.values["accuracy"]:
            means = [np.mean([found.raw[m][arm][name] for name in names]) for m in SHOWN]
            print(f"    {arm:24}{means[0]:8.3f} / {means[1]:.3f}")


def _difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], lineages: list[str]
) -> dict[str, object]:
    known = sorted(set(lineages))
    lineage = np.array([known.index(one) for one in lineages])
    one, other = (mean(np.array(list(side.values())), lineage, len(known)) for side in (ours, theirs))
    return dict(plain_interval(paired_difference(one, other, resampled_weights(len(known), seed=0))))


def _plain(scores) -> dict[str, dict[str, object]]:
    return {metric: {arm: plain_interval(v) for arm, v in arms.items()} for metric, arms in scores.items()}


if __name__ == "__main__":
    run_command(main)
