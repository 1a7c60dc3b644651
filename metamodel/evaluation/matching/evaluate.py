"""Judges a matcher beside its opponents: every metric, split by split, with intervals over both lineages."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.mapping import Match
from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.baselines.base import META_MODEL
from metamodel.baselines.matching import MatchingOpponent, TrainingPair, opponents, tuned
from metamodel.baselines.matching.classical import Classical
from metamodel.baselines.matching.similarity import FeatureScale, prompt_columns
from metamodel.config.errors import require
from metamodel.config.matching import MatchReportConfig
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.matching.contenders import Contender, Named, contender
from metamodel.evaluation.matching.intervals import difference_of, interval_of
from metamodel.evaluation.matching.levels import Level
from metamodel.evaluation.matching.measures import PARTIAL, Judged, levels_in, measures, transplants
from metamodel.evaluation.matching.scores import BreakdownGuesses, partial_f1
from metamodel.evaluation.matching.source import OF_SUBJECTS, of_subjects, source_of
from metamodel.evaluation.report import Report

TESTS = ("seed", "size", "task")
TUNED_ON = ("planted", "partial")
"""Kinds of validation pairs on which opponents and thresholds are tuned."""


@runtime_checkable
class Matcher(Protocol):
    """The meta-model: `metamodel.matching.SubjectMatcher`."""

    def match_all(self, pairs: Sequence[tuple[CircuitGraph, CircuitGraph]]) -> list[Match]:
        """Matches of many pairs."""
        ...

    def similarity(self, first: CircuitGraph, second: CircuitGraph) -> Float[Tensor, "node theirs"]:
        """How alike nodes are, as the matcher has learned to see them."""
        ...


def judge(
    matcher: Matcher,
    zoo: PairZoo,
    config: MatchReportConfig,
    *,
    command: str,
    seed: int,
    progress: Callable[[str], object],
    only: str | None = None,
    more: Sequence[MatchingOpponent] = (),
) -> tuple[Report, tuple[Level, ...]]:
    """Tunes the opponents on validation pairs, lets all match the test pairs, and scores them.

    Returns the report, and partial F1 level by level.

    Args:
        command: what the report says was run.
        seed: draws the resamples of lineages.
        only: the one split that is judged, of all where none is named.
        more: opponents beside those of the package.

    Raises: InputError if there are no pairs in that split.
    """
    methods = opponents() if config.opponents else ()
    source = source_of(zoo, progress)
    named = {**similarities(matcher, zoo), **(of_subjects(source) if source is not None else {})}
    found = _tuned(named, zoo, config, (Classical(), *methods, *more), progress)
    guesses = BreakdownGuesses.of([p for p in zoo.of("train") if p.kind in PARTIAL])
    scores: dict[str, dict[str, dict[str, Interval]]] = {}
    differences: dict[str, dict[str, dict[str, Interval]]] = {}
    levels: list[Level] = []
    splits = [split for split in TESTS if any(pair.split == split for pair in zoo.pairs)]
    require(
        only is None or only in splits,
        f"split {only}",
        expected=f"one of {', '.join(splits)}",
        got="no pairs",
        do="Name another split.",
    )
    for split in splits if only is None else [only]:
        pairs = chosen(zoo.of(split), config.most)
        progress(f"judging {split}: {len(pairs)} pairs")
        matches: dict[str, Sequence[Match | None]] = {
            META_MODEL: matcher.match_all([(pair.first, pair.second) for pair in pairs])
        }
        for one in found:
            progress(f"  {one.name}")
            matches[one.name] = [one.match(pair, named) if one.can(pair, named) else None for pair in pairs]
        judged = Judged(pairs=pairs, matches=matches)
        measured = measures(judged, guesses) | transplants(judged, source, config.transplants, progress)
        levels += levels_in(judged, split)
        scores[split], differences[split] = {}, {}
        for metric, (of, by_method) in measured.items():
            scores[split][metric] = {n: interval_of(m, of, seed=seed) for n, m in by_method.items()}
            differences[split][metric] = {
                name: difference_of(by_method[META_MODEL], one, of, seed=seed)
                for name, one in by_method.items()
                if name != META_MODEL
            }
    report = Report(
        command=command, zoo=f"{zoo.name} {zoo.fingerprint}", scores=scores, differences=differences
    )
    return report, tuple(levels)


def chosen(pairs: Sequence[MatchedPair], most: int) -> tuple[MatchedPair, ...]:
    """At most `most` pairs of each kind, spread evenly over them."""
    found: list[MatchedPair] = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        of_kind = [pair for pair in pairs if pair.kind == kind]
        step = max(1.0, len(of_kind) / most)
        found += [of_kind[int(i * step)] for i in range(min(most, len(of_kind)))]
    return tuple(found)


def tuning_pairs(zoo: PairZoo, config: MatchReportConfig) -> tuple[MatchedPair, ...]:
    """Validation pairs on which every method is tuned, the meta-model's threshold too."""
    return chosen(zoo.of("validation", TUNED_ON, present=True), max(1, config.tuning // len(TUNED_ON)))


def similarities(matcher: Matcher, zoo: PairZoo) -> Named:
    """What opponents may choose from: features as they are, those of prompts alone, and the learned one.

    Where nodes are described by none of these, or by ratios alone, there is less to choose from.
    """
    circuits = [pair.first for pair in zoo.of("train")]
    prompts = prompt_columns(zoo.feature_names)
    found: dict[str, Callable[[MatchedPair], Float[Tensor, "node theirs"] | None]] = {}
    if zoo.feature_names:
        found["raw"] = FeatureScale.of(circuits)
    if len(prompts):
        found["prompts"] = FeatureScale.of(circuits, prompts)
    return found | {"learned": lambda pair: matcher.similarity(pair.first, pair.second)}


def _tuned(
    named: Named,
    zoo: PairZoo,
    config: MatchReportConfig,
    methods: Sequence[MatchingOpponent],
    progress: Callable[[str], object],
) -> list[Contender]:
    """Opponents that learn, taught on training pairs; all of them tuned on validation pairs."""
    if not methods:
        return []
    training = [pair for pair in zoo.of("train") if pair.truth is not None and pair.present]
    raw = named.get("raw")
    taught = [
        TrainingPair(first=p.first, second=p.second, truth=p.truth, similarity=raw and raw(p))
        for p in training
        if p.truth is not None
    ]
    validation = tuning_pairs(zoo, config)
    absent = [p for p in zoo.of("validation", ["absent"]) if not p.missing][: len(validation)]
    found = []
    for opponent in methods:
        progress(f"tuning {opponent.name}")
        opponent.fit(taught)
        own = validation
        if set(opponent.sources) <= set(OF_SUBJECTS):
            own = _with_subjects(opponent, named, zoo)
        best = tuned([opponent], own, named, partial_f1) if own else []
        found += [contender(one, own, absent if own is validation else (), named) for one in best]
        progress(f"  {found[-1].said()}" if best else "  left out: these pairs lack its similarity")
    return found


def _with_subjects(opponent: MatchingOpponent, named: Named, zoo: PairZoo) -> tuple[MatchedPair, ...]:
    """Validation pairs on which an opponent that needs both subjects is tuned: all of which it has both."""
    known = [pair for pair in zoo.of("validation") if pair.truth is not None and pair.present]
    sources = [source for source in opponent.sources if source in named]
    return tuple(p for p in known if sources and all(named[source](p) is not None for source in sources))
