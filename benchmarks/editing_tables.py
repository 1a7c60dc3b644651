"""Prints the tables of docs/editing.md, in Markdown, from the metrics of a checkpoint of an editor.

    python benchmarks/editing_tables.py checkpoints/editing

Nothing is measured here: `python -m metamodel.evaluate CHECKPOINT` does that. The last line of stdout is one
JSON object: number of tables, and the checkpoint.
"""

import json
import sys
from pathlib import Path

from metamodel.baselines.base import META_MODEL
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.evaluation.card_tables import interval_words, summary
from metamodel.evaluation.editing.card import kinds_table, rules_table
from metamodel.evaluation.editing.contest import IN_SEQUENCE
from metamodel.evaluation.report import Report, load

ALONE = (
    "efficacy_at_drawdown",
    "specification_gap",
    "subject_gap",
    "forecast_auroc",
    "relative_norm",
    "fine_tuning_steps_equivalent",
    "milliseconds",
)
"""Metrics of which the page shows the editor's own value."""
AFTER_TEN = "harmonic_mean_after_ten"


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.editing_tables", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    given = parse_options(parser, arguments)
    found = tables(load(Path(given.checkpoint)))
    sys.stdout.write("".join(f"## {name}\n\n{table}\n\n" for name, table in found.items()))
    sys.stdout.write(json.dumps({"checkpoint": given.checkpoint, "tables": len(found)}) + "\n")


def tables(report: Report) -> dict[str, str]:
    """The tables of the page, by what they are about."""
    return {
        "splits": summary(report, "harmonic_mean", floor="no_op"),
        "kinds": kinds_table(report),
        "rules": rules_table(report),
        "alone": alone_table(report),
        "after ten": after_ten_table(report),
    }


def alone_table(report: Report) -> str:
    """A row for each metric of the editor alone, a column for each split."""
    lines = [f"| metric | {' | '.join(report.scores)} |", f"|{' --- |' * (len(report.scores) + 1)}"]
    for metric in ALONE:
        cells = [
            interval_words(of[metric][META_MODEL]) if metric in of else "" for of in report.scores.values()
        ]
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def after_ten_table(report: Report) -> str:
    """A row for each split with edits in sequence: S after ten of them."""
    lines = [f"| split | {' | '.join(IN_SEQUENCE)} |", f"|{' --- |' * (len(IN_SEQUENCE) + 1)}"]
    for split, by_metric in report.scores.items():
        if AFTER_TEN in by_metric:
            of = by_metric[AFTER_TEN]
            cells = [interval_words(of[name]) if name in of else "" for name in IN_SEQUENCE]
            lines.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
