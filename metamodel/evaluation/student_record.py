"""What students have become, beside a matcher's own scores: `student` in its metrics.json, and in its card.

The circuit loss is the matcher's measure in another use, so its results stand in the matcher's checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamodel.config.errors import require
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.card_tables import interval_words
from metamodel.evaluation.report import METRICS as METRICS_FILE
from metamodel.evaluation.report import interval_of, plain_interval
from metamodel.evaluation.students import METRICS, StudentScores, student_scores
from metamodel.triples.student_store import StudentZoo

STUDENT = "student"
"""Key of metrics.json."""
CARD, BEFORE = "README.md", "## Limits"
"""The card, and the heading that the section of students comes before."""
HEADING = "## Students"
_SIDES = {"values": "", "against_plain": " minus plain", "against_cka": " minus CKA"}


def student_record(zoo: StudentZoo, scores: StudentScores, *, command: str) -> dict[str, Any]:
    """As JSON: metric -> arm -> value with its interval over lineages of teachers, and paired differences."""

    def plain(side: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
        return {metric: {arm: plain_interval(one) for arm, one in of.items()} for metric, of in side.items()}

    return {
        "command": command,
        "zoo": f"{zoo.name} {zoo.fingerprint}",
        "n_pairs": len(zoo.pairs),
        "values": plain(scores.values),
        "against_plain": plain(scores.against_plain),
        "against_cka": plain(scores.against_cka),
    }


def measured(folder: Path, *, command: str) -> dict[str, Any]:
    """The record of a zoo of students. Raises: InputError if it is not there."""
    zoo = StudentZoo.open(folder)
    return student_record(zoo, student_scores(zoo), command=command)


def check_matcher(folder: Path) -> None:
    """Raises: InputError for a checkpoint that is none of a matcher."""
    path = folder / "config.json"
    held = json.loads(path.read_text()) if path.is_file() else {}
    require(
        held.get("kind") == "matching",
        str(folder),
        expected="a checkpoint of a matcher",
        got=f"kind {held.get('kind', 'unknown')}",
        do="Leave out --students.",
    )


def add_students(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the record into metrics.json and the card of a checkpoint, in the place of what they held of it.

    Raises: InputError for a checkpoint that is none of a matcher.
    """
    check_matcher(folder)
    path = folder / METRICS_FILE
    metrics = json.loads(path.read_text()) | {STUDENT: dict(record)}
    path.write_text(json.dumps(metrics, indent=1) + "\n")
    card = folder / CARD
    text = card.read_text()
    start = text.find(HEADING)
    text = text if start < 0 else text[:start] + text[text.index(BEFORE, start) :]
    at = text.index(BEFORE)
    card.write_text(text[:at] + section(record) + text[at:])


def section(record: Mapping[str, Any]) -> str:
    """Markdown: a row for each arm, a column for each metric and difference."""
    columns = [(metric, side) for metric in METRICS for side in _SIDES]
    heads = [f"{metric.replace('_', ' ')}{_SIDES[side]}" for metric, side in columns]
    lines = [
        HEADING,
        "",
        "Students trained toward teachers, each way of being like one beside plain training at equal steps; "
        f"exact edges on held-out prompts, {record['n_pairs']} pairs, zoo `{record['zoo']}`.",
        "",
        "```bash",
        record["command"],
        "```",
        "",
        f"| arm | {' | '.join(heads)} |",
        f"|{' --- |' * (len(heads) + 1)}",
    ]
    for arm in record["values"][METRICS[0]]:
        found = [record[side][metric].get(arm) for metric, side in columns]
        cells = ["" if one is None else interval_words(interval_of(one)) for one in found]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])
