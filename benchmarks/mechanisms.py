"""What did the trained subjects of a zoo learn? Accuracy, function labels and strongest edges, cell by cell.

    python benchmarks/mechanisms.py data/medium [--family repeated] [--markdown]

Reads a zoo and trains nothing. Of each cell of trained subjects, at the end of their training (no checkpoint,
fine-tuned or pruned copy) and one task at a time: how many were accepted of those that were made, from which
accuracy to which, and for each label that is defined in how many subjects a component is positive, in how
many others one has the pattern alone, and the score of the best component from the lowest subject to the
highest. Of each subject the edges whose noising takes most of the margin, as shares of the clean margin on
the same prompts, which are drawn again. The last line of stdout is one JSON object; with `--markdown` stdout
holds the tables of docs/mechanisms.md instead, with the edges of each cell's first subject.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data_gen.cells import JOIN
from data_gen.config import HarvestConfig
from data_gen.harvesting import circuit_prompts
from data_gen.subject_task import task_of
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import margin
from metamodel.config import require, suggestion
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.triples import Triple, Zoo
from metamodel.triples.schema import MASKED, PATTERN_ONLY, POSITIVE

N_EDGES = 5
"""Strongest edges that are given of a subject."""
MANY = 0.5
"""Share of subjects from which on a table names a label that only has its pattern there."""

Row = dict[str, Any]
"""What is printed of one cell, as JSON holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Trained subjects of one size and recipe, seen on one of the tasks that they have learnt."""

    name: str
    """`family-variant-size-recipe`; the family of subjects that learnt several tasks is `one+other`."""
    task: str
    """The family of these triples."""
    made: int
    """Subjects that were trained; the zoo holds those that learnt all their tasks."""
    ids: tuple[str, ...]
    """Of the triples, in the order of the zoo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCount:
    """What was found of one label in one cell."""

    positive: int
    """Subjects with a positive component."""
    pattern_only: int
    """Subjects without one in which a component has the pattern and not its causal twin."""
    defined: int
    """Subjects in which the label is defined for some component."""
    best: tuple[float, float]
    """Score of the best component: the lowest and the highest subject's."""


def cells_of(zoo: Zoo) -> tuple[Cell, ...]:
    """Cells of trained subjects in the order of the zoo's configuration, also those that learnt nothing."""
    ends: dict[tuple[str, str], list[str]] = {}
    for row in zoo.rows.to_list():
        if row["origin"] == "trained" and row["relation"] == "none":
            name, task = row["subject"].rpartition("-")[0], row["id"].partition("@")[2]
            ends.setdefault((name, task), []).append(row["id"])
    found = []
    for cell in zoo.manifest.config.get("cells", ()):
        tasks = cell["family"].split(JOIN)
        for size in cell["sizes"] if cell["origin"] == "trained" else ():
            name = "-".join((cell["family"], cell["variant"], size, cell["recipe"]))
            for task in tasks:
                ids = ends.get((name, task if len(tasks) > 1 else ""), [])
                found.append(Cell(name=name, task=task, made=cell["n_subjects"], ids=tuple(ids)))
    return tuple(found)


def label_counts(triples: list[Triple], names: tuple[str, ...]) -> dict[str, LabelCount]:
    """Counts of the labels that are defined for some component of some subject."""
    found = {}
    for i, name in enumerate(names):
        states = [triple.labels.state[:, i] for triple in triples]
        here = [j for j, state in enumerate(states) if bool((state != MASKED).any())]
        positive = [j for j in here if bool((states[j] == POSITIVE).any())]
        pattern = [j for j in here if j not in positive and bool((states[j] == PATTERN_ONLY).any())]
        if here:
            best = [float(triples[j].labels.raw[states[j] != MASKED, i].max()) for j in here]
            found[name] = LabelCount(
                positive=len(positive),
                pattern_only=len(pattern),
                defined=len(here),
                best=(round(min(best), 3), round(max(best), 3)),
            )
    return found


@torch.no_grad()
def clean_margin(triple: Triple, zoo: Zoo) -> float:
    """Mean margin on the prompts on which the triple's edges were scored; a zoo does not hold them."""
    config = zoo.manifest.config
    harvest, seed = HarvestConfig(**config["harvest"]), int(config["seed"])
    prompts = circuit_prompts(task_of(triple.info, seed), triple.info.id, harvest, seed)
    logits = triple.subject.run(prompts.clean).logits[0, torch.arange(len(prompts)), prompts.position]
    return float(margin(logits, prompts.answer).mean())


def strongest_edges(triple: Triple, whole: float) -> dict[str, float]:
    """The edges whose noising lowers the margin most, and what each takes as a share of `whole`."""
    scores = triple.circuit.noising_margin
    edges = component_edges(triple.subject.config).edges
    order = scores.argsort()[:N_EDGES].tolist()
    return {edges[i].name: round(-float(scores[i]) / whole, 3) for i in order}


def measure(zoo: Zoo, cell: Cell) -> Row:
    triples = [zoo.triple(id) for id in cell.ids]
    row: Row = {"cell": cell.name, "task": cell.task, "accepted": len(triples), "made": cell.made}
    if not triples:
        return row
    accuracy = [float(triple.behavior.accuracy) for triple in triples]
    counts = label_counts(triples, tuple(label.name for label in zoo.labels))
    return row | {
        "accuracy": [round(min(accuracy), 3), round(max(accuracy), 3)],
        "labels": {name: asdict(count) for name, count in counts.items()},
        "edges": {triple.info.id: strongest_edges(triple, clean_margin(triple, zoo)) for triple in triples},
    }


def span(values: Sequence[float]) -> str:
    """From the lowest to the highest."""
    return "–".join(f"{round(value, 2) + 0.0:.2f}" for value in values)  # + 0.0: no minus before zero


def positives(row: Row) -> str:
    """Labels that are positive in some subject, those of most subjects first."""
    held = [(name, label) for name, label in row["labels"].items() if label["positive"]]
    held.sort(key=lambda pair: -pair[1]["positive"])
    return "; ".join(
        f"`{name}` {label['positive']} of {label['defined']} ({span(label['best'])})" for name, label in held
    )


def patterns(row: Row) -> str:
    """Labels that are positive nowhere, and whose pattern stands in `MANY` of the subjects."""
    return ", ".join(
        f"`{name}` {label['pattern_only']}"
        for name, label in row["labels"].items()
        if not label["positive"] and label["pattern_only"] >= MANY * label["defined"]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell or "none" for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(row: Row) -> list[str]:
    """What every table says of a row."""
    shares = f"{row['accepted']} of {row['made']}"
    return [shares, *((span(row["accuracy"]), positives(row)) if row["accepted"] else ("–", "–"))]


def strongest(row: Row) -> str:
    """One line with the edges of the cell's first subject."""
    first, edges = next(iter(row["edges"].items()))
    return f"- `{first}`: {', '.join(f'`{name}` {share:.2f}' for name, share in edges.items())}"


def family_section(family: str, rows: Sequence[Row]) -> str:
    head = ("cell", "accepted", "accuracy", "positive in", "pattern only")
    cells = [[f"`{row['cell']}`", *figures(row), patterns(row) if row["accepted"] else "–"] for row in rows]
    edges = "\n".join(strongest(row) for row in rows if row["accepted"])
    return f"## {family}\n\n{table(head, cells)}\n\n{edges}".strip()


def markdown(rows: Sequence[Row]) -> str:
    """The tables of docs/mechanisms.md: one a family, and one of the subjects of several tasks."""
    alone = [row for row in rows if JOIN not in row["cell"]]
    together = [row for row in rows if JOIN in row["cell"]]
    families = dict.fromkeys(row["task"] for row in alone)
    parts = [family_section(family, [row for row in alone if row["task"] == family]) for family in families]
    if together:
        head = ("cell", "task", "accepted", "accuracy", "positive in")
        cells = [[f"`{row['cell']}`", row["task"], *figures(row)] for row in together]
        parts.append(f"## Several tasks in one subject\n\n{table(head, cells)}")
    return "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    """Raises: InputError for a zoo without trained subjects, or a family that none of them learnt."""
    parser = command_parser(prog="benchmarks.mechanisms", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo")
    parser.add_argument("--family", type=str, default=None, help="one family of its cells; default: all")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/mechanisms.md")
    given = parse_options(parser, arguments)
    zoo = Zoo.open(Path(given.zoo))
    cells = cells_of(zoo)
    require(
        bool(cells), given.zoo, expected="cells of trained subjects", got="none", do="Choose another zoo."
    )
    tasks = sorted({cell.task for cell in cells})
    require(
        given.family in (None, *tasks),
        "--family",
        expected=f"one of {', '.join(tasks)}",
        got=repr(given.family),
        do=f"Name a family of {given.zoo}.{suggestion(given.family or '', tasks)}",
    )
    cells = [cell for cell in cells if given.family in (None, cell.task)]
    rows = []
    for i, cell in enumerate(cells):
        rows.append(measure(zoo, cell))
        print(f"\r{i + 1}/{len(cells)} cells", end="", file=sys.stderr)
    print(file=sys.stderr)
    never = [
        label.name
        for label in zoo.labels
        if not any(row.get("labels", {}).get(label.name, {}).get("positive") for row in rows)
    ]
    if given.markdown:
        print(f"Positive in no subject: {', '.join(f'`{name}`' for name in never) or 'none'}.\n")
        print(markdown(rows))
    else:
        print(json.dumps({"zoo": zoo.name, "never_positive": never, "cells": rows}))


if __name__ == "__main__":
    run_command(main)
