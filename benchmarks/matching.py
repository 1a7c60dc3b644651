"""The public benchmark of circuit matching: fixed pairs with known truth, every method tuned alike.

    python benchmarks/matching.py data/pairs-medium

Pairs are those of a zoo of pairs, spread evenly over each split and kind; the meta-model is the one in
`checkpoints/matching`. Opponents are tuned on pairs of the split `validation` alone. How difficult the pairs
are was fixed with opponents alone (`matching_difficulty.py`). Tables go to stderr; the last line of stdout is
one JSON object. Scores in it are of the split `--split`; `gain_over_best_opponent` is against the opponent
that is best on these very pairs, which favours it. The classical solver counts as ours, not as an opponent.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matching_sizes import GROWTH_SIZES, layered
from rich.console import Console

from metamodel.analogy.pair_store import PairZoo
from metamodel.baselines.base import META_MODEL
from metamodel.config.matching import MatchReportConfig
from metamodel.evaluate_matcher import check_held_out
from metamodel.evaluation.matching.evaluate import TESTS, judge
from metamodel.evaluation.matching.levels import AXES, levels_table
from metamodel.evaluation.terminal import show
from metamodel.features.relative import description_of
from metamodel.matching import SubjectMatcher

OURS = (META_MODEL, "classical")
N_SPEED, SPEED_NODES = 1000, 30


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def speed(matcher: SubjectMatcher, n_features: int) -> float:
    """Pairs of 30 components a minute, in batches."""
    generator = torch.Generator().manual_seed(0)
    graphs = [layered(SPEED_NODES, generator, n_features=n_features) for _ in range(50)]
    pairs = [(graphs[i % 50], graphs[(7 * i + 1) % 50]) for i in range(N_SPEED)]
    matcher.match_all(pairs[:64])
    begun = time.perf_counter()
    matcher.match_all(pairs)
    return 60 * N_SPEED / (time.perf_counter() - begun)


def growth(matcher: SubjectMatcher, n_features: int) -> dict[int, float]:
    """Seconds for one pair of circuits of each size; peak memory of the process is said."""
    generator = torch.Generator().manual_seed(0)
    found: dict[int, float] = {}
    for n in GROWTH_SIZES:
        pair = (layered(n, generator, n_features=n_features), layered(n, generator, n_features=n_features))
        begun = time.perf_counter()
        matcher.match_all([pair])
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", nargs="?", default="data/pairs-medium", help="zoo of pairs")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/matching"))
    parser.add_argument("--split", choices=TESTS, default="size", help="split that the last line is about")
    parser.add_argument("--pairs", type=int, default=120, help="pairs of each kind and split, at most")
    parser.add_argument("--tuning", type=int, default=60, help="validation pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples of lineages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    matcher = SubjectMatcher.from_pretrained(options.checkpoint)
    seen = description_of(matcher.checkpoint.feature_names)
    zoo = PairZoo.open(options.zoo, described_by=seen)
    check_held_out(matcher, zoo)
    report, levels = judge(
        matcher,
        zoo,
        MatchReportConfig(most=options.pairs, tuning=options.tuning),
        command="python benchmarks/matching.py",
        seed=options.seed,
        progress=say,
    )
    show(report, Console(stderr=True, width=110))
    say(f"\npartial F1 level by level, all splits together\n\n{levels_table(levels)}")
    for axis in AXES:
        say(f"\n{levels_table(levels, (axis,))}")
    scores, differences = report.scores[options.split], report.differences[options.split]
    f1 = {name: round(one.value, 4) for name, one in scores["partial_f1"].items()}
    best = max((name for name in f1 if name not in OURS), key=lambda name: f1[name])
    gain = differences["partial_f1"][best]
    say("speed of the meta-model, one thread")
    n_features = len(matcher.checkpoint.feature_names)
    per_minute = speed(matcher, n_features)
    say(f"  {per_minute:.0f} pairs of {SPEED_NODES} components a minute")
    line = {
        "partial_f1": f1,
        "best_opponent": best,
        "gain_over_best_opponent": round(gain.value, 4),
        "gain_interval": [round(gain.low, 4), round(gain.high, 4)],
        "absent_auroc": round(scores["absent_auroc"][META_MODEL].value, 4),
        "pairs_per_minute": round(per_minute),
        "seconds_at_512": round(growth(matcher, n_features)[512], 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
