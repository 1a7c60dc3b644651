"""Judges an editor beside its opponents: every metric, split by split, with intervals over lineages."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.base import META_MODEL
from metamodel.baselines.editing import Changes, Episode, opponents, oracle
from metamodel.baselines.editing.fine_tuning import STEPS as FINE_TUNING_STEPS
from metamodel.baselines.editing.fine_tuning import FineTuning, NoOp
from metamodel.config.editing import EditReportConfig
from metamodel.config.errors import require
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.editing.controls import other_subject, shuffled
from metamodel.evaluation.editing.episodes import judged_episodes, training_episodes
from metamodel.evaluation.editing.measures import Outcome, constant, equivalent, measures_of
from metamodel.evaluation.editing.scores import logits_of, scores
from metamodel.evaluation.editing.sequences import EditSequence, after_all, sequences_of
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import ORACLE, OTHER_SUBJECT, SHUFFLED_SPECIFICATION, Report
from metamodel.subjects.subject import Subject
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Editable, Examples
from metamodel.triples.splits import Splits

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Factors of a change among which the best for all edits is chosen."""
SWEPT = (1.0, 0.5, 0.75, 1.5, 0.25)
"""Factors among which the best is chosen for each edit, at a bounded loss of locality, in this order."""
DRAWDOWN = 0.005
"""Loss of locality, as a share, at which efficacy is asked for."""
IN_SEQUENCE_SPLIT = "seed"
"""Where edits in sequence are asked for."""
IN_SEQUENCE = (META_MODEL, "no_op", "profile_match", "self_label", "fine_tuning", "ridge")
"""Methods that are asked for edits in sequence."""


Method = Callable[[Episode], tuple[Changes, float]]
"""Proposes a change, with a forecast of success or NaN."""
Propose = Callable[[Subject, Examples], tuple[Changes, float]]
"""The meta-model: a change of the raw weights, and the probability of success."""


def judge(
    propose: Propose,
    zoo: EditZoo,
    splits: Splits,
    config: EditReportConfig,
    *,
    command: str,
    seed: int,
    progress: Callable[[str], object],
    only: str | None = None,
) -> Report:
    """Chooses alpha on validation subjects, tunes the opponents on training subjects, and judges all.

    Args:
        propose: the editor that is judged.
        splits: of its checkpoint.
        command: what the report says was run.
        seed: draws the resamples of lineages.
        only: the one split that is judged, of all where none is named.

    Raises: InputError if there are no edits in that split.
    """
    judged = judged_episodes(zoo, splits, config.edits, config.most)
    if only is not None:
        require(
            only in judged,
            f"split {only}",
            expected=f"one of {', '.join(judged)}",
            got="no edits",
            do="Name another split.",
        )
        judged = {only: judged[only]}
    validation = training_episodes(zoo, splits.validation, config.validation)
    progress(f"choosing alpha on {len(validation)} edits of validation subjects")
    alpha = _best_alpha(propose, validation)
    progress(f"alpha {alpha:g}")
    methods: dict[str, Method] = {META_MODEL: lambda e: _ours(propose, e, alpha)}
    tuned: FineTuning | None = None
    if config.opponents:
        tuning = training_episodes(zoo, splits.train, config.tuning)
        for opponent in opponents(_s):
            progress(f"tuning {opponent.name}")
            opponent.tune(tuning)
            methods[opponent.name] = lambda e, o=opponent: (
                o.propose(e.editable.subject, e.examples, e.edit.kind),
                float("nan"),
            )
            tuned = opponent if isinstance(opponent, FineTuning) and tuned is None else tuned
    else:
        methods["no_op"] = lambda e: (NoOp().propose(e.editable.subject, e.examples), float("nan"))
    methods[ORACLE] = lambda e: (oracle(e), float("nan"))
    methods[SHUFFLED_SPECIFICATION] = lambda e: _ours(propose, shuffled(e), alpha)

    def from_another(e: Episode) -> tuple[Changes, float]:
        other = other_subject(e, zoo.subjects)
        return ({}, float("nan")) if other is None else _ours(propose, replace(e, editable=other), alpha)

    methods[OTHER_SUBJECT] = from_another
    found: dict[str, dict[str, dict[str, Measure]]] = {}
    lineages: dict[str, int] = {}
    for split, episodes in judged.items():
        progress(f"judging {split}: {len(episodes)} edits")
        before = [_before(e) for e in episodes]
        outcomes = {
            name: [_outcome(method, e, old) for e, old in zip(episodes, before, strict=True)]
            for name, method in methods.items()
        }
        index = {lineage: i for i, lineage in enumerate(dict.fromkeys(e.editable.lineage for e in episodes))}
        lineages[split] = len(index)
        by_lineage = np.array([index[e.editable.lineage] for e in episodes])
        found[split] = measures_of(episodes, outcomes, by_lineage, len(index))
        if split == IN_SEQUENCE_SPLIT:
            chosen = set(splits.tests[split])
            subjects = [one for one in zoo.subjects if one.subject.name in chosen]
            found[split] |= _after_ten(subjects, methods, config.sequences, index)
        if tuned is not None:
            curve = {k: [] for k in FINE_TUNING_STEPS}
            for e in episodes:
                for k, value in tuned.scores_by_steps(e).items():
                    curve[k].append(value)
            means = {k: float(np.mean(values)) for k, values in curve.items()}
            for name, of in outcomes.items():
                worth = equivalent(means, float(np.mean([o.scores.harmonic_mean for o in of])))
                found[split].setdefault("fine_tuning_steps_equivalent", {})[name] = constant(worth)
    return _report(found, lineages, command, f"{zoo.name} {zoo.fingerprint}", seed)


def _s(episode: Episode, changes: Changes) -> float:
    return scores(episode, changes).harmonic_mean


def _ours(propose: Propose, episode: Episode, alpha: float) -> tuple[Changes, float]:
    changes, forecast = propose(episode.editable.subject, episode.examples)
    return {k: alpha * v for k, v in changes.items()}, forecast


def _best_alpha(propose: Propose, episodes: Sequence[Episode]) -> float:
    """The factor with the highest mean S, the one nearest to 1 of equals."""
    total = dict.fromkeys(ALPHAS, 0.0)
    for episode in episodes:
        changes, _ = propose(episode.editable.subject, episode.examples)
        for alpha in total:
            total[alpha] += _s(episode, {k: alpha * v for k, v in changes.items()})
    return max(total, key=lambda alpha: (total[alpha], -abs(alpha - 1)))


def _before(episode: Episode) -> Float[Tensor, "input d_vocab"]:
    subject = episode.editable.subject
    return logits_of(subject.config, subject.weights, episode.editable.tokens)


def _outcome(method: Method, episode: Episode, before: Float[Tensor, "input d_vocab"]) -> Outcome:
    began = time.perf_counter()
    changes, forecast = method(episode)
    took = 1000 * (time.perf_counter() - began)
    whole = scores(episode, changes, before=before)
    best = 0.0
    for alpha in SWEPT if changes else ():
        if best == 1:
            break
        swept = {k: alpha * v for k, v in changes.items()}
        reached = whole if alpha == 1 else scores(episode, swept, before=before)
        kept = [part for part in (reached.locality_near, reached.locality_far) if part == part]
        if all(1 - part <= DRAWDOWN for part in kept):
            best = max(best, reached.in_scope)
    return Outcome(
        scores=whole,
        at_drawdown=best,
        relative_norm=_relative_norm(episode.editable.subject, changes),
        milliseconds=took,
        forecast=forecast,
    )


def _relative_norm(subject: Subject, changes: Changes) -> float:
    """Frobenius norm of all that is added, relative to that of the weights it is added to; 0 for none.

    NaN where those weights are zeros.
    """
    added = sum(float(v.double().square().sum()) for v in changes.values())
    whole = sum(float(subject.weights[k].double().square().sum()) for k in changes)
    return (added / whole) ** 0.5 if added and whole else float("nan") if added else 0.0


def _after_ten(
    subjects: Sequence[Editable], methods: Mapping[str, Method], most: int, index: dict[str, int]
) -> dict[str, dict[str, Measure]]:
    """S after ten edits in sequence, of the methods worth the time; nothing where no subject has ten.

    Args:
        index: of lineages among those of the split; a subject of none of them is left out.
    """
    sequences = sequences_of([one for one in subjects if one.lineage in index], most)
    if not sequences:
        return {}
    lineage = np.array([index[one.editable.lineage] for one in sequences])

    def proposing(method: Method, one: EditSequence) -> Callable[[Subject, Examples], Changes]:
        def propose(subject: Subject, examples: Examples) -> Changes:
            return method(
                replace(one.whole, editable=replace(one.editable, subject=subject), examples=examples)
            )[0]

        return propose

    values = {
        name: np.array([after_all(one, proposing(methods[name], one)) for one in sequences])
        for name in IN_SEQUENCE
        if name in methods
    }
    found = {name: metrics.mean(of, lineage, len(index)) for name, of in values.items()}
    return {"harmonic_mean_after_ten": found}


def _report(
    found: Mapping[str, Mapping[str, Mapping[str, Measure]]],
    lineages: Mapping[str, int],
    command: str,
    zoo: str,
    seed: int,
) -> Report:
    values, differences = {}, {}
    for split, by_metric in found.items():
        weights = resampled_weights(lineages[split], seed=seed)
        values[split], differences[split] = {}, {}
        for metric, by_method in by_metric.items():
            values[split][metric] = {name: interval(one, weights) for name, one in by_method.items()}
            differences[split][metric] = {
                name: paired_difference(by_method[META_MODEL], one, weights)
                for name, one in by_method.items()
                if name != META_MODEL
            }
    return Report(command=command, zoo=zoo, scores=values, differences=differences)
