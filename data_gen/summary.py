"""Says what a build will make, and what it has made: subjects, reasons of rejection, bytes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from io import StringIO
from math import prod
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_gen.config import ZooConfig
from data_gen.harvesting import ACTIVATION_PROBES
from data_gen.labels.registry import LABELS
from data_gen.population import ShardSpec
from metamodel.circuits.graph import component_edges
from metamodel.subjects.config import SubjectConfig, components, weight_shapes
from metamodel.triples.manifest import Manifest

FEWEST_ACCEPTED = 0.5
"""Share of a cell's subjects below which a build says that too few learned their task."""


def bytes_of_triple(shape: SubjectConfig, n_probes: int, n_shown: int) -> int:
    """About what one triple takes on disk, if prompts fill the context."""
    node, edge = len(components(shape)), len(component_edges(shape))
    pos, d = shape.n_ctx, shape.d_model
    floats = sum(prod(s) for s in weight_shapes(shape).values())
    floats += node * (d * d + pos * pos + 5) + min(ACTIVATION_PROBES, n_probes) * pos * node * d
    floats += 4 * edge + node * len(LABELS) * 4
    integers = n_probes * (2 * pos + 4) + n_shown * (pos + 1) + node * len(LABELS)
    return 4 * floats + 8 * integers + edge + node


def plan(config: ZooConfig, specs: Sequence[ShardSpec], out: Path) -> str:
    """What a build would make, as a table."""
    table = Table(title=f"{config.name}: what would be built in {out}")
    for column in ("task", "size", "recipe", "departs", "subjects", "shards", "edges"):
        table.add_column(
            column, justify="left" if column in ("task", "size", "recipe", "departs") else "right"
        )
    cells: dict[tuple[str, ...], list[ShardSpec]] = {}
    for spec in specs:
        key = (f"{spec.family}-{spec.variant}", spec.size_name, spec.cell.recipe, spec.cell.departs)
        cells.setdefault(key, []).append(spec)
    subjects = edges = size = 0
    for key, group in cells.items():
        n = sum(len(spec.subjects) for spec in group)
        n_edges = len(component_edges(group[0].subject_config))
        table.add_row(*key, str(n), str(len(group)), str(n_edges))
        subjects, edges = subjects + n, edges + n * n_edges
        size += n * bytes_of_triple(group[0].subject_config, config.harvest.n_probes, config.harvest.n_shown)
    total = (
        f"{subjects} subjects in {len(specs)} shards, {edges} edges, at most about {size / 2**20:.0f} MiB\n"
    )
    return _text(table) + total


def summary(manifest: Manifest, specs: Sequence[ShardSpec]) -> str:
    """Accepted and rejected subjects of each task and size, with the most frequent reason."""
    table = Table(title=f"{manifest.name}: accepted and rejected subjects")
    for column in ("task", "size", "accepted", "rejected", "of these"):
        table.add_column(column, justify="right" if column in ("accepted", "rejected") else "left")
    accepted: Counter[tuple[str, str]] = Counter()
    rejected: dict[tuple[str, str], list[str]] = {}
    for spec, record in zip(specs, manifest.shards, strict=True):
        key = (f"{spec.family}-{spec.variant}", spec.size_name)
        accepted[key] += record.n_subjects
        rejected.setdefault(key, []).extend(record.rejected.values())
    for key, reasons in rejected.items():
        table.add_row(*key, str(accepted[key]), str(len(reasons)), _example(reasons))
    table.add_section()
    n_rejected = sum(len(reasons) for reasons in rejected.values())
    table.add_row("all", "", str(accepted.total()), str(n_rejected), size_text(manifest))
    return _text(table) + "".join(f"{line}\n" for line in too_few(accepted, rejected))


def size_text(manifest: Manifest) -> str:
    """What the zoo's shards take on disk."""
    n_bytes = sum(file.bytes for record in manifest.shards for file in record.files.values())
    return f"{n_bytes / 2**20:.1f} MiB in {manifest.n_shards} shards"


def too_few(
    accepted: Mapping[tuple[str, str], int], rejected: Mapping[tuple[str, str], Sequence[str]]
) -> list[str]:
    """A line for each cell in which most subjects did not learn their task."""
    found = []
    for key, reasons in rejected.items():
        n = accepted[key] + len(reasons)
        if accepted[key] < FEWEST_ACCEPTED * n:
            line = f"{key[0]} at size {key[1]}: only {accepted[key]} of {n} subjects were accepted."
            found.append(f"{line} Train longer (recipes) or take a larger size.")
    return found


def _example(reasons: Sequence[str]) -> str:
    return f"such as: {reasons[0]}" if reasons else ""


def _text(table: Table) -> str:
    stream = StringIO()
    Console(file=stream, width=110).print(table)
    return stream.getvalue()
