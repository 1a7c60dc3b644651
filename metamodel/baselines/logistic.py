"""The baseline `logistic`: regularised linear readers of the meta-model's own features."""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from metamodel.baselines.algorithms import linear_algorithm
from metamodel.baselines.answers import conditional_logit
from metamodel.baselines.table import Answer, Column, Rows, TablePredictor, edge_columns, node_columns

PENALTIES = (10.0, 1.0, 100.0)
"""Inverse of scikit-learn's C, and Ridge's alpha, chosen on validation; the first where it does not tell."""


@dataclass(frozen=True, slots=True)
class Linear:
    """L2 logistic regression for labels, ridge for scores, on standardised columns."""

    def probability(self, column: Column) -> Answer:
        scaled = Scaled(column.x)
        x, tuning = scaled(column.x), scaled(column.x_validation)
        fits = [LogisticRegression(C=1 / p, max_iter=300, tol=1e-3).fit(x, column.y) for p in PENALTIES]
        losses = [log_loss(column.y_validation, _chance(fit, tuning)) for fit in fits]
        best = fits[int(np.argmin(losses))]
        return lambda rows: _chance(best, scaled(rows))

    def value(self, column: Column) -> Answer:
        scaled = Scaled(column.x)
        x, tuning = scaled(column.x), scaled(column.x_validation)
        fits = [Ridge(alpha=p).fit(x, column.y) for p in PENALTIES]
        losses = [squared_loss(column.y_validation, predict(fit, tuning)) for fit in fits]
        best = fits[int(np.argmin(losses))]
        return lambda rows: predict(best, scaled(rows))


class Scaled:
    """Columns standardised by the training rows; clipped, since ratios have long tails."""

    def __init__(self, x: Rows):
        self._scaler = StandardScaler().fit(x)

    def __call__(self, x: Rows) -> Rows:
        return np.clip(self._scaler.transform(x), -8, 8) if len(x) else x


def log_loss(truth: ndarray, probability: ndarray) -> float:
    """Mean negative log likelihood, 0 without rows."""
    if not len(truth):
        return 0.0
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return float(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())


def squared_loss(truth: ndarray, value: ndarray) -> float:
    return float(((truth - value) ** 2).mean()) if len(truth) else 0.0


def predict(fit: Ridge, x: Rows) -> ndarray:
    return fit.predict(x) if len(x) else np.zeros(0)


def _chance(fit: LogisticRegression, x: Rows) -> ndarray:
    return fit.predict_proba(x)[:, 1] if len(x) else np.zeros(0)


def logistic() -> TablePredictor:
    return TablePredictor(
        "logistic",
        nodes=node_columns,
        edges=edge_columns,
        learner=Linear(),
        answers=conditional_logit,
        algorithms=linear_algorithm,
    )
