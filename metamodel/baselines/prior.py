"""The baseline `prior`: what is usual for this task at this depth, without looking at the subject.

A reader that has merely recognised the task knows what this knows.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy import ndarray

from metamodel.baselines.base import Predictor
from metamodel.features.algorithms import algorithm_in, algorithm_names
from metamodel.features.examples import NONE_OF_THESE, Example, Prediction, Seen
from metamodel.subjects.config import KINDS
from metamodel.triples.schema import MASKED, POSITIVE

T = TypeVar("T", int, str)
N_DEPTH_BINS = 4
Keys = tuple[Hashable, ...]
"""From the narrowest circumstance to the widest, which is `()`."""


class BackoffMeans:
    """Means of vectors by circumstance; a rare circumstance leans on the next wider one.

    A mean counts the wider circumstance's mean as one more observation (additive smoothing), so that a
    frequency of 0 or 1 is never claimed, and an unseen circumstance falls back to it entirely.
    """

    def __init__(self, width: int, start: float):
        self._sum: dict[Hashable, ndarray] = defaultdict(lambda: np.zeros(width))
        self._count: dict[Hashable, ndarray] = defaultdict(lambda: np.zeros(width))
        self._start = np.full(width, start)

    def add(self, keys: Keys, values: ndarray) -> None:
        """Counts one observation; NaN entries are unknown."""
        known = ~np.isnan(values)
        for key in keys:
            self._sum[key] += np.where(known, values, 0.0)
            self._count[key] += known

    def mean(self, keys: Keys) -> ndarray:
        found = self._start
        for key in reversed(keys):
            if key in self._count:
                found = (self._sum[key] + found) / (self._count[key] + 1)
        return found


class Prior(Predictor):
    """Frequencies by (family, variant) x depth bin x kind, backing off to family, then to depth and kind.

    Behavior: the most frequent answer and the mean accuracy of (family, variant, slice), with the same
    back-off. The only reader that is told the task. Algorithm: the most frequent one of the subject's shape
    (layers, heads), since the family would be the answer.
    """

    @property
    def name(self) -> str:
        return "prior"

    def fit(self, examples: Sequence[Example], validation: Sequence[Example]) -> None:
        n_labels = examples[0][1].function_state.shape[1]
        self._positive = BackoffMeans(n_labels, 0.5)
        self._score = BackoffMeans(n_labels, 0.0)
        self._member = BackoffMeans(1, 0.5)
        self._edge = BackoffMeans(1, 0.5)
        self._accuracy = BackoffMeans(1, 0.5)
        self._answers: dict[Hashable, Counter[int]] = defaultdict(Counter)
        self._algorithms: dict[Hashable, Counter[str]] = defaultdict(Counter)
        names = algorithm_names(truth for _, truth in examples)
        for seen, truth in examples:
            state = truth.function_state.cpu().numpy()
            positive = np.where(state == MASKED, np.nan, state == POSITIVE)
            score = truth.function_score.double().cpu().numpy()
            member = truth.node_member.double().cpu().numpy()
            places = _places(seen)
            for node, place in enumerate(places):
                keys = _node_keys(seen, place)
                self._positive.add(keys, positive[node])
                self._score.add(keys, score[node])
                self._member.add(keys, member[node : node + 1])
            edges = truth.edge_member.double().cpu().numpy()
            for source, reader in truth.edge_exists.nonzero().tolist():
                keys = _node_keys(seen, (*places[source], *places[reader]))
                self._edge.add(keys, edges[source, reader : reader + 1])
            for name, accuracy in zip(seen.slice_names, truth.slice_accuracy.tolist(), strict=True):
                self._accuracy.add(_slice_keys(seen, name), np.array([accuracy]))
            for answer, part in zip(truth.probe_answer.tolist(), seen.probe_slice.tolist(), strict=True):
                for key in _slice_keys(seen, seen.slice_names[part]):
                    self._answers[key][answer] += 1
            if algorithm := algorithm_in(truth, names):
                for key in _shape_keys(seen):
                    self._algorithms[key][algorithm] += 1

    def predict(self, seen: Seen) -> Prediction:
        places = _places(seen)
        keys = [_node_keys(seen, place) for place in places]
        of_pair = {
            (a, b): self._edge.mean(_node_keys(seen, (*a, *b)))[0] for a in set(places) for b in set(places)
        }
        edges = np.array([[of_pair[a, b] for b in places] for a in places])
        accuracy = [self._accuracy.mean(_slice_keys(seen, name))[0] for name in seen.slice_names]
        answers = [self._answer(seen, part) for part in seen.probe_slice.tolist()]

        def tensor(values: ndarray) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=seen.graph.nodes.device)

        return Prediction(
            function_probability=tensor(np.stack([self._positive.mean(k) for k in keys])),
            function_score=tensor(np.stack([self._score.mean(k) for k in keys])),
            node_member=tensor(np.array([self._member.mean(k)[0] for k in keys])),
            edge_member=tensor(edges),
            slice_accuracy=tensor(np.array(accuracy)),
            probe_answer=torch.tensor(answers, dtype=torch.int64, device=seen.graph.nodes.device),
            algorithm=_most_frequent(self._algorithms, _shape_keys(seen), NONE_OF_THESE),
        )

    def _answer(self, seen: Seen, part: int) -> int:
        return _most_frequent(self._answers, _slice_keys(seen, seen.slice_names[part]), 0)


def _most_frequent(counts: Mapping[Hashable, Counter[T]], keys: Keys, otherwise: T) -> T:
    """The most frequent value of the narrowest circumstance that was met."""
    for key in keys:
        if counts.get(key):
            # of equally frequent values the smallest, so that the order of examples does not matter
            return min(counts[key].items(), key=lambda item: (-item[1], item[0]))[0]
    return otherwise


def _places(seen: Seen) -> list[tuple[str, int]]:
    """Kind and depth bin of every node."""
    bins = (seen.graph.depth * N_DEPTH_BINS).long().clamp(0, N_DEPTH_BINS - 1).tolist()
    return [(KINDS[kind], at) for kind, at in zip(seen.graph.kinds.tolist(), bins, strict=True)]


def _node_keys(seen: Seen, place: tuple[Hashable, ...]) -> Keys:
    task = (seen.family, seen.variant)
    return ((*task, *place), (seen.family, "", *place), ("", "", *place), ("", "", *place[::2]), ())


def _shape_keys(seen: Seen) -> Keys:
    return ((seen.config.n_layers, seen.config.n_heads), ())


def _slice_keys(seen: Seen, name: str) -> Keys:
    return ((seen.family, seen.variant, name), (seen.family, "", name), ("", "", name), ())
