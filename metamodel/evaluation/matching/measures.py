"""Every metric of one split of pairs, from what each method made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.evaluation.matching.intervals import auroc_of, mean_of, median_of, precision_of
from metamodel.evaluation.matching.levels import Level, levels_of
from metamodel.evaluation.matching.scores import (
    BreakdownGuesses,
    alone,
    breakdown_error,
    label_agreement,
    partial_f1,
)
from metamodel.evaluation.matching.transplants import transplant_ratios
from metamodel.evaluation.metrics import Measure
from metamodel.triples.store import Zoo

PARTIAL = ("planted", "partial")
"""Kinds of pairs that `partial_f1` without a kind is the mean over: parts are missing on either side."""
BY_ACTIVATIONS, BY_WEIGHTS = "activation_correlation", "weight_matching"
"""Opponents that need both subjects, and both of one shape."""
CONSTANT, SIZE_PRIOR = "constant_guess", "size_prior"
"""Guesses of the breakdown point that see no edges."""
Measures = dict[str, tuple[Sequence[MatchedPair], dict[str, Measure]]]
"""metric -> (the pairs that it is about, method -> measure)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Pairs of one split and what each method made of them."""

    pairs: tuple[MatchedPair, ...]
    matches: Mapping[str, Sequence[Match | None]]
    """None for pairs of which a method lacks what it needs: both subjects, of one shape."""

    def of(self, indices: Sequence[int]) -> dict[str, list[Match]]:
        """Matches of some pairs, of the methods that have them all."""
        found = {name: [of[i] for i in indices] for name, of in self.matches.items()}
        return {
            name: [one for one in of if one is not None]
            for name, of in found.items()
            if all(one is not None for one in of)
        }

    def known_to(self, name: str) -> list[int]:
        """Pairs that this method has a match of."""
        return [i for i, one in enumerate(self.matches.get(name, ())) if one is not None]


def measures(judged: Judged, guesses: BreakdownGuesses) -> Measures:
    """All metrics of one split."""
    found: Measures = {}
    truths = [i for i, pair in enumerate(judged.pairs) if pair.truth is not None and pair.present]
    parts = [i for i in truths if judged.pairs[i].kind in PARTIAL]
    both, shaped = judged.known_to(BY_ACTIVATIONS), judged.known_to(BY_WEIGHTS)

    def mean(indices: Sequence[int], score: Callable[[MatchedPair, Match], float]) -> dict[str, Measure]:
        pairs = [judged.pairs[i] for i in indices]
        return {
            name: mean_of(np.array([score(p, m) for p, m in zip(pairs, of, strict=True)], dtype=float))
            for name, of in judged.of(indices).items()
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
    for name, subset in (("both_subjects", both), ("same_shape", shaped)):
        of_truth = [i for i in truths if i in subset]
        put(f"partial_f1/{name}", of_truth, mean(of_truth, f1))
    by_method = {}
    for name, of in judged.of(parts).items():
        lonely = [alone(judged.pairs[i], one.p) for i, one in zip(parts, of, strict=True)]
        by_method[name] = precision_of([one for one, _ in lonely], [sure for _, sure in lonely])
    put("dustbin_average_precision", parts, by_method)
    natural = [i for i, pair in enumerate(judged.pairs) if pair.kind == "natural"]
    put("label_agreement", natural, mean(natural, lambda p, m: label_agreement(p, m.pairs)))
    alike = [i for i in natural if i in shaped]
    put("label_agreement/same_shape", alike, mean(alike, lambda p, m: label_agreement(p, m.pairs)))
    # circuits that lack a single edge are there in part: they are for `find`
    asked = [i for i, pair in enumerate(judged.pairs) if not pair.missing]
    there = [i for i in asked if judged.pairs[i].kind in (*PARTIAL, "absent")]
    present = np.array([judged.pairs[i].present for i in there], dtype=bool)
    if present.any() and not present.all():
        put(
            "absent_auroc",
            there,
            {
                name: auroc_of(present, np.array([one.score for one in of]))
                for name, of in judged.of(there).items()
            },
        )
    broken = {
        name: _median(
            [
                breakdown_error(judged.pairs[i], breakdown(judged.pairs[i], one))
                for i, one in zip(parts, of, strict=True)
            ]
        )
        for name, of in judged.of(parts).items()
    }
    guessed = {CONSTANT: lambda pair: guesses.constant, SIZE_PRIOR: guesses.size_prior}
    for name, guess in guessed.items():
        broken[name] = _median([breakdown_error(judged.pairs[i], guess(judged.pairs[i])) for i in parts])
    put("breakdown_error", parts, broken)
    return found


def levels_in(judged: Judged, split: str) -> tuple[Level, ...]:
    """Partial F1 of planted and partial pairs at each level, of every method that has them all."""
    indices = [
        i for i, p in enumerate(judged.pairs) if p.kind in PARTIAL and p.truth is not None and p.present
    ]
    pairs = [judged.pairs[i] for i in indices]
    f1 = {
        name: [partial_f1(pair, one.pairs) for pair, one in zip(pairs, of, strict=True)]
        for name, of in judged.of(indices).items()
    }
    return levels_of(pairs, split, f1)


def transplants(judged: Judged, source: Zoo | None, most: int, progress: Callable[[str], object]) -> Measures:
    """Causal transplants of at most `most` natural pairs; none where their subjects are not at hand."""
    natural = [i for i, pair in enumerate(judged.pairs) if pair.kind == "natural"][:most]
    if not natural or source is None:
        return {}
    progress(f"  transplants of {len(natural)} pairs")
    pairs = [judged.pairs[i] for i in natural]
    maps = {
        name: [None if (one := of[i]) is None else one.pairs for i in natural]
        for name, of in judged.matches.items()
    }
    ratios = transplant_ratios(pairs, maps, source)
    whole = {name for name, of in maps.items() if all(one is not None for one in of)}
    found: Measures = {"transplant": (pairs, {n: mean_of(ratios[n]) for n in ratios if n in whole})}
    shaped = [i for i, one in enumerate(maps.get(BY_WEIGHTS, ())) if one is not None]
    if shaped:
        alike = {
            n: mean_of(r[shaped]) for n, r in ratios.items() if all(maps[n][i] is not None for i in shaped)
        }
        found["transplant/same_shape"] = ([pairs[i] for i in shaped], alike)
    return found


def _median(values: Sequence[float]) -> Measure:
    return median_of(np.array(values, dtype=float))


def breakdown(pair: MatchedPair, match: Match) -> int:
    """How many pairs a method matches before it says that the analogy breaks down; anchors do not count."""
    return int(((match.pairs != NONE) & ~pair.first.is_anchor).sum())
