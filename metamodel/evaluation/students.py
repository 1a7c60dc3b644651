"""What students have become, by exact edges on prompts that were held out, never by the loss they learnt by.

    circuit_distance   rounded circuit loss at τ = 0.5 between the student's circuit and its teacher's
    transplant         TR of the components that this map matches (`metamodel.analogy.transplant`)
    accuracy           on the task

Each arm is compared with plain training of the same start on the same prompts, over lineages of teachers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.graph import edge_matrix, normalised
from metamodel.analogy.transplant import pooled, transplant
from metamodel.circuits.exact import Exact
from metamodel.circuits.metrics import accuracy
from metamodel.circuits.prompts import Prompts
from metamodel.evaluation.bootstrap import Interval, interval, paired_difference, resampled_weights
from metamodel.evaluation.metrics import mean
from metamodel.losses.circuit import circuit_distance, rounded_map
from metamodel.subjects.config import KINDS, SubjectConfig, kind_indices
from metamodel.subjects.subject import Subject
from metamodel.triples.student_store import StudentPair, StudentZoo

METRICS = ("circuit_distance", "transplant", "accuracy")
PLAIN, CKA = "plain", "cka"
N_EXACT = 64
"""Pairs of prompts of the exact sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentScores:
    """Of each arm, over all pairs."""

    values: Mapping[str, Mapping[str, Interval]]
    """metric -> arm -> value."""
    against_plain: Mapping[str, Mapping[str, Interval]]
    """metric -> arm -> arm minus plain, paired."""
    against_cka: Mapping[str, Mapping[str, Interval]]
    """The same, minus CKA distillation; no arms where that is none of them."""
    raw: Mapping[str, Mapping[str, Mapping[str, float]]]
    """metric -> arm -> pair -> value."""


def student_scores(
    zoo: StudentZoo, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> StudentScores:
    """Measures all students of a zoo.

    Args:
        seed: of the bootstrap over lineages of teachers.
        progress: called with (pairs done, pairs in all).
    """
    measured = []
    for i, pair in enumerate(zoo.pairs):
        measured.append(measured_pair(pair))
        if progress is not None:
            progress(i + 1, len(zoo.pairs))
    arms = list(zoo.pairs[0].students)
    raw = {
        metric: {
            arm: {pair.name: found[arm][metric] for pair, found in zip(zoo.pairs, measured, strict=True)}
            for arm in arms
        }
        for metric in METRICS
    }
    return summary(raw, [pair.lineage for pair in zoo.pairs], seed=seed)


def summary(
    raw: Mapping[str, Mapping[str, Mapping[str, float]]], lineages: Sequence[str], *, seed: int = 0
) -> StudentScores:
    """Means with intervals, and paired differences to plain training."""
    known = sorted(set(lineages))
    lineage = np.array([known.index(one) for one in lineages])
    weights = resampled_weights(len(known), seed=seed)

    def measure(values: Mapping[str, float]):
        return mean(np.array(list(values.values()), dtype=np.float64), lineage, len(known))

    def against(other: str) -> dict[str, dict[str, Interval]]:
        return {
            metric: {
                arm: paired_difference(measure(found), measure(by_arm[other]), weights)
                for arm, found in by_arm.items()
                if arm != other and other in by_arm
            }
            for metric, by_arm in raw.items()
        }

    return StudentScores(
        values={
            metric: {arm: interval(measure(found), weights) for arm, found in by_arm.items()}
            for metric, by_arm in raw.items()
        },
        against_plain=against(PLAIN),
        against_cka=against(CKA),
        raw=raw,
    )


def measured_pair(pair: StudentPair) -> dict[str, dict[str, float]]:
    """arm -> metric -> value."""
    some = pair.prompts.where(torch.arange(min(N_EXACT, len(pair.prompts))))
    goal, goal_kinds = exact_edges(pair.teacher, some), _kinds(pair.teacher.config)
    found = {}
    for arm, student in pair.students.items():
        own, kinds = exact_edges(student, some), (goal_kinds, _kinds(student.config))
        counterpart = rounded_map(goal, own, tau=0.5, kinds=kinds)
        inner = (goal_kinds == KINDS.index("head")) | (goal_kinds == KINDS.index("mlp"))
        rows = ((counterpart >= 0) & inner).nonzero().squeeze(1)
        pairs = torch.stack([rows, counterpart[rows]], 1)
        carried = transplant(
            pair.teacher,
            student,
            pairs,
            pair.prompts.clean,
            pair.prompts.clean.roll(-1, 0),
            pair.prompts.position,
            probes=pair.probes,
        )
        found[arm] = {
            "circuit_distance": float(circuit_distance(goal, own, tau=0.5, kinds=kinds)),
            "transplant": pooled(carried),
            "accuracy": _accuracy(student, pair.prompts),
        }
    return found


def exact_edges(subject: Subject, prompts: Prompts) -> Float[Tensor, "channel node node2"]:
    """The circuit by patching each edge alone, of norm 1."""
    return normalised(edge_matrix(subject.config, Exact().score(subject, prompts).value))


def _accuracy(subject: Subject, prompts: Prompts) -> float:
    with torch.no_grad():
        logits = subject.run(prompts.clean).logits[0, torch.arange(len(prompts)), prompts.position]
    return float(accuracy(logits, prompts.answer))


def _kinds(config: SubjectConfig) -> Tensor:
    return torch.tensor(kind_indices(config))
