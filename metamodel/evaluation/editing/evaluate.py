"""Judges an editor beside its opponents: every metric, split by split, with intervals over lineages."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from metamodel.baselines.base import META_MODEL
from metamodel.baselines.editing import Changes, Episode, opponents, oracle
from metamodel.baselines.editing.fine_tuning import STEPS as FINE_TUNING_STEPS
from metamodel.baselines.editing.fine_tuning import FineTuning, NoOp
from metamodel.config.editing import EditReportConfig
from metamodel.config.edits import GOOD, PAIR
from metamodel.config.errors import require
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.editing.episodes import judged_episodes, training_episodes
from metamodel.evaluation.editing.scores import EditScores, logits_of, scores
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import ORACLE, SHUFFLED_SPECIFICATION, Report
from metamodel.subjects.subject import Subject
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Examples
from metamodel.triples.splits import Splits

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Factors of a change that the sweep tries."""
DRAWDOWN = 0.005
"""Loss of locality, as a share, at which efficacy is asked for."""
LEAST_GAIN = 0.2
"""Gain is normalised where the oracle gains at least so much."""
COLUMNS = ("efficacy", "generalisation", "locality_near", "locality_far", "two_hop", "kl", "harmonic_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one method did with one episode."""

    scores: EditScores
    at_drawdown: float
    """Efficacy at the largest factor of the sweep whose drawdown is at most DRAWDOWN; 0 if none is."""
    milliseconds: float
    forecast: float = float("nan")


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
                o.propose(e.editable.subject, e.examples),
                float("nan"),
            )
            tuned = opponent if isinstance(opponent, FineTuning) and tuned is None else tuned
    else:
        methods["no_op"] = lambda e: (NoOp().propose(e.editable.subject, e.examples), float("nan"))
    methods[ORACLE] = lambda e: (oracle(e), float("nan"))
    methods[SHUFFLED_SPECIFICATION] = lambda e: _ours(propose, shuffled(e), alpha)
    found: dict[str, dict[str, dict[str, Measure]]] = {}
    lineages: dict[str, int] = {}
    for split, episodes in judged.items():
        progress(f"judging {split}: {len(episodes)} edits")
        outcomes = {name: [_outcome(method, e) for e in episodes] for name, method in methods.items()}
        index = {lineage: i for i, lineage in enumerate(dict.fromkeys(e.editable.lineage for e in episodes))}
        lineages[split] = len(index)
        by_lineage = np.array([index[e.editable.lineage] for e in episodes])
        found[split] = _measures(episodes, outcomes, by_lineage, len(index))
        if tuned is not None:
            curve = {k: [] for k in FINE_TUNING_STEPS}
            for e in episodes:
                for k, value in tuned.scores_by_steps(e).items():
                    curve[k].append(value)
            means = {k: float(np.mean(values)) for k, values in curve.items()}
            for name, of in outcomes.items():
                worth = _equivalent(means, float(np.mean([o.scores.harmonic_mean for o in of])))
                found[split].setdefault("fine_tuning_steps_equivalent", {})[name] = _constant(worth)
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


def shuffled(episode: Episode) -> Episode:
    """The same specification with wanted answers of the pairs that are drawn among all answers."""
    examples = episode.examples
    pair = examples.role == PAIR
    generator = torch.Generator().manual_seed(0)
    drawn = examples.answers[torch.randint(len(examples.answers), pair.shape, generator=generator)]
    return replace(episode, examples=replace(examples, wanted=torch.where(pair, drawn, examples.wanted)))


def _outcome(method: Method, episode: Episode) -> Outcome:
    began = time.perf_counter()
    changes, forecast = method(episode)
    took = 1000 * (time.perf_counter() - began)
    subject = episode.editable.subject
    before = logits_of(subject.config, subject.weights, episode.editable.tokens)
    whole = scores(episode, changes, before=before)
    best = 0.0
    for alpha in (a for a in reversed(ALPHAS) if a <= 1 and changes):
        swept = {k: alpha * v for k, v in changes.items()}
        reached = whole if alpha == 1 else scores(episode, swept, before=before)
        kept = [part for part in (reached.locality_near, reached.locality_far) if part == part]
        if all(1 - part <= DRAWDOWN for part in kept):
            best = reached.efficacy
            break
    return Outcome(scores=whole, at_drawdown=best, milliseconds=took, forecast=forecast)


def _measures(
    episodes: Sequence[Episode],
    outcomes: Mapping[str, Sequence[Outcome]],
    lineage: np.ndarray,
    n_lineages: int,
) -> dict[str, dict[str, Measure]]:
    """metric -> method -> measure. Infeasible edits count for the forecast only."""
    feasible = np.array([e.edit.kind != "infeasible" for e in episodes])
    kinds = np.array([e.edit.kind for e in episodes])
    pairs = np.array([int((e.examples.role == PAIR).sum()) for e in episodes])

    def mean(values: np.ndarray, among: np.ndarray) -> Measure:
        kept = among & ~np.isnan(values)
        return metrics.mean(values[kept], lineage[kept], n_lineages)

    found: dict[str, dict[str, Measure]] = {}
    s = {name: np.array([o.scores.harmonic_mean for o in of]) for name, of in outcomes.items()}
    floor, ceiling = s["no_op"], s[ORACLE]
    gains = ceiling - floor >= LEAST_GAIN
    for name, of in outcomes.items():
        values = {c: np.array([getattr(o.scores, c) for o in of], dtype=float) for c in COLUMNS}
        for column in COLUMNS:
            found.setdefault(column, {})[name] = mean(values[column], feasible)
        gain = np.where(gains, (s[name] - floor) / np.where(gains, ceiling - floor, 1.0), np.nan)
        found.setdefault("normalised_gain", {})[name] = mean(gain, feasible)
        at = np.array([o.at_drawdown for o in of])
        found.setdefault("efficacy_at_drawdown", {})[name] = mean(at, feasible)
        took = np.array([o.milliseconds for o in of])
        found.setdefault("milliseconds", {})[name] = mean(took, feasible)
        for kind in sorted(set(kinds[feasible])):
            found.setdefault(f"harmonic_mean/{kind}", {})[name] = mean(s[name], kinds == kind)
        for m in sorted(set(pairs[kinds == "rule"])):
            among = (kinds == "rule") & (pairs == m)
            found.setdefault(f"rule_generalisation/{m}", {})[name] = mean(values["generalisation"], among)
    gap = s[META_MODEL] - s[SHUFFLED_SPECIFICATION]
    found["specification_gap"] = {META_MODEL: mean(gap, feasible & (kinds != "repair"))}
    forecast = np.array([o.forecast for o in outcomes[META_MODEL]])
    found["forecast_auroc"] = {META_MODEL: _auroc(forecast, s[META_MODEL] >= GOOD, lineage, n_lineages)}
    return found


def _auroc(said: np.ndarray, good: np.ndarray, lineage: np.ndarray, n_lineages: int) -> Measure:
    """Area under the ROC curve; NaN where all edits succeed, or none does."""
    higher = (said[good][:, None] > said[~good][None]) + 0.5 * (said[good][:, None] == said[~good][None])

    def measure(weights: np.ndarray) -> np.ndarray:
        one, other = weights[:, lineage[good]], weights[:, lineage[~good]]
        total = one.sum(1) * other.sum(1)
        value = np.einsum("rg,gb,rb->r", one, higher, other)
        return np.where(total > 0, value / np.where(total > 0, total, 1.0), np.nan)

    return measure


def _constant(value: float) -> Measure:
    return lambda weights: np.full(len(weights), value)


def _equivalent(curve: Mapping[int, float], s: float) -> float:
    """The fewest steps of tuned fine-tuning whose mean S is at least `s`; above all, twice the most."""
    return float(next((k for k in sorted(curve) if curve[k] >= s), 2 * max(curve)))


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
