"""Judges an editor beside its opponents: every metric, split by split, with intervals over lineages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metamodel.baselines.base import META_MODEL
from metamodel.baselines.editing import Changes, Episode, Opponent, opponents, oracle
from metamodel.baselines.editing.fine_tuning import FineTuning, NoOp
from metamodel.config.editing import EditReportConfig
from metamodel.config.errors import require
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.editing.contest import Contender, Contest, Done, all_done
from metamodel.evaluation.editing.controls import other_subject, shuffled
from metamodel.evaluation.editing.episodes import judged_episodes, training_episodes
from metamodel.evaluation.editing.measures import constant, equivalent, measures_of
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.editing.sequences import EditSequence, sequences_of
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import ORACLE, OTHER_SUBJECT, SHUFFLED_SPECIFICATION, Report
from metamodel.subjects.subject import Subject
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Examples
from metamodel.triples.splits import Splits

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Factors of a change among which the best for all edits is chosen."""
IN_SEQUENCE_SPLIT = "seed"
"""Where edits in sequence are asked for."""
WORTH_IN_STEPS_OF = "fine_tuning"
"""The method by whose steps every other is measured."""

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
    keep: Path | None = None,
) -> Report:
    """Chooses alpha on validation subjects, tunes the opponents on training subjects, and judges all.

    Args:
        propose: the editor that is judged; it is pickled, if it is judged in several processes.
        splits: of its checkpoint.
        command: what the report says was run.
        seed: draws the resamples of lineages.
        only: the one split that is judged, of all where none is named.
        keep: folder in which the methods that are done are kept, so that an interrupted report goes on;
            of this editor, zoo and configuration alone.

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
    lineages = {
        split: list(dict.fromkeys(e.editable.lineage for e in episodes)) for split, episodes in judged.items()
    }
    sequences = _sequences(zoo, splits, lineages, config.sequences)
    validation = training_episodes(zoo, splits.validation, config.validation)
    progress(f"choosing alpha on {len(validation)} edits of validation subjects")
    alpha = _best_alpha(propose, validation)
    progress(f"alpha {alpha:g}")
    tuning = training_episodes(zoo, splits.train, config.tuning) if config.opponents else []
    done = all_done(
        _contenders(propose, zoo, alpha, with_opponents=config.opponents),
        Contest(splits=judged, sequences=sequences, tuning=tuning),
        workers=config.workers,
        keep=keep,
        progress=progress,
    )
    found: dict[str, dict[str, dict[str, Measure]]] = {}
    for split, episodes in judged.items():
        index = {lineage: i for i, lineage in enumerate(lineages[split])}
        outcomes = {name: one.outcomes[split] for name, one in done.items()}
        by_lineage = np.array([index[e.editable.lineage] for e in episodes])
        found[split] = measures_of(episodes, outcomes, by_lineage, len(index))
        if split == IN_SEQUENCE_SPLIT and sequences:
            by_lineage = np.array([index[one.editable.lineage] for one in sequences])
            found[split]["harmonic_mean_after_ten"] = {
                name: metrics.mean(np.array(one.after_ten), by_lineage, len(index))
                for name, one in done.items()
                if one.after_ten
            }
        found[split] |= _worth_in_steps(done, split)
    sizes = {split: len(of) for split, of in lineages.items()}
    return _report(found, sizes, command, f"{zoo.name} {zoo.fingerprint}", seed)


def _sequences(
    zoo: EditZoo, splits: Splits, lineages: Mapping[str, Sequence[str]], most: int
) -> list[EditSequence]:
    """Edits in sequence of up to `most` subjects, of lineages that are judged; none if that split is not."""
    ids, judged = splits.tests.get(IN_SEQUENCE_SPLIT, ()), lineages.get(IN_SEQUENCE_SPLIT, ())
    return sequences_of(
        [one for one in zoo.subjects if one.subject.name in ids and one.lineage in judged], most
    )


def _contenders(propose: Propose, zoo: EditZoo, alpha: float, *, with_opponents: bool) -> list[Contender]:
    """The editor, its opponents and what else it is compared with, none of them tuned."""

    subjects = zoo.subjects

    def from_another(e: Episode) -> tuple[Changes, float]:
        other = other_subject(e, subjects)
        return ({}, float("nan")) if other is None else _ours(propose, replace(e, editable=other), alpha)

    others: list[Opponent] = opponents(_s) if with_opponents else [NoOp()]
    return [
        Contender(name=META_MODEL, method=lambda e: _ours(propose, e, alpha)),
        *(_opponent(one) for one in others),
        Contender(name=ORACLE, method=lambda e: (oracle(e), float("nan"))),
        Contender(name=SHUFFLED_SPECIFICATION, method=lambda e: _ours(propose, shuffled(e), alpha)),
        Contender(name=OTHER_SUBJECT, method=from_another),
    ]


def _opponent(one: Opponent) -> Contender:
    def propose(e: Episode) -> tuple[Changes, float]:
        return one.propose(e.editable.subject, e.examples, e.edit.kind), float("nan")

    by_steps = one.scores_by_steps if isinstance(one, FineTuning) and one.name == WORTH_IN_STEPS_OF else None
    return Contender(name=one.name, method=propose, tune=one.tune, by_steps=by_steps)


def _worth_in_steps(done: Mapping[str, Done], split: str) -> dict[str, dict[str, Measure]]:
    """How many steps of tuned fine-tuning reach the mean S of each method; nothing without it."""
    curve = next((one.by_steps[split] for one in done.values() if one.by_steps), None)
    if curve is None:
        return {}
    return {
        "fine_tuning_steps_equivalent": {
            name: constant(
                equivalent(curve, float(np.mean([o.scores.harmonic_mean for o in one.outcomes[split]])))
            )
            for name, one in done.items()
        }
    }


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
