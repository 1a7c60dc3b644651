"""Scores the meta-model beside every opponent on every held-out split, with intervals over lineages."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from torch import Tensor

from metamodel.baselines import META_MODEL, MetaModel, Predictor, opponents
from metamodel.config.errors import require
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.metrics import Curve, Measure
from metamodel.evaluation.report import Report
from metamodel.features.examples import Example, Prediction, Seen
from metamodel.triples.schema import MASKED, POSITIVE

"""Mean probability, frequency, count of each bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A report, and the reliability curves that its figure shows."""

    report: Report
    reliability: Mapping[str, Mapping[str, Curve]]
    """split -> method -> curve."""


def evaluate(
    answer: Callable[[Seen], Prediction],
    *,
    train: Sequence[Example],
    validation: Sequence[Example],
    tests: Mapping[str, Sequence[Example]],
    labels: Sequence[str],
    determined: Collection[str],
    command: str,
    zoo: str,
    seed: int = 0,
    readers: Sequence[Predictor] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Fits the opponents on `train`, tunes them on `validation`, and scores all methods on `tests`.

    Args:
        answer: what the trained meta-model says of one subject.
        tests: examples of each split, none of which was trained on.
        labels: names, in the order of every `label` axis.
        determined: labels that the track determines by a formula; reported, outside macro averages.
        seed: draws the resamples.
        readers: opponents; all of `baselines.opponents()` by default.
        progress: told which method is at work.

    Raises: InputError on an empty split, or if no label has a positive.
    """
    _check(train, tests, labels)
    methods = (MetaModel(answer), *(opponents() if readers is None else readers))
    for method in methods[1:]:
        progress(f"fitting {method.name}")
        method.fit(train, validation)
    scores, differences, curves = {}, {}, {}
    for split, examples in tests.items():
        progress(f"scoring {split}")
        items = Items(examples)
        measured: dict[str, dict[str, Measure]] = {}
        curves[split] = {}
        for method in methods:
            predictions = [method.predict(seen) for seen, _ in examples]
            for name, measure in measures_of(items, predictions, labels, determined).items():
                measured.setdefault(name, {})[method.name] = measure
            curves[split][method.name] = items.reliability(predictions, labels, determined)
        right = [
            float(hit) for t in items.truths for hit in (t.probe_right_answer == t.probe_answer).tolist()
        ]
        measured["behavior_accuracy"]["right_answer"] = metrics.mean(
            np.array(right), items.of_probe, items.n_lineages
        )
        weights = resampled_weights(items.n_lineages, seed=seed)
        scores[split] = {
            name: {method: interval(measure, weights) for method, measure in found.items()}
            for name, found in measured.items()
        }
        differences[split] = {
            name: {
                method: paired_difference(found[META_MODEL], measure, weights)
                for method, measure in found.items()
                if method != META_MODEL
            }
            for name, found in measured.items()
        }
    report = Report(command=command, zoo=zoo, scores=scores, differences=differences)
    return Evaluation(report=report, reliability=curves)


class Items:
    """The truths of a split, laid end to end, with the lineage that each item belongs to."""

    def __init__(self, examples: Sequence[Example]):
        self.truths = [truth for _, truth in examples]
        names = sorted({truth.lineage for truth in self.truths})
        self.n_lineages = len(names)
        lineage = [names.index(truth.lineage) for truth in self.truths]
        n_nodes = [truth.node_member.shape[0] for truth in self.truths]
        self.of_node = np.repeat(lineage, n_nodes)
        self.subject = np.repeat(np.arange(len(examples)), n_nodes)
        self.of_edge = np.repeat(lineage, [int(truth.edge_exists.sum()) for truth in self.truths])
        self.of_probe = np.repeat(lineage, [len(truth.probe_answer) for truth in self.truths])
        self.of_slice = np.repeat(lineage, [len(truth.slice_accuracy) for truth in self.truths])
        self.state = _joined([truth.function_state for truth in self.truths])
        self.score = _joined([truth.function_score for truth in self.truths])

    def reliability(
        self, predictions: Sequence[Prediction], labels: Sequence[str], determined: Collection[str]
    ) -> Curve:
        truth, probability, _ = self.calibration(predictions, labels, determined)
        return metrics.reliability(truth, probability)

    def calibration(
        self, predictions: Sequence[Prediction], labels: Sequence[str], determined: Collection[str]
    ) -> tuple[ndarray, ndarray, ndarray]:
        """Truth, probability and lineage of every (component, label) that counts in macro averages."""
        counted = np.array([label not in determined for label in labels])
        known = (self.state != MASKED) & counted
        probability = _joined([p.function_probability for p in predictions]).astype(np.float64)
        lineage = np.broadcast_to(self.of_node[:, None], known.shape)
        return self.state[known] == POSITIVE, probability[known], lineage[known]


def measures_of(
    items: Items, predictions: Sequence[Prediction], labels: Sequence[str], determined: Collection[str]
) -> dict[str, Measure]:
    """Every metric of one method on one split, in the order of reports.

    `pattern_only` components count as negative, masked ones not at all.
    """
    n = items.n_lineages
    probability = _joined([p.function_probability for p in predictions]).astype(np.float64)
    value = _joined([p.function_score for p in predictions]).astype(np.float64)
    precision: dict[str, Measure] = {}
    within: dict[str, Measure] = {}
    tau: dict[str, Measure] = {}
    for i, label in enumerate(labels):
        known = items.state[:, i] != MASKED
        truth, said, lineage = items.state[known, i] == POSITIVE, probability[known, i], items.of_node[known]
        precision[label] = metrics.average_precision(truth, said, lineage, n)
        within[label] = metrics.within_subject_average_precision(
            truth, said, lineage, items.subject[known], n
        )
        scored = known & np.isfinite(items.score[:, i])
        true_score = items.score[scored, i].astype(np.float64)
        tau[label] = metrics.kendall_tau(true_score, value[scored, i], items.of_node[scored], n)
    counted = [label for label in labels if label not in determined]

    def macro(found: Mapping[str, Measure]) -> Measure:
        return metrics.macro([found[label] for label in counted])

    exists = [t.edge_exists for t in items.truths]
    edge_truth = _joined([t.edge_member[e] for t, e in zip(items.truths, exists, strict=True)])
    edge_said = _joined([p.edge_member[e] for p, e in zip(predictions, exists, strict=True)])
    node_truth = _joined([t.node_member for t in items.truths])
    node_said = _joined([p.node_member for p in predictions]).astype(np.float64)
    accuracy = _joined([t.slice_accuracy for t in items.truths]).astype(np.float64)
    told = _joined([p.slice_accuracy for p in predictions])
    answers = _joined([t.probe_answer for t in items.truths])
    hit = (_joined([p.probe_answer for p in predictions]) == answers).astype(np.float64)
    return {
        "average_precision": macro(precision),
        **{f"average_precision/{label}": measure for label, measure in precision.items()},
        "average_precision/circuit_node": metrics.average_precision(node_truth, node_said, items.of_node, n),
        "average_precision/circuit_edge": metrics.average_precision(
            edge_truth, edge_said.astype(np.float64), items.of_edge, n
        ),
        "within_subject_average_precision": macro(within),
        "kendall_tau": macro(tau),
        "calibration_error": metrics.calibration_error(
            *items.calibration(predictions, labels, determined), n
        ),
        "behavior_accuracy": metrics.mean(hit, items.of_probe, n),
        "slice_accuracy_error": metrics.mean(np.abs(accuracy - told), items.of_slice, n),
    }


def _joined(tensors: Sequence[Tensor]) -> ndarray:
    return np.concatenate([tensor.detach().cpu().numpy() for tensor in tensors])


def _check(train: Sequence[Example], tests: Mapping[str, Sequence[Example]], labels: Sequence[str]) -> None:
    for split, examples in {"train": train, **tests}.items():
        require(
            len(examples) > 0,
            f"split {split}",
            expected="at least one subject",
            got="none",
            do="Build a zoo that holds some, or choose another split.",
        )
        for seen, truth in examples:
            require(
                truth.function_state.shape[1] == len(labels),
                f"{seen.id}: labels",
                expected=f"{len(labels)} ({', '.join(labels)})",
                got=truth.function_state.shape[1],
                do="Use a zoo with the labels that the checkpoint was trained on.",
            )
    for where, groups in (("train", [train]), (", ".join(tests), list(tests.values()))):
        require(
            any((t.function_state == POSITIVE).any() for examples in groups for _, t in examples),
            f"labels on {where}",
            expected="a label with positives",
            got="none",
            do="Build more subjects, or subjects that learned their task.",
        )
