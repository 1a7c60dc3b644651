"""How opponents name the algorithm of a subject: from the meta-model's node features, pooled over components.

Columns are mean and maximum of every feature over heads and over MLPs, and the subject's shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from metamodel.features.algorithms import algorithm_in, algorithm_names
from metamodel.features.examples import Example, Seen
from metamodel.subjects.config import KINDS

NameAlgorithm = Callable[[Seen], str]
AlgorithmLearner = Callable[[Sequence[Example], Sequence[Example]], NameAlgorithm | None]
"""Learns from examples, tuned on validation. None: training subjects show one answer only."""
Rows = Float[ndarray, "row column"]
NEIGHBOURS = (1, 3, 5)
PENALTIES = (10.0, 1.0, 100.0)
"""Inverse of scikit-learn's C, chosen on validation; the first where it does not tell."""
TREES = (40, 10, 20)
BOOSTED: dict[str, Any] = {
    "max_leaf_nodes": 8,
    "min_samples_leaf": 3,
    "early_stopping": False,
    "random_state": 0,
}
CLIP = 8.0
"""Standard deviations beyond which a column is cut: ratios have long tails."""


def subject_columns(seen: Seen) -> Float[ndarray, " column"]:
    """One row that describes the whole subject."""
    nodes = seen.graph.nodes.detach().cpu().numpy().astype(np.float64)
    kinds = seen.graph.kinds.cpu().numpy()
    pooled = []
    for kind in ("head", "mlp"):
        own = nodes[kinds == KINDS.index(kind)]
        own = own if len(own) else np.zeros((1, nodes.shape[1]))
        pooled += [own.mean(0), own.max(0)]
    return np.concatenate([*pooled, [seen.config.n_layers, seen.config.n_heads]])


def nearest_algorithm(examples: Sequence[Example], validation: Sequence[Example]) -> NameAlgorithm | None:
    """What most of the nearest subjects run; how many of them is chosen on validation."""

    def fit(rows: Rows, names: ndarray, k: int) -> Any:
        return KNeighborsClassifier(min(k, len(rows)), weights="distance").fit(rows, names)

    return _tuned(examples, validation, NEIGHBOURS, fit)


def linear_algorithm(examples: Sequence[Example], validation: Sequence[Example]) -> NameAlgorithm | None:
    """Multinomial logistic regression, its ridge chosen on validation."""

    def fit(rows: Rows, names: ndarray, penalty: float) -> Any:
        return LogisticRegression(C=1 / penalty, max_iter=500, tol=1e-3).fit(rows, names)

    return _tuned(examples, validation, PENALTIES, fit)


def boosted_algorithm(examples: Sequence[Example], validation: Sequence[Example]) -> NameAlgorithm | None:
    """Boosted trees, their number chosen on validation."""

    def fit(rows: Rows, names: ndarray, trees: int) -> Any:
        return HistGradientBoostingClassifier(max_iter=trees, **BOOSTED).fit(rows, names)

    return _tuned(examples, validation, TREES, fit)


def _tuned(
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: Sequence[Any],
    fit: Callable[[Rows, ndarray, Any], Any],
) -> NameAlgorithm | None:
    """The fit that names most validation subjects right; the first setting where it does not tell."""
    names = algorithm_names(truth for _, truth in examples)
    x, y = _table(examples, names)
    if len(np.unique(y)) < 2:
        return None
    scaler = StandardScaler().fit(x)

    def scaled(rows: Rows) -> Rows:
        return np.clip(scaler.transform(rows), -CLIP, CLIP)

    x_validation, y_validation = _table(validation, names)
    fits = [fit(scaled(x), y, setting) for setting in settings]
    right = [(one.predict(scaled(x_validation)) == y_validation).mean() for one in fits if len(y_validation)]
    best = fits[int(np.argmax(right)) if right else 0]
    return lambda seen: str(best.predict(scaled(subject_columns(seen)[None]))[0])


def _table(examples: Sequence[Example], names: Sequence[str]) -> tuple[Rows, ndarray]:
    """Rows and right answers of those subjects whose circuit is known."""
    known = [(seen, name) for seen, truth in examples if (name := algorithm_in(truth, names))]
    rows = [subject_columns(seen) for seen, _ in known]
    return np.stack(rows) if rows else np.zeros((0, 0)), np.array([name for _, name in known], dtype=str)
