"""Judges a matcher beside its opponents: every metric, split by split, with intervals over both lineages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.mapping import Match
from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.baselines.base import META_MODEL
from metamodel.baselines.matching import MatchingOpponent, TrainingPair, opponents, tuned
from metamodel.baselines.matching.classical import Classical
from metamodel.baselines.matching.similarity import FeatureScale, prompt_columns
from metamodel.config.errors import require
from metamodel.config.matching import MatchReportConfig
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.matching.contenders import Contender, Named, contender
from metamodel.evaluation.matching.intervals import (
    auroc_of,
    difference_of,
    interval_of,
    mean_of,
    median_of,
    precision_of,
)
from metamodel.evaluation.matching.scores import (
    BreakdownGuesses,
    alone,
    breakdown_error,
    label_agreement,
    partial_f1,
)
from metamodel.evaluation.matching.transplants import transplant_ratios
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import Report

TESTS = ("seed", "size", "task")
PARTIAL = ("planted", "partial")
"""Kinds of pairs that `partial_f1` without a kind is the mean over: parts are missing on either side."""
TUNED_ON = ("planted", "partial")
"""Kinds of validation pairs on which opponents and thresholds are tuned."""
CONSTANT, SIZE_PRIOR = "constant_guess", "size_prior"
"""Guesses of the breakdown point that see no edges."""


@runtime_checkable
class Matcher(Protocol):
    """The meta-model: `metamodel.matching.SubjectMatcher`."""

    def match_all(self, pairs: Sequence[tuple[CircuitGraph, CircuitGraph]]) -> list[Match]:
        """Matches of many pairs."""
        ...

    def similarity(self, first: CircuitGraph, second: CircuitGraph) -> Float[Tensor, "node theirs"]:
        """How alike nodes are, as the matcher has learned to see them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Pairs of one split and what each method made of them."""

    pairs: tuple[MatchedPair, ...]
    matches: Mapping[str, Sequence[Match]]


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
) -> Report:
    """Tunes the opponents on validation pairs, lets all match the test pairs, and scores them.

    Args:
        command: what the report says was run.
        seed: draws the resamples of lineages.
        only: the one split that is judged, of all where none is named.
        more: opponents beside those of the package.

    Raises: InputError if there are no pairs in that split.
    """
    methods = opponents() if config.opponents else ()
    named = similarities(matcher, zoo)
    found = _tuned(named, zoo, config, (Classical(), *methods, *more), progress)
    guesses = BreakdownGuesses.of([p for p in zoo.of("train") if p.kind in PARTIAL])
    scores: dict[str, dict[str, dict[str, Interval]]] = {}
    differences: dict[str, dict[str, dict[str, Interval]]] = {}
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
        matches: dict[str, Sequence[Match]] = {
            META_MODEL: matcher.match_all([(pair.first, pair.second) for pair in pairs])
        }
        for one in found:
            progress(f"  {one.name}")
            matches[one.name] = [one.match(pair, named) for pair in pairs]
        judged = Judged(pairs=pairs, matches=matches)
        measured = measures(judged, guesses) | _transplants(judged, zoo, config.transplants, progress)
        scores[split], differences[split] = {}, {}
        for metric, (of, by_method) in measured.items():
            scores[split][metric] = {n: interval_of(m, of, seed=seed) for n, m in by_method.items()}
            differences[split][metric] = {
                name: difference_of(by_method[META_MODEL], one, of, seed=seed)
                for name, one in by_method.items()
                if name != META_MODEL
            }
    return Report(
        command=command, zoo=f"{zoo.name} {zoo.fingerprint}", scores=scores, differences=differences
    )


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
        best = tuned([opponent], validation, named, partial_f1)
        found += [contender(one, validation, absent, named) for one in best]
        progress(f"  {found[-1].said()}" if best else "  left out: these pairs lack its similarity")
    return found


Measures = dict[str, tuple[Sequence[MatchedPair], dict[str, Measure]]]
"""metric -> (the pairs that it is about, method -> measure)."""


def measures(judged: Judged, guesses: BreakdownGuesses) -> Measures:
    """All metrics of one split."""
    found: Measures = {}
    truths = [i for i, pair in enumerate(judged.pairs) if pair.truth is not None and pair.present]
    parts = [i for i in truths if judged.pairs[i].kind in PARTIAL]

    def mean(indices: Sequence[int], score: Callable[[MatchedPair, Match], float]) -> dict[str, Measure]:
        return {
            name: mean_of(np.array([score(judged.pairs[i], of[i]) for i in indices], dtype=float))
            for name, of in judged.matches.items()
        }

    def put(metric: str, indices: Sequence[int], by_method: dict[str, Measure]) -> None:
        if indices:
            found[metric] = ([judged.pairs[i] for i in indices], by_method)

    def f1(pair: MatchedPair, match: Match) -> float:
        return partial_f1(pair, match.pairs)

    put("partial_f1", parts, mean(parts, f1))
    for kind in dict.fromkeys(judged.pairs[i].kind for i in truths):
        of_kind = [i for i in truths if judged.pairs[i].kind == kind]
        put(f"partial_f1/{kind}", of_kind, mean(of_kind, f1))
    by_method = {}
    for name, of in judged.matches.items():
        lonely = [alone(judged.pairs[i], of[i].p) for i in parts]
        by_method[name] = precision_of([one for one, _ in lonely], [sure for _, sure in lonely])
    put("dustbin_average_precision", parts, by_method)
    natural = [i for i, pair in enumerate(judged.pairs) if pair.kind == "natural"]
    put("label_agreement", natural, mean(natural, lambda p, m: label_agreement(p, m.pairs)))
    # circuits that lack a single edge are there in part: they are for `find`
    asked = [i for i, pair in enumerate(judged.pairs) if not pair.missing]
    there = [i for i in asked if judged.pairs[i].kind in (*PARTIAL, "absent")]
    present = np.array([judged.pairs[i].present for i in there], dtype=bool)
    if present.any() and not present.all():
        put(
            "absent_auroc",
            there,
            {
                name: auroc_of(present, np.array([of[i].score for i in there]))
                for name, of in judged.matches.items()
            },
        )
    broken = {
        name: _median([breakdown_error(judged.pairs[i], breakdown(judged.pairs[i], of[i])) for i in parts])
        for name, of in judged.matches.items()
    }
    guessed = {CONSTANT: lambda pair: guesses.constant, SIZE_PRIOR: guesses.size_prior}
    for name, guess in guessed.items():
        broken[name] = _median([breakdown_error(judged.pairs[i], guess(judged.pairs[i])) for i in parts])
    put("breakdown_error", parts, broken)
    return found


def _transplants(judged: Judged, zoo: PairZoo, most: int, progress: Callable[[str], object]) -> Measures:
    """Causal transplants of at most `most` natural pairs."""
    natural = [i for i, pair in enumerate(judged.pairs) if pair.kind == "natural"][:most]
    if not natural:
        return {}
    progress(f"  transplants of {len(natural)} pairs")
    pairs = [judged.pairs[i] for i in natural]
    maps = {name: [of[i].pairs for i in natural] for name, of in judged.matches.items()}
    made_of = zoo.manifest.config
    source, fingerprint = Path(str(made_of["source"])), str(made_of["source_fingerprint"])
    ratios = transplant_ratios(pairs, maps, source, fingerprint, progress)
    return {"transplant": (pairs, {n: mean_of(r) for n, r in ratios.items()})} if ratios else {}


def _median(values: Sequence[float]) -> Measure:
    return median_of(np.array(values, dtype=float))


def breakdown(pair: MatchedPair, match: Match) -> int:
    """How many pairs a method matches before it says that the analogy breaks down; anchors do not count."""
    return int(((match.pairs != NONE) & ~pair.first.is_anchor).sum())
