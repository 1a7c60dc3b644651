"""Two editors on the same edits, kind of edit by kind of edit; shared by commands of this folder."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import paired_difference, resampled_weights


def paired_kinds(
    kinds: Sequence[str], lineages: Sequence[str], ours: Sequence[float], theirs: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Mean S of ours, of each kind and of all, with its difference from theirs, paired over lineages."""
    lineage, n_lineages = metrics.numbered(lineages)
    weights, found = resampled_weights(n_lineages, seed=0), {}
    for kind in (*sorted(set(kinds)), "all"):
        among = (np.array(kinds) == kind) | (kind == "all")
        one, other = (metrics.mean(np.array(s)[among], lineage[among], n_lineages) for s in (ours, theirs))
        gap = paired_difference(one, other, weights)
        s = float(np.array(ours)[among].mean())
        found[kind] = {"s": s, "difference": gap.value, "low": gap.low, "high": gap.high}
    return found


def cell(value: dict[str, Any], digits: int) -> str:
    """Of a table in markdown; bold where the interval of the difference excludes 0."""
    shown = f"{value['s']:.{digits}f} ({value['difference']:+.{digits}f})"
    return f"**{shown}**" if value["low"] > 0 or value["high"] < 0 else shown
