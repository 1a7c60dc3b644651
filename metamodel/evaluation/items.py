"""The truths of one split, laid end to end, and which labels its averages count."""

from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from metamodel.features.algorithms import algorithm_in
from metamodel.features.examples import Example, Prediction
from metamodel.triples.schema import MASKED, POSITIVE

LEAST_POSITIVES = 5
"""Positive components that a label needs in a split to count in its averages: with one or two, average
precision is a coin toss that moves a mean over a dozen labels by a twelfth."""
LEAST_LINEAGES = 3
"""Lineages that they must come from: copies of one network are one piece of evidence."""


class Items:
    """Components, pairs, probes and slices of a split, with the lineage that each belongs to."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        labels: Sequence[str],
        determined: Collection[str] = (),
        algorithms: Sequence[str] = (),
    ):
        self.labels = tuple(labels)
        self.truths = [truth for _, truth in examples]
        names = sorted({truth.lineage for truth in self.truths})
        self.n_lineages = len(names)
        lineage = [names.index(truth.lineage) for truth in self.truths]
        self.of_subject = np.array(lineage, dtype=np.int64)
        n_nodes = [truth.node_member.shape[0] for truth in self.truths]
        self.of_node = np.repeat(lineage, n_nodes)
        self.subject = np.repeat(np.arange(len(examples)), n_nodes)
        self.kind = joined([seen.graph.kinds for seen, _ in examples])
        self.of_edge = np.repeat(lineage, [int(truth.edge_exists.sum()) for truth in self.truths])
        self.of_probe = np.repeat(lineage, [len(truth.probe_answer) for truth in self.truths])
        self.of_slice = np.repeat(lineage, [len(truth.slice_accuracy) for truth in self.truths])
        self.state = joined([truth.function_state for truth in self.truths])
        self.score = joined([truth.function_score for truth in self.truths])
        self.algorithm = [algorithm_in(truth, algorithms) for truth in self.truths]
        """The right answer of each subject; empty where it is not known."""
        self.undetermined = np.array([label not in determined for label in labels], dtype=bool)
        self.counted = tuple(
            label
            for i, label in enumerate(labels)
            if self.undetermined[i] and self._is_frequent(self.state[:, i] == POSITIVE)
        )
        """Labels that averages count, alike for every method and resample."""
        self.shared = [
            (i, j)
            for i, j in combinations(range(len(self.truths)), 2)
            if self.truths[i].subject and self.truths[i].subject == self.truths[j].subject
        ]
        """Pairs of examples of one subject on two tasks."""

    def _is_frequent(self, positive: Bool[ndarray, " node"]) -> bool:
        n_lineages = len(np.unique(self.of_node[positive]))
        return int(positive.sum()) >= LEAST_POSITIVES and n_lineages >= LEAST_LINEAGES

    def said(
        self, predictions: Sequence[Prediction]
    ) -> tuple[Bool[ndarray, " item"], Float[ndarray, " item"], Int[ndarray, " item"]]:
        """Truth, probability and lineage of every (component, label) that the track does not determine.

        Rare labels are among them: here items are pooled, and no label weighs more than its components.
        """
        known = (self.state != MASKED) & self.undetermined
        probability = joined([p.function_probability for p in predictions]).astype(np.float64)
        lineage = np.broadcast_to(self.of_node[:, None], known.shape)
        return self.state[known] == POSITIVE, probability[known], lineage[known]


def joined(tensors: Sequence[Tensor]) -> ndarray:
    return np.concatenate([tensor.detach().cpu().numpy() for tensor in tensors])
