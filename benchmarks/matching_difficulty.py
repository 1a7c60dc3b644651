"""How hard are pairs? The best opponents' partial F1, on the mean that reports lead with and level by level.

    python benchmarks/matching_difficulty.py data/pairs-medium
    python benchmarks/matching_difficulty.py data/pairs-medium --grid

The levels of `configs/pairs/*.yaml` are chosen from this table, with opponents alone and on validation
circuits alone: on the headline of reports, the mean over `planted` and `partial` pairs in the shares in which
they are judged, the best opponent should reach 0.5 to 0.85, so that there is something to find and something
left to gain. The headline is that of the zoo's own validation pairs: opponents are tuned on those on which
reports tune, and scored on the others. No learned similarity is at hand here, as it is in reports.

`--grid` makes planted pairs anew, level by level, of validation circuits and of strangers from other
lineages; the levels of the given zoo do not matter to it. Every opponent is tuned once, on pairs of all
levels together.
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

from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.pair_store import PairZoo
from metamodel.analogy.pairs import MatchedPair
from metamodel.analogy.planted import feature_spread, planted_pair
from metamodel.analogy.strangers import deck_of
from metamodel.baselines.matching import Tuned, opponents, tuned
from metamodel.baselines.matching.similarity import FeatureScale
from metamodel.config.matching import MatchReportConfig
from metamodel.evaluation.matching.evaluate import PARTIAL, TESTS, chosen, tuning_pairs
from metamodel.evaluation.matching.scores import partial_f1
from metamodel.training.fit_matching import circuits_of
from metamodel.training.match_pairs import TrainingCircuit, donors_for

FEWEST = 4
"""Heads and MLPs of a circuit that is copied."""
STRONG = (
    "depth_and_kind",
    "local_statistics",
    "raw_similarity",
    "faq_channels",
    "sm",
    "ipfp",
    "fgw",
    "unbalanced_fgw",
    "partial_fgw",
    "structure_mapping",
    "rrwm",
)


def circuits(zoo: PairZoo, split: str) -> list[TrainingCircuit]:
    """One for each triple of a split, as it was stored, with enough components to leave some out."""
    found = circuits_of(zoo.of(split))
    return [one for one in found if int((~one.graph.is_anchor).sum()) >= FEWEST]


def pairs_at(
    level: PlantedLevel,
    found: Sequence[TrainingCircuit],
    spread: torch.Tensor,
    n: int,
    *,
    seed: int,
    begin: int = 0,
) -> list[MatchedPair]:
    """Planted pairs of a level, numbers `begin` to `begin + n`; a number stands for a circuit and its
    strangers, the same ones at every level, so that cells compare."""
    made = []
    for i in range(begin, begin + n):
        generator = torch.Generator().manual_seed(seed * 100_003 + i)
        base = found[int(torch.randint(len(found), (), generator=generator))]
        deck = deck_of([one.graph for one in donors_for(base, found, generator)], generator)
        pair = planted_pair(base.graph, deck, generator, level, spread=spread)
        made.append(replace(pair, split="validation"))
    return made


def cell_name(level: PlantedLevel) -> str:
    return (
        f"noise {level.noise:g}, dropped {level.dropped}, inserted {level.inserted}, "
        f"extra layers {level.extra_layers}, feature noise {level.feature_noise:g}"
    )


def f1_of(one: Tuned, pairs: Sequence[MatchedPair], scale: FeatureScale) -> list[float]:
    return [partial_f1(pair, one.match(pair, {"raw": scale}).pairs) for pair in pairs]


def tuned_on(names: Sequence[str], pairs: Sequence[MatchedPair], scale: FeatureScale) -> list[Tuned]:
    """The opponents of these names, tuned one after the other."""
    found: list[Tuned] = []
    for opponent in opponents():
        if opponent.name in names:
            begun = time.perf_counter()
            found += tuned([opponent], pairs, {"raw": scale}, partial_f1)
            say(
                f"{opponent.name:20s} tuned {found[-1].partial_f1:.3f} "
                f"in {time.perf_counter() - begun:.0f} s: {found[-1].choice}"
            )
    return found


def shares(zoo: PairZoo, most: int) -> dict[str, float]:
    """Of each kind in the headline: as many pairs as reports judge of it, over all test splits."""
    judged = [pair for split in TESTS for pair in chosen(_of(zoo, split, PARTIAL), most)]
    return {kind: sum(pair.kind == kind for pair in judged) / len(judged) for kind in PARTIAL}


def _of(zoo: PairZoo, split: str, kinds: Sequence[str]) -> list[MatchedPair]:
    return [pair for pair in zoo.pairs if pair.split == split and pair.kind in kinds]


def headline(zoo: PairZoo, names: Sequence[str], config: MatchReportConfig) -> dict[str, dict[str, float]]:
    """Of each opponent its mean partial F1 by kind, and `headline`, their mean in the shares of reports."""
    scale = FeatureScale.of([pair.first for pair in zoo.of("train")])
    tuning = tuning_pairs(zoo, config)
    rest = [pair for pair in _of(zoo, "validation", PARTIAL) if not any(pair is one for one in tuning)]
    of_kind = shares(zoo, config.most)
    say(f"{len(tuning)} pairs to tune on, {len(rest)} others; shares {of_kind}")
    table: dict[str, dict[str, float]] = {}
    for one in tuned_on(names, tuning, scale):
        f1 = np.array(f1_of(one, rest, scale))
        row = {kind: float(f1[[pair.kind == kind for pair in rest]].mean()) for kind in PARTIAL}
        row["headline"] = sum(of_kind[kind] * row[kind] for kind in PARTIAL)
        table[one.opponent.name] = row
        say(f"{one.opponent.name:20s} " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    return table


def grid(zoo: PairZoo, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of each level of planted pairs the mean partial F1 of every opponent."""
    training, validation = circuits(zoo, "train"), circuits(zoo, "validation")
    graphs = [one.graph for one in training]
    spread, scale = feature_spread(graphs), FeatureScale.of(graphs)
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
    say(f"{len(validation)} circuits, {len(levels)} levels")
    contenders = tuned_on(options.opponents, mixed, scale)
    table: dict[str, dict[str, float]] = {}
    for level in levels:
        pairs = pairs_at(level, validation, spread, options.pairs, seed=options.seed + 2)
        row = {one.opponent.name: float(np.mean(f1_of(one, pairs, scale))) for one in contenders}
        table[cell_name(level)] = row
        best = max(row, key=lambda name: row[name])
        say(f"{cell_name(level):75s} {row[best]:.3f} {best}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", nargs="?", default="data/pairs-medium", help="zoo of pairs")
    parser.add_argument("--opponents", nargs="+", default=list(STRONG))
    parser.add_argument("--most", type=int, default=80, help="pairs of a kind and split that reports judge")
    parser.add_argument("--tuning", type=int, default=48, help="pairs on which opponents are tuned")
    parser.add_argument("--grid", action="store_true", help="planted pairs made anew, level by level")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of each level of the grid")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.4, 0.8])
    parser.add_argument("--dropped", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--inserted", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--extra-layers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--feature-noise", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo = PairZoo.open(options.zoo)
    if options.grid:
        table = grid(zoo, options)
        names = next(iter(table.values()))
        overall = {name: float(np.mean([row[name] for row in table.values()])) for name in names}
    else:
        config = MatchReportConfig(most=options.most, tuning=options.tuning)
        table = headline(zoo, options.opponents, config)
        overall = {name: row["headline"] for name, row in table.items()}
    best = max(overall, key=lambda name: overall[name])
    say(f"best: {best} {overall[best]:.3f}")
    print(json.dumps({"partial_f1": table, "overall": overall, "best": overall[best]}))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
