"""How hard are planted pairs? The best opponents' partial F1 by how far the second circuit is moved.

    python benchmarks/matching_difficulty.py data/pairs-medium

The levels of `configs/pairs/*.yaml` are chosen from this table, with opponents alone and on validation
circuits alone: over all levels the best opponent should reach 0.5 to 0.85, so that there is something to find
and something left to gain. Circuits and strangers are those of the split `validation`; pairs are made anew,
so the levels of the given zoo do not matter. Every opponent is tuned once, on pairs of all levels together.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.analogy.planted import feature_spread, planted_pair
from metamodel.baselines.matching import Tuned, opponents, tuned
from metamodel.baselines.matching.similarity import FeatureScale
from metamodel.evaluation.matching.scores import partial_f1

ORIGINAL = ("permuted", "natural", "modified", "planted", "larger")
"""Kinds whose first circuit is that of a subject as it was stored."""
FEWEST, DONORS = 4, 4
STRONG = ("local_statistics", "faq_channels", "sm", "ipfp", "partial_fgw", "structure_mapping", "rrwm")


def circuits(zoo: PairZoo, split: str) -> list[CircuitGraph]:
    """One for each triple of a split, with enough components to leave some out."""
    found: dict[str, CircuitGraph] = {}
    for pair in zoo.of(split, ORIGINAL):
        if int((~pair.first.is_anchor).sum()) >= FEWEST and pair.first_side.id:
            found.setdefault(pair.first_side.id, pair.first)
    return [found[id] for id in sorted(found)]


def pairs_at(
    level: PlantedLevel,
    graphs: Sequence[CircuitGraph],
    spread: torch.Tensor,
    n: int,
    *,
    seed: int,
    begin: int = 0,
) -> list[MatchedPair]:
    """Planted pairs of a level, numbers `begin` to `begin + n`; a number stands for a circuit and its
    donors, the same ones at every level, so that cells compare."""
    made = []
    for i in range(begin, begin + n):
        generator = torch.Generator().manual_seed(seed * 100_003 + i)
        order = torch.randperm(len(graphs), generator=generator)[: DONORS + 1].tolist()
        base, *donors = (graphs[j] for j in order)
        pair = planted_pair(base, donors, generator, level, spread=spread)
        made.append(replace(pair, split="validation"))
    return made


def cell_name(level: PlantedLevel) -> str:
    return (
        f"noise {level.noise:g}, dropped {level.dropped}, inserted {level.inserted}, "
        f"extra layers {level.extra_layers}, feature noise {level.feature_noise:g}"
    )


def mean_f1(one: Tuned, pairs: Sequence[MatchedPair], scale: FeatureScale) -> float:
    return float(np.mean([partial_f1(pair, one.match(pair, {"raw": scale}).pairs) for pair in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", nargs="?", default="data/pairs-medium", help="zoo of pairs")
    parser.add_argument("--opponents", nargs="+", default=list(STRONG))
    parser.add_argument("--pairs", type=int, default=12, help="pairs of each level")
    parser.add_argument("--tuning", type=int, default=60, help="pairs on which opponents are tuned")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.4, 0.8])
    parser.add_argument("--dropped", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--inserted", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--extra-layers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--feature-noise", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo = PairZoo.open(options.zoo)
    training, validation = circuits(zoo, "train"), circuits(zoo, "validation")
    spread, scale = feature_spread(training), FeatureScale.of(training)
    axes = (options.noise, options.feature_noise, options.dropped, options.inserted, options.extra_layers)
    levels = [
        PlantedLevel(noise=a, feature_noise=b, dropped=c, inserted=d, extra_layers=e)
        for a, b, c, d, e in product(*axes)
    ]
    # levels in random order, round after round, each time with another circuit
    order = torch.randperm(len(levels), generator=torch.Generator().manual_seed(options.seed)).tolist()
    mixed = [
        pairs_at(levels[order[i % len(levels)]], validation, spread, 1, seed=options.seed + 1, begin=i)[0]
        for i in range(options.tuning)
    ]
    print(f"{len(validation)} circuits, {len(levels)} levels", file=sys.stderr, flush=True)
    chosen: list[Tuned] = []
    for opponent in opponents():
        if opponent.name in options.opponents:
            begun = time.perf_counter()
            chosen += tuned([opponent], mixed, {"raw": scale}, partial_f1)
            print(
                f"{opponent.name:20s} tuned {chosen[-1].partial_f1:.3f} "
                f"in {time.perf_counter() - begun:.0f} s: {chosen[-1].choice}",
                file=sys.stderr,
                flush=True,
            )
    table: dict[str, dict[str, float]] = {}
    for level in levels:
        pairs = pairs_at(level, validation, spread, options.pairs, seed=options.seed + 2)
        table[cell_name(level)] = {one.opponent.name: mean_f1(one, pairs, scale) for one in chosen}
        row = table[cell_name(level)]
        best = max(row, key=lambda name: row[name])
        print(f"{cell_name(level):75s} {row[best]:.3f} {best}", file=sys.stderr, flush=True)
    overall = {
        one.opponent.name: float(np.mean([r[one.opponent.name] for r in table.values()])) for one in chosen
    }
    print("over all levels:", {k: round(v, 3) for k, v in overall.items()}, file=sys.stderr)
    print(json.dumps({"partial_f1": table, "overall": overall, "best": max(overall.values())}))


if __name__ == "__main__":
    main()
