"""Readers that learn from a table: a row for each component or pair, a learner for each column of answers.

What differs between them is which columns they see (`Design`) and how they learn one answer from them
(`Learner`); the rest, including the fall-back to the prior, is here once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from metamodel.baselines.algorithms import AlgorithmLearner
from metamodel.baselines.answers import AnswerLearner
from metamodel.baselines.base import Predictor
from metamodel.baselines.prior import Prior
from metamodel.circuits.graph import component_edges
from metamodel.features.examples import Example, Prediction, Seen
from metamodel.subjects.config import KINDS
from metamodel.triples.schema import MASKED, POSITIVE

Rows = Float[ndarray, "row column"]
Answer = Callable[[Rows], Float[ndarray, " row"]]
Design = Callable[[Seen], Rows]
MEMBERSHIP = -1
"""`Column.label` where circuit membership is asked instead of a function label."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One question with known answers: rows to learn from, rows to tune on."""

    x: Rows
    y: Float[ndarray, " row"]
    x_validation: Float[ndarray, "tuning column"]
    y_validation: Float[ndarray, " tuning"]
    label: int
    """Index of the function label, or MEMBERSHIP."""


@runtime_checkable
class Learner(Protocol):
    """How one answer is learned. None: nothing to say, so the prior answers."""

    def probability(self, column: Column) -> Answer | None: ...

    def value(self, column: Column) -> Answer | None: ...


def node_columns(seen: Seen) -> Rows:
    """The meta-model's node features, with kind and depth."""
    return np.concatenate([_numpy(seen.graph.nodes), kind_and_depth(seen)], axis=1)


def kind_and_depth(seen: Seen) -> Rows:
    kinds = np.eye(len(KINDS))[seen.graph.kinds.cpu().numpy()]
    return np.concatenate([kinds, _numpy(seen.graph.depth)[:, None]], axis=1)


def neighbourhood_columns(seen: Seen) -> Rows:
    """Node columns, plus maximum and mean of every edge channel in and out, plus the subject's means."""
    own, edges, exists = node_columns(seen), _numpy(seen.graph.edges), pairs_of(seen)
    beside = [own, np.repeat(_numpy(seen.graph.nodes).mean(0, keepdims=True), len(own), axis=0)]
    for axis in (0, 1):
        there = exists[:, :, None]
        count = np.maximum(there.sum(axis), 1)
        largest = np.where(there, edges, -np.inf).max(axis)
        beside += [(edges * there).sum(axis) / count, np.where(np.isfinite(largest), largest, 0.0)]
    return np.concatenate(beside, axis=1)


def edge_columns(seen: Seen) -> Rows:
    """For every pair of `pairs_of`: its edge channels and the features of both nodes."""
    source, reader = np.nonzero(pairs_of(seen))
    nodes = node_columns(seen)
    return np.concatenate([_numpy(seen.graph.edges)[source, reader], nodes[source], nodes[reader]], axis=1)


def pairs_of(seen: Seen) -> ndarray:
    """Which pairs `[node, node]` can be edges at all, known from the subject's shape."""
    edges = component_edges(seen.config)
    exists = np.zeros((len(edges.nodes), len(edges.nodes)), dtype=bool)
    exists[list(edges.source_node), list(edges.destination_node)] = True
    return exists


class TablePredictor(Predictor):
    """A learner for each function label, each function score, node membership and edge membership.

    Labels of which the training subjects show one class only, questions on which the learner has nothing to
    say, slice accuracy, and probes and algorithms where there is no learner of them, are answered by the
    prior.
    """

    def __init__(
        self,
        name: str,
        *,
        nodes: Design,
        edges: Design,
        learner: Learner,
        answers: AnswerLearner | None = None,
        algorithms: AlgorithmLearner | None = None,
    ):
        self._name, self._nodes, self._edges, self._learner = name, nodes, edges, learner
        self._learn_answers, self._learn_algorithm = answers, algorithms
        self._prior = Prior()

    @property
    def name(self) -> str:
        return self._name

    def fit(self, examples: Sequence[Example], validation: Sequence[Example]) -> None:
        self._prior.fit(examples, validation)
        learner = self._learner
        rows, tuning = _node_table(self._nodes, examples), _node_table(self._nodes, validation)
        pairs, tuning_pairs = _edge_table(self._edges, examples), _edge_table(self._edges, validation)
        assert rows is not None, "no training subjects"
        assert pairs is not None, "no training subjects"
        labels = range(rows.positive.shape[1])
        self._probability = [_learned(rows, tuning, "positive", i, learner.probability) for i in labels]
        self._score = [_learned(rows, tuning, "score", i, learner.value) for i in labels]
        self._member = _learned(rows, tuning, "member", MEMBERSHIP, learner.probability)
        self._edge = _learned(pairs, tuning_pairs, "member", MEMBERSHIP, learner.probability)
        learn = self._learn_answers
        self._answers = None if learn is None else learn(examples, validation)
        name = self._learn_algorithm
        self._algorithm = None if name is None else name(examples, validation)

    def predict(self, seen: Seen) -> Prediction:
        base, x = self._prior.predict(seen), self._nodes(seen)
        probability = _columns(base.function_probability, self._probability, x)
        score = _columns(base.function_score, self._score, x)
        member = _columns(base.node_member[:, None], [self._member], x)[:, 0]
        edges = base.edge_member
        if self._edge is not None:
            exists = torch.as_tensor(pairs_of(seen), device=edges.device)
            found = torch.as_tensor(self._edge(self._edges(seen)), dtype=edges.dtype, device=edges.device)
            edges = torch.zeros_like(edges).masked_scatter(exists, found)
        return replace(
            base,
            function_probability=probability,
            function_score=score,
            node_member=member,
            edge_member=edges,
            probe_answer=base.probe_answer if self._answers is None else self._answers(seen),
            algorithm=base.algorithm if self._algorithm is None else self._algorithm(seen),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Rows of several subjects with their true answers; NaN is unknown."""

    x: Rows
    positive: Float[ndarray, "row label"]
    score: Float[ndarray, "row label"]
    member: Float[ndarray, "row 1"]


def _node_table(design: Design, examples: Sequence[Example]) -> _Table | None:
    if not examples:
        return None
    truths = [truth for _, truth in examples]
    state = np.concatenate([_numpy(truth.function_state) for truth in truths])
    return _Table(
        x=np.concatenate([design(seen) for seen, _ in examples]),
        positive=np.where(state == MASKED, np.nan, state == POSITIVE),
        score=np.concatenate([_numpy(truth.function_score) for truth in truths]),
        member=np.concatenate([_numpy(truth.node_member) for truth in truths])[:, None],
    )


def _edge_table(design: Design, examples: Sequence[Example]) -> _Table | None:
    if not examples:
        return None
    member = np.concatenate([_numpy(truth.edge_member)[pairs_of(seen)] for seen, truth in examples])
    none = np.zeros((len(member), 0))
    x = np.concatenate([design(seen) for seen, _ in examples])
    return _Table(x=x, positive=none, score=none, member=member[:, None])


def _learned(
    rows: _Table,
    tuning: _Table | None,
    question: Literal["positive", "score", "member"],
    label: int,
    learn: Callable[[Column], Answer | None],
) -> Answer | None:
    """What is learned of one column of answers; None where training subjects show one answer only."""
    y = getattr(rows, question)[:, label]
    known = ~np.isnan(y)
    if len(np.unique(y[known])) < 2:
        return None
    y_tuning = np.zeros(0) if tuning is None else getattr(tuning, question)[:, label]
    known_tuning = ~np.isnan(y_tuning)
    column = Column(
        x=rows.x[known],
        y=y[known],
        x_validation=rows.x[:0] if tuning is None else tuning.x[known_tuning],
        y_validation=y_tuning[known_tuning],
        label=label,
    )
    return learn(column)


def _columns(base: torch.Tensor, answers: Sequence[Answer | None], x: Rows) -> torch.Tensor:
    """`base` with every column replaced for which there is an answer; NaN entries keep the base."""
    found = base.clone()
    for label, answer in enumerate(answers):
        if answer is not None:
            values = torch.as_tensor(answer(x), dtype=base.dtype, device=base.device)
            found[:, label] = torch.where(values.isnan(), base[:, label], values)
    return found


def _numpy(tensor: torch.Tensor) -> ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
