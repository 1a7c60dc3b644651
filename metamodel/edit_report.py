"""What an edit did, for people: a short summary, and a report in Markdown with before/after tables."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from metamodel.proposal import Proposal
from metamodel.triples.edit_spec import EditSpec

SHOWN = 100
"""Most rows of a table of the report."""
TITLES = {
    "pair": "Pairs: answers that are wanted",
    "keep": "Inputs to keep: answers that stay",
    "unlabelled": "Other inputs of the domain",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditReport:
    """A proposal as it was applied."""

    proposal: Proposal
    spec: EditSpec
    alpha: float
    written: str
    """What was written, in words: format and files."""
    arguments: Sequence[str]
    """Of the command, so that it can be run again."""
    shown: pandas.DataFrame
    """`proposal.preview(alpha)`."""

    def summary(self) -> list[str]:
        """A few lines: forecast, what changes, and how many answers are as wanted."""
        proposal = self.proposal
        refused = ", refused" if proposal.refused else ""
        lines = [f"{proposal.subject.name}: forecast of success {proposal.forecast:.2f}{refused}"]
        for weight in proposal.weights:
            of = (
                f"{weight.relative:.1%} of the weight's"
                if math.isfinite(weight.relative)
                else "of a weight of zeros"
            )
            size = f"norm {weight.norm:.3g}, {of}"
            names = ", ".join(weight.components)
            lines.append(f"{weight.name} ({names}): rank {weight.rank}, {size}")
        lines += [f"{name}: {text}" for name, text in self._counts().items()]
        return lines + [f"note: {note}" for note in proposal.notes]

    def markdown(self) -> str:
        """The whole report."""
        proposal, counts = self.proposal, self._counts()
        verdict = " The editor refuses this edit; it was forced." if proposal.refused else ""
        parts = [
            f"# Edit of {proposal.subject.name}",
            f"Asked for: `{self.spec.demand}`. Applied with alpha = {self.alpha:g}. {self.written}",
            f"Forecast of success, on inputs that were not told as well: **{proposal.forecast:.2f}** "
            f"(refused below {proposal.refuse_below:.2f}).{verdict}",
            "\n".join(f"- {name}: {text}" for name, text in counts.items()),
            "## What changed",
            "With alpha = 1; norms are Frobenius norms of the weights as they are stored.",
            _table(
                ("weight", "components", "rank", "norm", "relative"),
                [
                    (
                        f"`{w.name}`",
                        ", ".join(w.components),
                        str(w.rank),
                        f"{w.norm:.4g}",
                        f"{w.relative:.2%}" if math.isfinite(w.relative) else "was zero",
                    )
                    for w in proposal.weights
                ],
            ),
        ]
        for role, title in TITLES.items():
            rows = self._rows(role)
            if rows:
                parts += [f"## {title}", _examples(rows)]
        if proposal.notes:
            parts += ["## Notes", "\n".join(f"- {note}" for note in proposal.notes)]
        command = shlex.join(["python", "-m", "metamodel.edit", *self.arguments])
        parts += ["## Again", f"```\n{command}\n```", "The specification lies beside this report."]
        return "\n\n".join(parts) + "\n"

    def _counts(self) -> dict[str, str]:
        """How many answers of each role are as wanted."""
        found = {}
        for role in TITLES:
            rows = self._rows(role)
            n, changed = len(rows), sum(map(_changes, rows))
            if not rows:
                continue
            match role:
                case "pair":
                    before, after = (sum(bool(row[key]) for row in rows) for key in ("ok_before", "ok_after"))
                    found["pairs as wanted"] = f"{after} of {n}, {before} before"
                case "keep":
                    found["kept"] = f"{n - changed} of {n}"
                case _:
                    found["other inputs answered otherwise"] = f"{changed} of {n}"
        return found

    def _rows(self, role: str) -> list[dict[str, Any]]:
        """Examples of one role, as they are previewed."""
        return [
            {str(k): v for k, v in row.items()}
            for row in self.shown.to_dict("records")
            if row["role"] == role
        ]


def _changes(row: Mapping[str, Any]) -> bool:
    return row["before"] != row["after"]


def _examples(rows: Sequence[Mapping[str, Any]]) -> str:
    """Before and after; of many rows those that change come first."""
    more = len(rows) - SHOWN
    ordered = sorted(rows, key=_changes, reverse=True) if more > 0 else rows
    cells = [
        (
            f"`{row['input']}`",
            str(row["wanted"]),
            str(row["before"]),
            str(row["after"]),
            f"{row['p_before']:.3f}",
            f"{row['p_after']:.3f}",
            "" if row["ok_after"] is pandas.NA else "yes" if row["ok_after"] else "**no**",
        )
        for row in ordered[:SHOWN]
    ]
    head = ("input", "wanted", "before", "after", "p before", "p after", "as wanted")
    table = _table(head, cells)
    return table if more <= 0 else f"{table}\n\nand {more} more; those that change are shown first."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
