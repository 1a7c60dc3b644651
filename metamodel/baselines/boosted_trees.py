"""The baseline `boosted_trees`: the strongest standard tabular reader, told of the neighbourhood too."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from metamodel.baselines.algorithms import boosted_algorithm
from metamodel.baselines.answers import boosted_candidates
from metamodel.baselines.logistic import log_loss, squared_loss
from metamodel.baselines.table import (
    Answer,
    Column,
    TablePredictor,
    edge_columns,
    neighbourhood_columns,
)

MAX_TREES = 80
SETTINGS: tuple[dict[str, Any], ...] = (
    {"max_leaf_nodes": 4, "min_samples_leaf": 10},
    {"max_leaf_nodes": 12, "min_samples_leaf": 20},
)
"""Sizes of trees; with the number of trees chosen on validation."""


@dataclass(frozen=True, slots=True)
class Boosting:
    """Histogram gradient boosting, the number of trees and their size chosen on validation."""

    def probability(self, column: Column) -> Answer:
        best = None
        for setting in SETTINGS:
            fit = HistGradientBoostingClassifier(**_fixed(setting, MAX_TREES)).fit(column.x, column.y)
            stages = fit.staged_predict_proba(column.x_validation) if len(column.y_validation) else ()
            losses = [log_loss(column.y_validation, stage[:, 1]) for stage in stages]
            best = _better(best, losses, setting)
        trees, setting = best[1:] if best else (MAX_TREES, SETTINGS[0])
        chosen = HistGradientBoostingClassifier(**_fixed(setting, trees)).fit(column.x, column.y)
        return lambda rows: chosen.predict_proba(rows)[:, 1]

    def value(self, column: Column) -> Answer:
        best = None
        for setting in SETTINGS:
            fit = HistGradientBoostingRegressor(**_fixed(setting, MAX_TREES)).fit(column.x, column.y)
            stages = fit.staged_predict(column.x_validation) if len(column.y_validation) else ()
            losses = [squared_loss(column.y_validation, stage) for stage in stages]
            best = _better(best, losses, setting)
        trees, setting = best[1:] if best else (MAX_TREES, SETTINGS[0])
        chosen = HistGradientBoostingRegressor(**_fixed(setting, trees)).fit(column.x, column.y)
        return chosen.predict


def _fixed(setting: dict[str, Any], trees: int) -> dict[str, Any]:
    return {
        "max_iter": trees,
        "learning_rate": 0.1,
        "l2_regularization": 1.0,
        "max_bins": 63,
        "early_stopping": False,
        "random_state": 0,
        **setting,
    }


def _better(best: tuple | None, losses: list[float], setting: dict[str, Any]) -> tuple | None:
    """(loss, trees, setting) of the best so far; None where validation has no rows."""
    if not losses:
        return best
    at = int(np.argmin(losses))
    if best is None or losses[at] < best[0]:
        return losses[at], at + 1, setting
    return best


def boosted_trees() -> TablePredictor:
    return TablePredictor(
        "boosted_trees",
        nodes=neighbourhood_columns,
        edges=edge_columns,
        learner=Boosting(),
        answers=boosted_candidates,
        algorithms=boosted_algorithm,
    )
