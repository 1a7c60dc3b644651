"""The baseline `token_space`: closed forms in token and position space, calibrated but not trained.

The strongest thing to know without learning. Labels without a closed form and circuit membership are answered
by the prior.
"""

from dataclasses import dataclass

import numpy as np

from metamodel.baselines.single_feature import calibrated
from metamodel.baselines.table import MEMBERSHIP, Answer, Column, Rows, TablePredictor, pairs_of
from metamodel.features.examples import Seen


@dataclass(frozen=True, slots=True)
class OwnColumn:
    """The column that stands for the label, through a rising curve; NaN stays NaN, for the prior to fill."""

    def probability(self, column: Column) -> Answer | None:
        known = _known(column)
        if known is None or len(np.unique(column.y[known])) < 2:
            return None
        label = column.label
        return calibrated(column.x[known, label], column.y[known], lambda rows: rows[:, label])

    def value(self, column: Column) -> Answer | None:
        known = _known(column)
        if known is None or column.x[known, column.label].std() == 0:
            return None
        label = column.label
        slope, offset = np.polyfit(column.x[known, label], column.y[known], 1)
        if slope < 0:
            slope, offset = 1e-9, float(column.y[known].mean())
        return lambda rows: slope * rows[:, label] + offset


def _known(column: Column) -> np.ndarray | None:
    """Rows that have a closed form; None where there are not two."""
    if column.label == MEMBERSHIP:
        return None
    known = np.isfinite(column.x[:, column.label])
    return known if known.sum() > 1 else None


def token_space_columns(seen: Seen) -> Rows:
    assert seen.baseline_inputs is not None, f"{seen.id}: examples for baselines carry baseline_inputs"
    return seen.baseline_inputs.token_space_scores.cpu().numpy().astype(np.float64)


def no_pairs(seen: Seen) -> Rows:
    """Closed forms say nothing of pairs; one empty row for each, so that tables stay aligned."""
    return np.zeros((int(pairs_of(seen).sum()), 0))


def token_space() -> TablePredictor:
    return TablePredictor("token_space", nodes=token_space_columns, edges=no_pairs, learner=OwnColumn())
