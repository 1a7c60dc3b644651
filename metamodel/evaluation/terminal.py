"""A report as a terminal shows it, in 100 columns: a block a metric, a line a method, a column a split.

The blocks of single labels come first, so that the averages are what is left on the screen.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.box import Box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metamodel.baselines.base import META_MODEL
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.measures import PRECISION
from metamodel.evaluation.report import (
    LOWER_IS_BETTER,
    MARK,
    REFERENCES,
    Gap,
    Report,
    gap_to_best,
    share_of_ceiling,
    stands_outside,
)
from metamodel.evaluation.report import (
    as_json as to_json,
)

WIDTH = 100
"""Columns where the output is no terminal; six splits fit side by side without a line break in a cell."""
NAMES = {
    "best_single_feature": "single feature",
    f"{META_MODEL}/weights": "  on weights",
    f"{META_MODEL}/activations": "  on activations",
}
"""Methods whose own name is too long for a line."""
LINE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n")
"""A rule below the splits, and no other."""


def give(report: Report, *, as_json: bool) -> None:
    """A report on stdout, as tables or as the object of `metrics.json`."""
    if as_json:
        sys.stdout.write(json.dumps(to_json(report, report.scores), indent=1) + "\n")
    else:
        show(report, report_console())


def note_other_zoo(folder: Path, fingerprint: str, wanted: str) -> None:
    """Says on stderr where a zoo is not the one that a checkpoint names."""
    if fingerprint != wanted:
        sys.stderr.write(
            f"note: {folder} is not byte for byte the zoo of the checkpoint: numbers may differ\n"
        )


def said(progress: bool) -> Callable[[str], None]:
    """Says what a job is doing on stderr, or nothing."""

    def say(text: str) -> None:
        if progress:
            sys.stderr.write(f"{text}\n")

    return say


def report_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of `WIDTH` columns where the output is none."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def show(report: Report, console: Console) -> None:
    """Prints a block for each metric: every method on every split, and the gap to the best baseline."""
    console.print(
        f"Value and 95 % interval by split, with its lineages in brackets. * best baseline of the split; "
        f"n/a: no positives; {MARK} outside the split's averages; {', '.join(sorted(LOWER_IS_BETTER))}: "
        "lower is better."
    )
    found = dict.fromkeys(metric for metrics in report.scores.values() for metric in metrics)
    for metric in sorted(found, key=lambda metric: not metric.startswith(PRECISION)):
        console.print(f"\n[bold]{escape(metric)}[/]")
        console.print(_block(report, metric))


def _block(report: Report, metric: str) -> Table:
    splits = [split for split, metrics in report.scores.items() if metric in metrics]
    gaps = {split: gap_to_best(report, split, metric) for split in splits}
    table = Table(box=LINE)
    table.padding, table.show_edge = (0, 0, 0, 0), False
    table.add_column("", no_wrap=True, min_width=max(len(name) for name in NAMES.values()))
    for split in splits:
        n_lineages = report.scores[split][metric][META_MODEL].n_lineages
        mark = MARK if stands_outside(report, split, metric) else ""
        table.add_column(f"{split} ({n_lineages}){mark}", justify="right")
    methods = dict.fromkeys(name for split in splits for name in report.scores[split][metric])
    for method in sorted(methods, key=lambda name: name in REFERENCES):
        cells = []
        for split in splits:
            score, gap = report.scores[split][metric].get(method), gaps[split]
            cells.append(
                "" if score is None else _cell(score, best=gap is not None and gap.baseline == method)
            )
        style = "dim" if method in REFERENCES else "bold" if method == META_MODEL else ""
        table.add_row(NAMES.get(method, method.replace("_", " ")), *cells, style=style)
    shares = [share_of_ceiling(report, split, metric) for split in splits]
    if any(share is not None for share in shares):
        words = ["" if share is None else f"{share:.0%}" for share in shares]
        table.add_row("share of ceiling", *words, style="dim")
    table.add_row("gap to *", *(_gap_cell(gaps[split]) for split in splits))
    table.add_row("", *(_gap_interval(gaps[split]) for split in splits))
    return table


def _cell(score: Interval, *, best: bool) -> str:
    if not score.applies:
        return "n/a"
    value = "1.00" if f"{score.value:.3f}" == "1.000" else _short(f"{score.value:.3f}")
    return f"{value}{'*' if best else ' '} {_bare(score.low)}–{_bare(score.high)}"


def _bare(value: float) -> str:
    """At most three characters for 0 to 1, so that six splits fit side by side."""
    return "1.0" if f"{value:.2f}" == "1.00" else _short(f"{value:.2f}")


def _short(number: str) -> str:
    """Without the zero before the point; that of 10.0 stays."""
    return number.replace("0.", ".", 1) if number.lstrip("-").startswith("0.") else number


def _gap_cell(gap: Gap | None) -> str:
    if gap is None:
        return "n/a"
    colour = {"win": "green", "lose": "red", "even": "yellow"}[gap.verdict]
    return f"[{colour}]{gap.difference.value:+.3f} {gap.verdict}[/]"


def _gap_interval(gap: Gap | None) -> str:
    return "" if gap is None else f"{_bare(gap.difference.low)} to {_bare(gap.difference.high)}"
