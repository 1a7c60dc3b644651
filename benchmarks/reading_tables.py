"""Prints the tables of docs/reading.md, in Markdown, from the metrics of a checkpoint.

    python benchmarks/reading_tables.py checkpoints/function

Nothing is measured here: `python -m metamodel.evaluate CHECKPOINT` does that. The last line of stdout is one
JSON object: number of tables, and the checkpoint.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.evaluation.card_tables import interval_words
from metamodel.evaluation.report import REFERENCES, Report, load

TRACKS = ("meta-model", "meta-model/weights", "meta-model/activations")
TABULAR = ("prior", "nearest", "logistic", "boosted_trees")


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.reading_tables", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of a function reader")
    given = parse_options(parser, arguments)
    found = tables(load(Path(given.checkpoint)))
    sys.stdout.write("".join(f"## {name}\n\n{table}\n\n" for name, table in found.items()))
    sys.stdout.write(json.dumps({"checkpoint": given.checkpoint, "tables": len(found)}) + "\n")


def tables(report: Report) -> dict[str, str]:
    """The tables of the page, by what they are about."""
    first = next(iter(report.scores.values()))
    opponents = [
        name
        for name in first["average_precision"]
        if name not in REFERENCES and not name.startswith("meta-model")
    ]
    by_track = (*TRACKS, "noise_ceiling")
    found = {
        "tracks": table(report, "average_precision", by_track),
        "within subjects": table(report, "within_subject_average_precision", by_track),
        "opponents": table(report, "average_precision", opponents),
        "circuit edges": table(
            report, "circuit_average_precision/edge", (*TRACKS[:2], *TABULAR, "noise_ceiling")
        ),
        "algorithms": table(report, "algorithm_top1", (*TRACKS, *TABULAR)),
        "answers": table(report, "behavior_accuracy", (*TRACKS[:2], *TABULAR)),
    }
    k_shot = [metric for metric in first if metric.startswith("k_shot")]
    return found | {metric: table(report, metric, (TRACKS[0], *TABULAR[:3])) for metric in k_shot}


def table(report: Report, metric: str, methods: Sequence[str]) -> str:
    """One row a split in which the metric applies; methods that are not there are left out."""
    rows = {split: of[metric] for split, of in report.scores.items() if metric in of}
    shown = [name for name in methods if any(name in row for row in rows.values())]
    lines = [f"| split | {' | '.join(shown)} |", f"|{' --- |' * (len(shown) + 1)}"]
    for split, row in rows.items():
        if any(row[name].applies for name in shown if name in row):
            cells = [interval_words(row[name]) if name in row else "" for name in shown]
            lines.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
