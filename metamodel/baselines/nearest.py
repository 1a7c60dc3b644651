"""The baseline `nearest`: what the most similar components of training subjects do."""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from sklearn.neighbors import NearestNeighbors

from metamodel.baselines.algorithms import nearest_algorithm
from metamodel.baselines.logistic import Scaled, log_loss, squared_loss
from metamodel.baselines.table import Answer, Column, Rows, TablePredictor, edge_columns, node_columns

NEIGHBOURS = (10, 3, 30)
"""How many, chosen on validation; the first where it does not tell."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Mean over the k nearest rows on standardised columns; the base rate counts as one more neighbour."""

    def probability(self, column: Column) -> Answer:
        return self._tuned(column, log_loss)

    def value(self, column: Column) -> Answer:
        return self._tuned(column, squared_loss)

    def _tuned(self, column: Column, loss) -> Answer:
        scaled = Scaled(column.x)
        index = NearestNeighbors(algorithm="brute").fit(scaled(column.x))
        base = column.y.mean()

        def answers(rows: Rows, counts: tuple[int, ...]) -> list[ndarray]:
            if not len(rows):
                return [np.zeros(0) for _ in counts]
            largest = min(max(counts), len(column.y))
            nearest = index.kneighbors(scaled(rows), n_neighbors=largest, return_distance=False)
            total = column.y[nearest].cumsum(1)
            return [(total[:, min(k, largest) - 1] + base) / (min(k, largest) + 1) for k in counts]

        losses = [loss(column.y_validation, found) for found in answers(column.x_validation, NEIGHBOURS)]
        best = NEIGHBOURS[int(np.argmin(losses))]
        return lambda rows: answers(rows, (best,))[0]


def nearest() -> TablePredictor:
    return TablePredictor(
        "nearest",
        nodes=node_columns,
        edges=edge_columns,
        learner=Neighbours(),
        algorithms=nearest_algorithm,
    )
