"""The baseline `statistics`: StatNN's statistics of raw weights, read by boosted trees.

Unterthiner et al. 2020; what a component does is asked of its own tensors, with its kind and depth.
"""

import numpy as np

from metamodel.baselines.boosted_trees import Boosting
from metamodel.baselines.table import Rows, TablePredictor, kind_and_depth, pairs_of
from metamodel.features.examples import Seen


def statistic_columns(seen: Seen) -> Rows:
    assert seen.baseline_inputs is not None, f"{seen.id}: examples for baselines carry baseline_inputs"
    statistics = seen.baseline_inputs.weight_statistics.cpu().numpy().astype(np.float64)
    return np.concatenate([statistics, kind_and_depth(seen)], axis=1)


def statistic_pairs(seen: Seen) -> Rows:
    source, reader = np.nonzero(pairs_of(seen))
    nodes = statistic_columns(seen)
    return np.concatenate([nodes[source], nodes[reader]], axis=1)


def statistics() -> TablePredictor:
    return TablePredictor("statistics", nodes=statistic_columns, edges=statistic_pairs, learner=Boosting())
