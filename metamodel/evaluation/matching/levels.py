"""Partial F1 level by level: over noise, dropped and inserted components, and the difference of layers.

The mean over all levels hides which change a method cannot stand. `levels.json` beside `metrics.json` has
every method at every combination of levels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metamodel.analogy.pairs import MatchedPair
from metamodel.baselines.base import is_ours

AXES = ("noise", "dropped", "inserted", "extra_layers")
"""Of the grid. A partial pair has no extra layers."""
LEVELS = "levels.json"
CLASSICAL, BEST = "classical", 3
"""Our solver without learning, and how many opponents stand beside ours in tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One cell: pairs of a split that were changed alike."""

    split: str
    at: tuple[float, ...]
    """In the order of `AXES`."""
    n: int
    """Pairs."""
    f1: Mapping[str, float]
    """Mean partial F1 of each method."""


def levels_of(
    pairs: Sequence[MatchedPair], split: str, f1: Mapping[str, Sequence[float]]
) -> tuple[Level, ...]:
    """Cells of one split, in the order of their levels.

    Args:
        pairs: with a known truth and a level.
        f1: of each method, pair by pair; methods that lack a pair are left out by whoever calls.
    """
    places: dict[tuple[float, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        at = tuple(float(pair.level.get(axis, 0.0)) for axis in AXES)
        places.setdefault(at, []).append(i)
    return tuple(
        Level(
            split=split,
            at=at,
            n=len(places[at]),
            f1={name: float(np.mean([values[i] for i in places[at]])) for name, values in f1.items()},
        )
        for at in sorted(places)
    )


def pooled(levels: Sequence[Level], axes: Sequence[str] = AXES) -> tuple[Level, ...]:
    """Cells of all splits and of all axes but these together, pair by pair."""
    held: dict[tuple[float, ...], list[Level]] = {}
    for level in levels:
        at = tuple(level.at[AXES.index(axis)] for axis in axes)
        held.setdefault(at, []).append(level)
    found = []
    for at in sorted(held):
        n = sum(level.n for level in held[at])
        names = [name for name in held[at][0].f1 if all(name in level.f1 for level in held[at])]
        f1 = {name: sum(level.n * level.f1[name] for level in held[at]) / n for name in names}
        found.append(Level(split="all", at=at, n=n, f1=f1))
    return tuple(found)


def shown(levels: Sequence[Level]) -> tuple[str, ...]:
    """Methods of a table: ours, the classical solver, and the opponents that are best over all pairs."""
    if not levels:
        return ()
    (whole,) = pooled(levels, ())
    ours = [name for name in whole.f1 if is_ours(name) or name == CLASSICAL]
    others = sorted((name for name in whole.f1 if name not in ours), key=lambda name: -whole.f1[name])
    return (*ours, *others[:BEST])


def levels_table(levels: Sequence[Level], axes: Sequence[str] = AXES) -> str:
    """A row for each combination of these axes, all splits together, the best bold; empty without any."""
    names = shown(levels)
    if not names:
        return ""
    words = [axis.replace("_", " ") for axis in axes]
    lines = [
        f"| {' | '.join([*words, 'pairs', *names])} |",
        f"|{' --- |' * (len(axes) + 1 + len(names))}",
    ]
    for cell in pooled(levels, axes):
        best = max(cell.f1[name] for name in names)
        values = [f"**{cell.f1[x]:.3f}**" if cell.f1[x] == best else f"{cell.f1[x]:.3f}" for x in names]
        lines.append(f"| {' | '.join([*(f'{value:g}' for value in cell.at), str(cell.n), *values])} |")
    return "\n".join(lines)


def save_levels(levels: Sequence[Level], folder: Path) -> None:
    """Writes `levels.json`: every cell of every split, and the axes one by one over all of them."""
    held = {
        "axes": list(AXES),
        "cells": [_plain(level, AXES) for level in (*levels, *pooled(levels))],
        "single": {axis: [_plain(level, (axis,)) for level in pooled(levels, (axis,))] for axis in AXES},
    }
    (folder / LEVELS).write_text(json.dumps(held, indent=1) + "\n")


def _plain(level: Level, axes: Sequence[str]) -> dict[str, object]:
    return {
        "split": level.split,
        **dict(zip(axes, level.at, strict=True)),
        "pairs": level.n,
        "partial_f1": {name: round(value, 6) for name, value in level.f1.items()},
    }
