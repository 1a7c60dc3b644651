"""Whether students compute like their teachers, each way of being like one beside plain training.

    python -m data_gen.student --config configs/student/small.yaml
    python benchmarks/students.py data/students-small

Exact edges on prompts that were held out: distance of circuits, transplant, accuracy; means and 95 %
intervals over lineages of teachers, and paired differences to plain training and to CKA distillation at equal
steps; then means of single cells, such as brackets in a deeper student: the tables of docs/students.md. The
last line of stdout is one JSON object: `{"values": {metric: {arm: ...}}, "against_plain", "against_cka",
"distance_change", "accuracy_lost"}`; `--out FILE` writes it too, with the value of each pair. A released
matcher has the first three under `student`: `python -m metamodel.release matching --students DIR`.
"""

import json
import sys
from pathlib import Path

import numpy as np

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.evaluation.card_tables import interval_words
from metamodel.evaluation.student_record import student_record
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
        print(f"| {metric.replace('_', ' ')} | mean | minus plain | minus CKA |\n|{' --- |' * 4}")
        for arm, value in found.values[metric].items():
            differences = [side[metric].get(arm) for side in (found.against_plain, found.against_cka)]
            cells = ["" if one is None else interval_words(one) for one in (value, *differences)]
            print(f"| {arm} | {' | '.join(cells)} |")
        print()
    result = student_record(zoo, found, command=f"python benchmarks/students.py {options.zoo}")
    distance, accuracy = found.values["circuit_distance"], found.against_plain["accuracy"]
    result["distance_change"] = {
        arm: round(distance[arm].value / distance[PLAIN].value - 1, 4) for arm in distance if arm != PLAIN
    }
    result["accuracy_lost"] = {arm: round(-change.value, 4) for arm, change in accuracy.items()}
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
    arms = list(found.values["accuracy"])
    print(f"| circuit distance / accuracy | {' | '.join(arms)} |\n|{' --- |' * (len(arms) + 1)}")
    for cell, names in cells.items():
        means = [[np.mean([found.raw[m][arm][name] for name in names]) for m in SHOWN] for arm in arms]
        print(f"| {cell}, {len(names)} pairs | {' | '.join(f'{d:.3f} / {a:.3f}' for d, a in means)} |")
    print()


if __name__ == "__main__":
    run_command(main)
