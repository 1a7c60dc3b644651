"""The circuit engine in numbers: exactness, speed, recovery of known circuits, group search, minimal sets.

    python benchmarks/circuits.py [data/medium]

Gathers what `benchmarks/circuit_speed.py`, `benchmarks/circuit_truth.py` and `benchmarks/sets.py` measure;
each runs alone too. Without a zoo with known circuits, recovery is left out. Progress goes to stderr, the
last line of stdout is one JSON object.
"""

import json
import sys
from pathlib import Path

import circuit_speed
import circuit_truth
import sets
import torch

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.triples import Zoo


def values(table: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """{method: {truth: mean}} of a table of intervals."""
    return {method: {truth: found["value"] for truth, found in row.items()} for method, row in table.items()}


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.circuits", description=__doc__ or "")
    parser.add_argument("zoo", type=str, nargs="?", default=None, help="folder of a zoo with known circuits")
    parser.add_argument("--per-task", type=int, default=4, help="subjects of each program, origin and size")
    parser.add_argument("--rounds", type=int, default=20, help="timings of each way")
    parser.add_argument("--sweeps", type=int, default=600, help="of the 6,000 of a whole zoo")
    options = parse_options(parser, arguments)
    zoo = None if options.zoo is None else Zoo.open(Path(options.zoo))  # before the minutes that follow
    result = circuit_speed.measure(rounds=options.rounds, n_sweeps=options.sweeps)
    print(json.dumps(result), file=sys.stderr)
    searched = sets.measure()
    result |= searched | {
        "group_search_evaluations": searched["group_search_evaluations"]["max"],  # pyright: ignore[reportIndexIssue]
        "group_search": searched["group_search_evaluations"],
    }
    if zoo is not None:
        torch.set_num_threads(1)
        truth = circuit_truth.measure(zoo, per_task=options.per_task)
        result |= {
            "average_precision": values(truth["average_precision"]),  # pyright: ignore[reportArgumentType]
            "auroc": values(truth["auroc"]),  # pyright: ignore[reportArgumentType]
            "truth": truth,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    run_command(main)
