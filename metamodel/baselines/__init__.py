"""Opponents of the meta-model, all behind one interface. To add one, write its file and list it here."""

from metamodel.baselines.base import META_MODEL, MetaModel, Predictor
from metamodel.baselines.boosted_trees import boosted_trees
from metamodel.baselines.detect_head import detect_head
from metamodel.baselines.logistic import logistic
from metamodel.baselines.nearest import nearest
from metamodel.baselines.neuron_graph import neuron_graph
from metamodel.baselines.prior import Prior
from metamodel.baselines.probegen import probegen
from metamodel.baselines.single_feature import best_single_feature
from metamodel.baselines.statistics import statistics
from metamodel.baselines.token_space import token_space
from metamodel.baselines.transformer_nfn import transformer_nfn
from metamodel.config.words import Track
from metamodel.features.examples import Example

__all__ = ["META_MODEL", "Example", "MetaModel", "Predictor", "opponents"]


def opponents(track: Track | None = None) -> tuple[Predictor, ...]:
    """One of each baseline, not fitted yet, in the order of reports.

    Args:
        track: what the meta-model looks at. Beside a reader of weights stands no opponent that learns from
            running the subject; None: all of them.
    """
    runs = () if track == "weights" else (probegen(),)
    return (
        Prior(),
        best_single_feature(),
        nearest(),
        logistic(),
        boosted_trees(),
        statistics(),
        token_space(),
        transformer_nfn(),
        neuron_graph(),
        *runs,
        detect_head(),
    )
