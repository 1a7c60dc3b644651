"""Every metric of one method on one split, under the names of reports."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from metamodel.evaluation import metrics
from metamodel.evaluation.abstention import abstention_area, risk
from metamodel.evaluation.items import Items, joined
from metamodel.evaluation.metrics import Measure
from metamodel.features.examples import Prediction
from metamodel.triples.schema import MASKED, POSITIVE

PRECISION = "average_precision/"
"""Before the name of a label."""
CIRCUIT = "circuit_average_precision/"
"""Before `node` and `edge`."""
UNMEASURED = ("algorithm_top1", "behavior_accuracy", "slice_accuracy_error")
"""Metrics that have no noise ceiling, since they are no measurements that other prompts would change."""


def measures_of(items: Items, predictions: Sequence[Prediction]) -> dict[str, Measure]:
    """Every metric of one method, in the order of reports.

    `pattern_only` components count as negative, masked ones not at all.
    """
    n = items.n_lineages
    probability = joined([p.function_probability for p in predictions]).astype(np.float64)
    value = joined([p.function_score for p in predictions]).astype(np.float64)
    within: dict[str, Measure] = {}
    tau: dict[str, Measure] = {}
    for i, label in enumerate(items.labels):
        known = items.state[:, i] != MASKED
        within[label] = metrics.within_subject_average_precision(
            items.state[known, i] == POSITIVE,
            probability[known, i],
            items.of_node[known],
            items.subject[known],
            n,
        )
        scored = known & np.isfinite(items.score[:, i])
        true_score = items.score[scored, i].astype(np.float64)
        tau[label] = metrics.kendall_tau(true_score, value[scored, i], items.of_node[scored], n)
    said, circuit = items.said(predictions), _circuit(items, predictions)
    return {
        **precision(items, items.state, probability),
        "within_subject_average_precision": _macro(items, within),
        "kendall_tau": _macro(items, tau),
        "calibration_error": metrics.calibration_error(*said, n),
        "abstention_area": abstention_area(risk(*said, n)),
        "circuit_average_precision": metrics.macro(list(circuit.values())),
        **{f"{CIRCUIT}{name}": measure for name, measure in circuit.items()},
        "shared_average_precision": _shared(items, predictions),
        "algorithm_top1": _algorithm(items, predictions),
        **_behavior(items, predictions),
    }


def precision(
    items: Items, state: Int[ndarray, "node label"], probability: Float[ndarray, "node label"]
) -> dict[str, Measure]:
    """Average precision, macro over the labels that count, and of every label.

    Args:
        state: those of the split, or other ones in their place.
    """
    found: dict[str, Measure] = {}
    for i, label in enumerate(items.labels):
        known = state[:, i] != MASKED
        found[label] = metrics.average_precision(
            state[known, i] == POSITIVE, probability[known, i], items.of_node[known], items.n_lineages
        )
    return {
        "average_precision": _macro(items, found),
        **{f"{PRECISION}{label}": measure for label, measure in found.items()},
    }


def _macro(items: Items, of_label: Mapping[str, Measure]) -> Measure:
    return metrics.macro([of_label[label] for label in items.counted])


def _circuit(items: Items, predictions: Sequence[Prediction]) -> dict[str, Measure]:
    exists = [truth.edge_exists for truth in items.truths]
    edges = joined([t.edge_member[e] for t, e in zip(items.truths, exists, strict=True)])
    said = joined([p.edge_member[e] for p, e in zip(predictions, exists, strict=True)]).astype(np.float64)
    nodes = joined([truth.node_member for truth in items.truths])
    said_nodes = joined([p.node_member for p in predictions]).astype(np.float64)
    return {
        "node": metrics.average_precision(nodes, said_nodes, items.of_node, items.n_lineages),
        "edge": metrics.average_precision(edges, said, items.of_edge, items.n_lineages),
    }


def _shared(items: Items, predictions: Sequence[Prediction]) -> Measure:
    """Components in the circuits of two behaviors of one subject, told by the product of both answers."""
    truth, said, lineage = [np.zeros(0, dtype=bool)], [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for i, j in items.shared:
        truth.append((items.truths[i].node_member & items.truths[j].node_member).cpu().numpy())
        both = predictions[i].node_member.double() * predictions[j].node_member.double()
        said.append(both.detach().cpu().numpy())
        lineage.append(np.full(len(both), items.of_subject[i]))
    return metrics.average_precision(
        np.concatenate(truth), np.concatenate(said), np.concatenate(lineage), items.n_lineages
    )


def _algorithm(items: Items, predictions: Sequence[Prediction]) -> Measure:
    """How often the program is named right, among subjects whose circuit is known."""
    hits = [
        float(said.algorithm == right) if right else np.nan
        for said, right in zip(predictions, items.algorithm, strict=True)
    ]
    return metrics.mean(np.array(hits), items.of_subject, items.n_lineages)


def _behavior(items: Items, predictions: Sequence[Prediction]) -> dict[str, Measure]:
    accuracy = joined([t.slice_accuracy for t in items.truths]).astype(np.float64)
    told = joined([p.slice_accuracy for p in predictions])
    answers = joined([t.probe_answer for t in items.truths])
    hit = (joined([p.probe_answer for p in predictions]) == answers).astype(np.float64)
    return {
        "behavior_accuracy": metrics.mean(hit, items.of_probe, items.n_lineages),
        "slice_accuracy_error": metrics.mean(np.abs(accuracy - told), items.of_slice, items.n_lineages),
    }
