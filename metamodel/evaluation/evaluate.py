"""Scores the meta-model beside every opponent on every held-out split, with intervals over lineages."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metamodel.baselines import META_MODEL, MetaModel, Predictor, opponents
from metamodel.config.errors import require
from metamodel.evaluation import metrics
from metamodel.evaluation.abstention import COVERAGES, risk
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.ceiling import Ceiling
from metamodel.evaluation.controls import N_RESAMPLES, shuffled_labels
from metamodel.evaluation.items import Items
from metamodel.evaluation.k_shot import k_shot
from metamodel.evaluation.measures import UNMEASURED, measures_of
from metamodel.evaluation.metrics import Curve, Measure
from metamodel.evaluation.report import NOISE_CEILING, RIGHT_ANSWER, SHUFFLED_LABELS, Report
from metamodel.features.algorithms import algorithm_names
from metamodel.features.examples import Example, Prediction, Seen
from metamodel.training.companions import ALONE, Companions, on_track
from metamodel.triples.schema import POSITIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A report, and the curves that its figure shows: split -> method -> curve."""

    report: Report
    reliability: Mapping[str, Mapping[str, Curve]]
    abstention: Mapping[str, Mapping[str, tuple[float, ...]]]
    """Error rate at each of `abstention.COVERAGES`."""


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
    ceiling: Ceiling | None = None,
    beside: Companions = ALONE,
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
        ceiling: what other measurements say of all subjects of `tests`; None where there are none.
        beside: readers of other tracks and without some functions, scored beside the main one.
        progress: told which method is at work.

    Raises: InputError on an empty split, or if no label has a positive.
    """
    _check(train, tests, labels)
    ours = (MetaModel(answer), *(MetaModel(on_track(one), track) for track, one in beside.tracks.items()))
    against = tuple(opponents() if readers is None else readers)
    methods = (*ours, *against)
    for method in against:
        progress(f"fitting {method.name}")
        method.fit(train, validation)
    algorithms = algorithm_names(truth for _, truth in train)
    scores, differences, counted = {}, {}, {}
    reliability, abstention = {}, {}
    for split, examples in tests.items():
        progress(f"scoring {split}")
        items = Items(examples, labels=labels, determined=determined, algorithms=algorithms)
        counted[split] = items.counted
        said = {method.name: [method.predict(seen) for seen, _ in examples] for method in methods}
        reliability[split] = {name: metrics.reliability(*items.said(of)[:2]) for name, of in said.items()}
        abstention[split] = {name: _risk_once(items, of) for name, of in said.items()}
        by_method = {name: measures_of(items, of) for name, of in said.items()}
        for metric, found in k_shot(beside.k_shot, train, examples, counted=items.counted, seed=seed).items():
            for name, measure in found.items():
                by_method.setdefault(name, {})[metric] = measure
        by_method |= _references(items, said[META_MODEL], examples, ceiling, seed)
        weights = resampled_weights(items.n_lineages, seed=seed)
        scores[split], differences[split] = {}, {}
        for metric, main in by_method[META_MODEL].items():
            found = {name: of[metric] for name, of in by_method.items() if metric in of}
            draws = {name: weights[:N_RESAMPLES] if name == SHUFFLED_LABELS else weights for name in found}
            scores[split][metric] = {name: interval(one, draws[name]) for name, one in found.items()}
            differences[split][metric] = {
                name: paired_difference(main, one, draws[name])
                for name, one in found.items()
                if name != META_MODEL
            }
    report = Report(command=command, zoo=zoo, scores=scores, differences=differences, counted=counted)
    return Evaluation(report=report, reliability=reliability, abstention=abstention)


def _references(
    items: Items,
    said: Sequence[Prediction],
    examples: Sequence[Example],
    ceiling: Ceiling | None,
    seed: int,
) -> dict[str, dict[str, Measure]]:
    """Methods that no reader could be, each on the metrics that it has something to say of."""
    right = [float(hit) for t in items.truths for hit in (t.probe_right_answer == t.probe_answer).tolist()]
    exact = metrics.mean(np.array(right), items.of_probe, items.n_lineages)
    found = {RIGHT_ANSWER: {"behavior_accuracy": exact}}
    if ceiling is not None:
        measures = measures_of(items, [ceiling[seen.id] for seen, _ in examples])
        found[NOISE_CEILING] = {name: one for name, one in measures.items() if name not in UNMEASURED}
    return found | {SHUFFLED_LABELS: shuffled_labels(items, said, seed)}


def _risk_once(items: Items, said: Sequence[Prediction]) -> tuple[float, ...]:
    """The curve on all lineages, without resampling."""
    curve = risk(*items.said(said), items.n_lineages)(np.ones((1, items.n_lineages)))[0]
    assert len(curve) == len(COVERAGES)
    return tuple(curve.tolist())


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
