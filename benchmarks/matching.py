"""The public benchmark of circuit matching: fixed pairs with known truth, all methods tuned alike, one table.

    python benchmarks/matching.py data/pairs-medium

Pairs are those of a zoo of pairs, spread evenly over each split and kind. Every opponent is tuned on pairs of
the split `validation` alone; the meta-model is the one in `checkpoints/matching`, and is left out with a note
where there is none. The difficulty was fixed with opponents alone (`matching_difficulty.py`). The table goes
to stderr; the last line of stdout is one JSON object, with scores of the split `--split`. The gain is over
the opponent that is best on these very pairs, which favours the opponent.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matching_sizes import GROWTH_SIZES, layered

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.mapping import Match
from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.baselines.base import META_MODEL
from metamodel.baselines.matching import MatchingOpponent, TrainingPair, Tuned, opponents, tuned
from metamodel.baselines.matching.classical import Classical
from metamodel.baselines.matching.problem import standardised
from metamodel.baselines.matching.similarity import FeatureScale, prompt_columns
from metamodel.baselines.matching.tuning import Similarity
from metamodel.config.errors import InputError
from metamodel.evaluation.bootstrap import Interval
from metamodel.evaluation.matching.intervals import (
    auroc_of,
    difference_of,
    interval_of,
    mean_of,
    median_of,
    precision_of,
)
from metamodel.evaluation.matching.scores import BreakdownGuesses, alone, breakdown_error, partial_f1
from metamodel.evaluation.report import interval_line
from metamodel.loading import load
from metamodel.matching import SubjectMatcher

KINDS = ("planted", "partial")
SPLITS = ("seed", "size", "task")
OURS = (META_MODEL, "classical")
N_SPEED, SPEED_NODES = 1000, 30


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def spread_evenly(pairs: Sequence[MatchedPair], most: int) -> list[MatchedPair]:
    step = max(1.0, len(pairs) / most)
    return [pairs[int(i * step)] for i in range(min(most, len(pairs)))]


def of_kinds(zoo: PairZoo, split: str, most: int, *, present: bool) -> list[MatchedPair]:
    """At most `most` of each kind; absent circuits have a kind of their own."""
    held = [pair for pair in zoo.pairs if pair.split == split and pair.present == present]
    if not present:
        return spread_evenly(held, most)
    known = [pair for pair in held if pair.truth is not None]
    return [p for kind in KINDS for p in spread_evenly([p for p in known if p.kind == kind], most)]


def similarities(zoo: PairZoo, matcher: SubjectMatcher | None) -> dict[str, Similarity]:
    """What methods may choose from, all measured on training circuits; `learned` needs the meta-model."""
    training = [graph for pair in zoo.of("train") for graph in (pair.first, pair.second)]
    found: dict[str, Similarity] = {"raw": FeatureScale.of(training)}
    asking = prompt_columns(zoo.feature_names)
    if len(asking):
        found["prompts"] = FeatureScale.of(training, asking)
    if matcher is not None:
        found["learned"] = lambda pair: matcher.similarity(pair.first, pair.second, learned=True)
    return found


def prepared(
    methods: Sequence[MatchingOpponent],
    zoo: PairZoo,
    named: Mapping[str, Similarity],
    *,
    most: int,
    n_tuning: int,
) -> list[Tuned]:
    """All methods, taught on training pairs and tuned on validation pairs."""
    training = []
    for pair in of_kinds(zoo, "train", most, present=True):
        alike = named["raw"](pair)
        if pair.truth is not None and alike is not None:
            alike = standardised(alike, pair.first, pair.second)
            training.append(
                TrainingPair(first=pair.first, second=pair.second, truth=pair.truth, similarity=alike)
            )
    validation = of_kinds(zoo, "validation", max(1, n_tuning // len(KINDS)), present=True)
    say(f"tuning on {len(validation)} validation pairs")
    found = []
    for method in methods:
        begun = time.perf_counter()
        method.fit(training)
        done = tuned([method], validation, named, partial_f1)
        for one in done:
            say(
                f"  {method.name:24s} {one.partial_f1:.3f}  {time.perf_counter() - begun:4.0f} s  "
                f"{dict(one.choice.setting)} similarity {one.choice.source} x {one.choice.weight:g}, "
                f"pruning {one.choice.pruning.how} {one.choice.pruning.threshold:.2f}"
            )
        if not done:
            say(f"  {method.name:24s} left out: these pairs lack its similarity")
        found += done
    return found


Matched = Callable[[Sequence[MatchedPair]], list[Match]]


def matchers(
    found: Sequence[Tuned], named: Mapping[str, Similarity], matcher: SubjectMatcher | None
) -> dict[str, Matched]:
    methods: dict[str, Matched] = {}
    if matcher is not None:
        methods[META_MODEL] = lambda pairs: matcher.match_all([(p.first, p.second) for p in pairs])
    for one in found:
        methods[one.opponent.name] = lambda pairs, one=one: [one.match(pair, named) for pair in pairs]
    return methods


def judged(
    zoo: PairZoo, split: str, methods: Mapping[str, Matched], *, most: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """metric -> method -> interval, of one split; `gain` is the meta-model's over each."""
    present, absent = (of_kinds(zoo, split, most, present=p) for p in (True, False))
    guesses = BreakdownGuesses.of(of_kinds(zoo, "train", most, present=True))
    both = [*present, *absent]
    there = np.array([pair.present for pair in both])
    found: dict[str, dict[str, Interval]] = {
        name: {} for name in ("partial_f1", "dustbin_ap", "absent_auroc", "breakdown_error", "gain")
    }
    f1 = {}
    for name, matched in methods.items():
        matches = matched(both)
        held = matches[: len(present)]
        f1[name] = mean_of(np.array([partial_f1(p, m.pairs) for p, m in zip(present, held, strict=True)]))
        lonely = [alone(p, m.p) for p, m in zip(present, held, strict=True)]
        k = [int(((m.pairs != NONE) & ~p.first.is_anchor).sum()) for p, m in zip(present, held, strict=True)]
        errors = np.array([breakdown_error(p, one) for p, one in zip(present, k, strict=True)])
        found["partial_f1"][name] = interval_of(f1[name], present, seed=seed)
        precision = precision_of([truth for truth, _ in lonely], [sure for _, sure in lonely])
        found["dustbin_ap"][name] = interval_of(precision, present, seed=seed)
        auroc = auroc_of(there, np.array([m.score for m in matches]))
        found["absent_auroc"][name] = interval_of(auroc, both, seed=seed)
        found["breakdown_error"][name] = interval_of(median_of(errors), present, seed=seed)
    for name, guess in (
        ("constant_guess", lambda _: guesses.constant),
        ("size_prior", guesses.size_prior),
    ):
        errors = np.array([breakdown_error(pair, guess(pair)) for pair in present])
        found["breakdown_error"][name] = interval_of(median_of(errors), present, seed=seed)
    if META_MODEL in f1:
        for name in f1.keys() - {META_MODEL}:
            found["gain"][name] = difference_of(f1[META_MODEL], f1[name], present, seed=seed)
    say(f"\nsplit {split}: {len(present)} pairs, {len(absent)} absent circuits")
    columns = ("partial_f1", "dustbin_ap", "absent_auroc", "breakdown_error")
    say(f"  {'':24s}" + "".join(f"{column:>24s}" for column in columns))
    rows = [*sorted(f1, key=lambda name: -found["partial_f1"][name].value), "constant_guess", "size_prior"]
    for name in rows:
        cells = [interval_line(found[c][name]) if name in found[c] else "" for c in columns]
        say(f"  {name:24s}" + "".join(f"{cell:>24s}" for cell in cells))
    return found


def speed(matched: Callable[[Sequence[tuple[CircuitGraph, CircuitGraph]]], object], n_features: int) -> float:
    """Pairs of 30 components a minute, in batches."""
    generator = torch.Generator().manual_seed(0)
    graphs = [layered(SPEED_NODES, generator, n_features=n_features) for _ in range(50)]
    pairs = [(graphs[i % 50], graphs[(7 * i + 1) % 50]) for i in range(N_SPEED)]
    matched(pairs[:64])
    begun = time.perf_counter()
    matched(pairs)
    return 60 * N_SPEED / (time.perf_counter() - begun)


def growth(
    matched: Callable[[Sequence[tuple[CircuitGraph, CircuitGraph]]], object], n_features: int
) -> dict[int, float]:
    """Seconds for one pair of circuits of each size; peak memory of the process is said."""
    generator = torch.Generator().manual_seed(0)
    found: dict[int, float] = {}
    for n in GROWTH_SIZES:
        pair = (layered(n, generator, n_features=n_features), layered(n, generator, n_features=n_features))
        begun = time.perf_counter()
        matched([pair])
        found[n] = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say(f"  {n:4d} components: {found[n]:7.2f} s, peak of the process {peak:.0f} MiB")
    low, high = GROWTH_SIZES[-2:]
    power = np.log(found[high] / found[low]) / np.log(high / low)
    say(
        f"  from {low} to {high} it grows with n to the power {power:.1f}; an (nm)² matrix would take "
        f"{high**4 * 4 / 2**30:.0f} GiB"
    )
    return found


def matcher_from(folder: Path) -> SubjectMatcher | None:
    if not (folder / "config.json").is_file():
        say(f"no checkpoint in {folder}: the meta-model and the similarity it has learnt are left out")
        return None
    found = load(folder)
    if not isinstance(found, SubjectMatcher):
        raise InputError(str(folder), expected="a matcher", got="a model of another question", do="Name one.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", nargs="?", default="data/pairs-medium", help="zoo of pairs")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/matching"))
    parser.add_argument("--split", choices=SPLITS, default="size", help="split that the last line is about")
    parser.add_argument("--pairs", type=int, default=150, help="pairs of each kind and split, at most")
    parser.add_argument("--tuning", type=int, default=80, help="validation pairs")
    parser.add_argument("--opponents", nargs="+", help="by name; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples of lineages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo, matcher = PairZoo.open(options.zoo), matcher_from(options.checkpoint)
    asked = [
        m for m in (Classical(), *opponents()) if options.opponents is None or m.name in options.opponents
    ]
    named = similarities(zoo, matcher)
    found = prepared(asked, zoo, named, most=options.pairs, n_tuning=options.tuning)
    methods = matchers(found, named, matcher)
    splits = [s for s in SPLITS if of_kinds(zoo, s, 1, present=True)]
    scores = {s: judged(zoo, s, methods, most=options.pairs, seed=options.seed) for s in splits}
    chosen = scores[options.split]
    f1 = {name: round(one.value, 4) for name, one in chosen["partial_f1"].items()}
    best = max((name for name in f1 if name not in OURS), key=lambda name: f1[name], default=None)
    gain = chosen["gain"].get(best) if best is not None else None
    per_minute = at_512 = None
    if matcher is not None:
        say("\nspeed of the meta-model, one thread")
        n_features = len(matcher.checkpoint.feature_names)
        per_minute = speed(matcher.match_all, n_features)
        say(f"  {per_minute:.0f} pairs of {SPEED_NODES} components a minute")
        at_512 = growth(matcher.match_all, n_features)[512]
    auroc = chosen["absent_auroc"].get(META_MODEL)
    line = {
        "partial_f1": f1,
        "best_opponent": best,
        "gain_over_best_opponent": None if gain is None else round(gain.value, 4),
        "gain_interval": None if gain is None else [round(gain.low, 4), round(gain.high, 4)],
        "absent_auroc": None if auroc is None or not auroc.applies else round(auroc.value, 4),
        "pairs_per_minute": None if per_minute is None else round(per_minute),
        "seconds_at_512": None if at_512 is None else round(at_512, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
