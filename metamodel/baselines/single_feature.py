"""The baseline `best_single_feature`: for each label the one feature that ranks training components best.

Where it comes close to a meta-model, the label is nearly an input.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from metamodel.baselines.answers import single_channel
from metamodel.baselines.table import Answer, Column, TablePredictor, edge_columns, node_columns


@dataclass(frozen=True, slots=True)
class BestColumn:
    """The column and sign of the best training average precision (for scores: rank correlation).

    Equals are told apart on validation. One logistic (for scores linear) curve turns it into an answer, which
    keeps its order.
    """

    def probability(self, column: Column) -> Answer:
        at, sign = _best_by_precision(column)
        return calibrated(sign * column.x[:, at], column.y, lambda rows: sign * rows[:, at])

    def value(self, column: Column) -> Answer:
        fits = np.abs(_rank_correlations(column.x, column.y))
        at = int(np.argmax(fits))
        slope, offset = np.polyfit(column.x[:, at], column.y, 1) if fits[at] > 0 else (0.0, column.y.mean())
        return lambda rows: slope * rows[:, at] + offset


def calibrated(score: ndarray, y: ndarray, score_of: Answer) -> Answer:
    """Platt scaling that never turns the order around: a rising logistic curve of a score."""
    centre, spread = score.mean(), max(float(score.std()), 1e-12)
    fit = LogisticRegression(C=10.0).fit(((score - centre) / spread)[:, None], y)
    slope, offset = max(float(fit.coef_[0, 0]), 1e-6), float(fit.intercept_[0])
    return lambda rows: (
        1 / (1 + np.exp(-np.clip(slope * (score_of(rows) - centre) / spread + offset, -50, 50)))
    )


def _best_by_precision(column: Column) -> tuple[int, int]:
    found = []
    for at in range(column.x.shape[1]):
        for sign in (1, -1):
            found.append((average_precision_score(column.y, sign * column.x[:, at]), at, sign))
    top = max(precision for precision, _, _ in found)
    equals = [(at, sign) for precision, at, sign in found if precision >= top - 1e-9]
    if len(equals) == 1 or not column.y_validation.any():
        return equals[0]
    tuning = [
        average_precision_score(column.y_validation, s * column.x_validation[:, at]) for at, s in equals
    ]
    return equals[int(np.argmax(tuning))]


def _rank_correlations(x: ndarray, y: ndarray) -> ndarray:
    """Spearman's correlation of every column with y; 0 for constant columns."""
    ranks, of_y = rankdata(x, axis=0), rankdata(y)
    ranks, of_y = ranks - ranks.mean(0), of_y - of_y.mean()
    norms = np.linalg.norm(ranks, axis=0) * np.linalg.norm(of_y)
    return np.divide(of_y @ ranks, norms, out=np.zeros(x.shape[1]), where=norms > 0)


def best_single_feature() -> TablePredictor:
    return TablePredictor(
        "best_single_feature",
        nodes=node_columns,
        edges=edge_columns,
        learner=BestColumn(),
        answers=single_channel,
    )
