"""What each method does with all it is asked: tuned and judged apart from the others, and kept when done."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.base import META_MODEL
from metamodel.baselines.editing import Changes, Episode
from metamodel.evaluation.editing.measures import Outcome
from metamodel.evaluation.editing.scores import EditScores, logits_of, scores
from metamodel.evaluation.editing.sequences import EditSequence, after_all
from metamodel.evaluation.processes import each, n_processes
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

SWEPT = (1.0, 0.5, 0.75, 1.5, 0.25)
"""Factors among which the best is chosen for each edit, at a bounded loss of locality, in this order."""
DRAWDOWN = 0.005
"""Loss of locality, as a share, at which efficacy is asked for."""
IN_SEQUENCE = (META_MODEL, "no_op", "profile_match", "self_label", "fine_tuning", "ridge")
"""Methods that are asked for edits in sequence."""
SCHEMA_VERSION = 1
"""Of the files in which what was done is kept."""

Method = Callable[[Episode], tuple[Changes, float]]
"""Proposes a change, with a forecast of success or NaN."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """What every method is asked."""

    splits: Mapping[str, Sequence[Episode]]
    sequences: Sequence[EditSequence]
    """Asked of the methods in `IN_SEQUENCE`."""
    tuning: Sequence[Episode]
    """Edits of training subjects, for those that have something to choose."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """One method, not yet tuned. It is pickled (by cloudpickle), if there are several processes."""

    name: str
    method: Method
    tune: Callable[[Sequence[Episode]], object] | None = None
    by_steps: Callable[[Episode], Mapping[int, float]] | None = None
    """S of one edit after each number of steps, where the method has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one method did."""

    outcomes: dict[str, list[Outcome]]
    """Of each split, one for each edit."""
    after_ten: list[float]
    """S of each sequence, behind its last edit; none where it is not asked for."""
    by_steps: dict[str, dict[int, float]] = field(default_factory=dict)
    """Mean S of each split, by number of steps."""


def all_done(
    contenders: Sequence[Contender],
    contest: Contest,
    *,
    workers: int | None,
    keep: Path | None,
    progress: Callable[[str], object],
) -> dict[str, Done]:
    """What each contender did, by name; their number of processes changes nothing but milliseconds.

    Args:
        workers: processes, of one thread each; by default one for each core.
        keep: folder of what was done before, which is not done again, and of what is done now; of the same
            editor, its factor, and code. What was asked of other splits or numbers of edits is done again.
    """
    found = {one.name: kept for one in contenders if (kept := _kept(keep, one.name, contest))}
    left = [one for one in contenders if one.name not in found]
    n = n_processes(workers, len(left))
    progress(f"judging {len(left)} methods, {n} at a time" + (f"; {len(found)} are done" if found else ""))
    with closing(each(lambda one: _timed(one, contest), left, workers=workers)) as ended:
        for i, (done, seconds) in ended:
            name = left[i].name
            found[name] = done
            _keep(keep, name, done)
            progress(f"{name}: {seconds:.0f} s ({len(found)} of {len(contenders)})")
    return {one.name: found[one.name] for one in contenders}


def done_by(contender: Contender, contest: Contest) -> Done:
    """Tunes one method, and asks it everything."""
    if contender.tune is not None:
        contender.tune(contest.tuning)
    outcomes = {
        split: [_outcome(contender.method, e) for e in episodes] for split, episodes in contest.splits.items()
    }
    asked = contest.sequences if contender.name in IN_SEQUENCE else ()
    after_ten = [after_all(one, _proposing(contender.method, one)) for one in asked]
    by_steps: dict[str, dict[int, float]] = {}
    if contender.by_steps is not None:
        for split, episodes in contest.splits.items():
            curves = [contender.by_steps(e) for e in episodes]
            by_steps[split] = {k: float(np.mean([curve[k] for curve in curves])) for k in curves[0]}
    return Done(outcomes=outcomes, after_ten=after_ten, by_steps=by_steps)


def _timed(contender: Contender, contest: Contest) -> tuple[Done, float]:
    began = time.perf_counter()
    done = done_by(contender, contest)
    return done, time.perf_counter() - began


def _outcome(method: Method, episode: Episode) -> Outcome:
    subject = episode.editable.subject
    before = logits_of(subject.config, subject.weights, episode.editable.tokens)
    began = time.perf_counter()
    changes, forecast = method(episode)
    took = 1000 * (time.perf_counter() - began)
    whole = scores(episode, changes, before=before)
    return Outcome(
        scores=whole,
        at_drawdown=_at_drawdown(episode, changes, whole, before),
        relative_norm=_relative_norm(subject, changes),
        milliseconds=took,
        forecast=forecast,
    )


def _at_drawdown(
    episode: Episode, changes: Changes, whole: EditScores, before: Float[Tensor, "input d_vocab"]
) -> float:
    best = 0.0
    for alpha in SWEPT if changes else ():
        if best == 1:
            break
        swept = {k: alpha * v for k, v in changes.items()}
        reached = whole if alpha == 1 else scores(episode, swept, before=before)
        kept = [part for part in (reached.locality_near, reached.locality_far) if part == part]
        if all(1 - part <= DRAWDOWN for part in kept):
            best = max(best, reached.in_scope)
    return best


def _relative_norm(subject: Subject, changes: Changes) -> float:
    """Frobenius norm of all that is added, relative to that of the weights it is added to; 0 for none.

    NaN where those weights are zeros.
    """
    added = sum(float(v.double().square().sum()) for v in changes.values())
    whole = sum(float(subject.weights[k].double().square().sum()) for k in changes)
    return (added / whole) ** 0.5 if added and whole else float("nan") if added else 0.0


def _proposing(method: Method, one: EditSequence) -> Callable[[Subject, Examples], Changes]:
    def propose(subject: Subject, examples: Examples) -> Changes:
        editable = replace(one.editable, subject=subject)
        return method(replace(one.whole, editable=editable, examples=examples))[0]

    return propose


def _keep(folder: Path | None, name: str, done: Done) -> None:
    """Whole or not at all."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{name}.json.part"
    unfinished.write_text(json.dumps({"schema_version": SCHEMA_VERSION} | asdict(done)))
    unfinished.replace(folder / f"{name}.json")


def _kept(folder: Path | None, name: str, contest: Contest) -> Done | None:
    """What a method did before; None if it was asked something else, or stored otherwise."""
    if folder is None or not (folder / f"{name}.json").is_file():
        return None
    read = json.loads((folder / f"{name}.json").read_text())
    asked = {split: len(episodes) for split, episodes in contest.splits.items()}
    n_sequences = len(contest.sequences) if name in IN_SEQUENCE else 0
    if (
        read.get("schema_version") != SCHEMA_VERSION
        or {split: len(of) for split, of in read["outcomes"].items()} != asked
        or len(read["after_ten"]) != n_sequences
    ):
        return None
    outcomes = {
        split: [Outcome(**{**one, "scores": EditScores(**one["scores"])}) for one in of]
        for split, of in read["outcomes"].items()
    }
    by_steps = {split: {int(k): s for k, s in of.items()} for split, of in read["by_steps"].items()}
    return Done(outcomes=outcomes, after_ten=read["after_ten"], by_steps=by_steps)
