"""Partial F1 level by level: what a cell is the mean of, how cells are pooled, what tables and files hold."""

import json
from dataclasses import replace

import pytest
import torch

from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.evaluation.matching.levels import (
    AXES,
    LEVELS,
    Level,
    levels_of,
    levels_table,
    pooled,
    save_levels,
    shown,
)
from metamodel.evaluation.matching.measures import Judged, levels_in, measures
from metamodel.evaluation.matching.scores import BreakdownGuesses, partial_f1


def pair_at(seed: int, **level: float) -> MatchedPair:
    made = PlantedLevel(**level)  # pyright: ignore[reportArgumentType]
    return synthetic_pair(torch.Generator().manual_seed(seed), made)


def as_kind(pair: MatchedPair, kind: str) -> MatchedPair:
    return replace(pair, kind=kind)  # pyright: ignore[reportArgumentType]


def cell(split: str, noise: float, n: int, dropped: float = 1.0, **f1: float) -> Level:
    return Level(split=split, at=(noise, dropped, 0.0, 0.0), n=n, f1=f1)


def test_a_cell_is_the_mean_of_its_pairs():
    pairs = [pair_at(0, noise=0.5), pair_at(1, noise=0.5), pair_at(2, noise=0.5, dropped=1)]
    (low, high) = levels_of(pairs, "seed", {"a": [0.2, 0.4, 0.9], "b": [1.0, 0.0, 0.5]})
    assert (low.at, low.n, low.split) == ((0.5, 0.0, 0.0, 0.0), 2, "seed")
    assert low.f1 == pytest.approx({"a": 0.3, "b": 0.5})
    assert (high.at, high.n) == ((0.5, 1.0, 0.0, 0.0), 1)
    assert high.f1 == pytest.approx({"a": 0.9, "b": 0.5})


def test_a_level_that_a_pair_does_not_name_counts_as_none():
    pair = pair_at(0, noise=0.5, dropped=2)
    partial = as_kind(pair, "partial")
    level = {name: value for name, value in partial.level.items() if name != "extra_layers"}
    partial = replace(partial, level=level)
    assert levels_of([partial], "seed", {"a": [1.0]})[0].at == (0.5, 2.0, 0.0, 0.0)


def test_cells_are_pooled_pair_by_pair_over_splits_and_axes():
    levels = [cell("seed", 0.4, 3, a=1.0), cell("size", 0.4, 1, a=0.0), cell("size", 0.8, 4, a=0.5)]
    assert [(one.at[0], one.n, one.f1["a"]) for one in pooled(levels)] == [(0.4, 4, 0.75), (0.8, 4, 0.5)]
    (whole,) = pooled(levels, ("dropped",))
    assert (whole.at, whole.n, whole.f1["a"]) == ((1.0,), 8, 0.625)
    assert pooled([*levels, cell("task", 0.4, 1, b=1.0)], ("dropped",))[0].f1 == {}


def test_a_table_shows_ours_and_the_best_opponents_and_the_best_is_bold():
    f1 = {"meta-model": 0.6, "classical": 0.3, "w": 0.1, "x": 0.9, "y": 0.4, "z": 0.5}
    levels = [cell("seed", 0.4, 2, **f1), cell("seed", 0.8, 2, **{**f1, "meta-model": 0.95})]
    assert shown(levels) == ("meta-model", "classical", "x", "z", "y")
    table = levels_table(levels, ("noise",)).splitlines()
    assert table[0] == "| noise | pairs | meta-model | classical | x | z | y |"
    assert table[2] == "| 0.4 | 2 | 0.600 | 0.300 | **0.900** | 0.500 | 0.400 |"
    assert table[3].startswith("| 0.8 | 2 | **0.950** |")
    assert len(levels_table(levels).splitlines()[0].split("|")) == len(AXES) + 1 + 5 + 2
    assert levels_table([]) == ""


def test_the_file_has_every_cell_of_every_split_and_each_axis_alone(tmp_path):
    save_levels([cell("seed", 0.4, 3, a=1.0), cell("size", 0.4, 1, a=0.0)], tmp_path)
    held = json.loads((tmp_path / LEVELS).read_text())
    assert held["axes"] == list(AXES)
    assert [(one["split"], one["partial_f1"]["a"]) for one in held["cells"]] == [
        ("seed", 1.0),
        ("size", 0.0),
        ("all", 0.75),
    ]
    assert held["single"]["noise"] == [{"split": "all", "noise": 0.4, "pairs": 4, "partial_f1": {"a": 0.75}}]


def test_methods_are_scored_where_they_have_every_pair_and_blank_elsewhere():
    pairs = [as_kind(pair_at(seed, noise=0.3), kind) for seed, kind in enumerate(("planted", "program"))]

    def whole(pair: MatchedPair) -> Match:
        assert pair.truth is not None
        p = torch.zeros(len(pair.first), len(pair.second))
        return Match(p=p, pairs=pair.truth, score=1.0)

    def nothing(pair: MatchedPair) -> Match:
        return Match(p=whole(pair).p, pairs=torch.full((len(pair.first),), NONE), score=0.0)

    judged = Judged(
        pairs=tuple(pairs),
        matches={
            "meta-model": [whole(pair) for pair in pairs],
            "random": [nothing(pair) for pair in pairs],
            "activation_correlation": [None, whole(pairs[1])],
            "weight_matching": [None, None],
        },
    )
    found = measures(judged, BreakdownGuesses(constant=3.0, slopes=(0.0, 0.0, 0.0)))
    assert set(found["partial_f1"][1]) == {"meta-model", "random"}
    assert set(found["dustbin_average_precision"][1]) == {"meta-model", "random"}
    assert set(found["breakdown_error"][1]) == {"meta-model", "random", "constant_guess", "size_prior"}
    of, by_method = found["partial_f1/both_subjects"]
    assert list(of) == [pairs[1]]
    assert set(by_method) == {"meta-model", "random", "activation_correlation"}
    assert set(found["partial_f1/program"][1]) == set(by_method)
    assert "partial_f1/same_shape" not in found
    (level,) = levels_in(judged, "seed")
    assert level.n == 1
    assert level.f1 == {"meta-model": 1.0, "random": partial_f1(pairs[0], nothing(pairs[0]).pairs)}
