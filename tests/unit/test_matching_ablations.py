"""Ablations of the matcher: what they change, what they judge, and that nothing of a test is looked at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ablation_entries import DEFAULT, ENTRIES, HeldOut, arguments_of, without_tests
from matching_ablations import METRICS, asked_of, keep, parts_of, read, table

from metamodel.analogy.pair_store import PairZoo, write_pairs
from metamodel.analogy.pairs import MatchedPair
from metamodel.analogy.planted import PlantedLevel
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.config import InputError
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.matching.scores import alone, partial_f1
from metamodel.triples import begin, finish

LEVEL = PlantedLevel(noise=0.2, feature_noise=0.2, dropped=1, inserted=1)


def pair_at(seed: int, split: str, id: str, *, present: bool = True) -> MatchedPair:
    pair = synthetic_pair(torch.Generator().manual_seed(seed), LEVEL, n_features=2)
    sides = [replace(side, id=id, lineage=f"{id}") for side in (pair.first_side, pair.second_side)]
    made = replace(pair, kind="planted", split=split, first_side=sides[0], second_side=sides[1])
    return made if present else replace(made, kind="absent", truth=None, present=False)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> PairZoo:
    pairs = []
    for n, id in enumerate(
        ("facts-base-l2h4-r-0000", "sorting-base-l2h4-mlp-r-0001", "ioi-base-l3h4-r-0002")
    ):
        for k, split in enumerate(("train", "validation", "seed")):
            pairs += [pair_at(6 * n + 2 * k, split, id), pair_at(6 * n + 2 * k + 1, split, id, present=False)]
    folder = tmp_path_factory.mktemp("pairs") / "p"
    begin(folder, name="p", config={}, labels=(), n_shards=1)
    write_pairs(folder, 0, pairs, ("one", "two"), ())
    finish(folder)
    return PairZoo.open(folder)


def test_every_entry_is_a_configuration_that_the_command_of_training_understands():
    steps = {}
    for name, changes in ENTRIES.items():
        parser = command_parser(prog="x", description="")
        config, _ = parse_config(parser, MatchingConfig, arguments_of(changes, steps=100))
        steps[name] = config.training.steps
        plain = replace(config, training=replace(config.training, steps=MatchingConfig().training.steps))
        assert (plain == MatchingConfig()) == (set(changes) <= {"steps"}), name
    assert steps["longer"] == 300
    assert steps[DEFAULT] == 100


def test_tests_are_left_out_and_what_is_held_out_is_judged_and_not_trained_on(zoo):
    plain = without_tests(zoo, HeldOut())
    assert {pair.split for pair in plain.pairs} == {"train", "validation"}
    sized = without_tests(zoo, HeldOut(sizes=("l2h4",)))
    judged = sized.of("size")
    assert {pair.first_side.id for pair in judged} == {"facts-base-l2h4-r-0000"}
    assert len(judged) == 4
    assert not [p for p in sized.pairs if p.split != "size" and "facts" in p.first_side.id]
    assert [p for p in sized.of("train") if "l2h4-mlp" in p.first_side.id]
    tasks = without_tests(zoo, HeldOut(tasks=("sorting", "ioi")))
    assert {pair.first_side.id[:5] for pair in tasks.of("task")} == {"sorti", "ioi-b"}
    mixed = replace(judged[0], second_side=replace(judged[0].second_side, id="ioi-base-l3h4-r-0002"))
    more = PairZoo(zoo.folder, zoo.manifest, (*plain.pairs, replace(mixed, split="train")), (), ())
    assert len(without_tests(more, HeldOut(sizes=("l2h4",))).pairs) == len(sized.pairs)
    for noise, judged_too in ((0.0, 0), (0.5, 1)):
        partial = replace(judged[0], split="train", kind="partial", level={"noise": noise})
        more = PairZoo(zoo.folder, zoo.manifest, (*plain.pairs, partial), (), ())
        assert len(without_tests(more, HeldOut(sizes=("l2h4",))).pairs) == len(sized.pairs) + judged_too
    with pytest.raises(InputError, match="hold-out-sizes"):
        without_tests(zoo, HeldOut(sizes=("l9h9",)))


def scores_of(pairs, *, perfect: bool) -> dict:
    parts, asked = parts_of(pairs), asked_of(pairs)
    maps = [pair.truth if perfect else torch.full_like(pair.truth, -1) for pair in parts]
    return {
        "f1": [partial_f1(pair, found) for pair, found in zip(parts, maps, strict=True)],
        "alone": [
            (alone(p, torch.zeros(len(p.first), len(p.second)))[0] * float(perfect)).tolist() for p in parts
        ],
        "presence": [float(pair.present) if perfect else 0.0 for pair in asked],
    }


def test_the_table_holds_each_entry_against_the_default(zoo):
    pairs = without_tests(zoo, HeldOut()).of("validation")
    entries = {
        "gw": scores_of(pairs, perfect=False),
        DEFAULT: scores_of(pairs, perfect=True),
    }
    head, _, default, worse = table(entries, pairs).splitlines()
    assert all(name in head for name in METRICS)
    assert default.startswith("| default | 1.000 |  | 1.000 | nan |")
    cells = [cell.strip() for cell in worse.split("|")[1:-1]]
    assert cells[:3] == ["gw", "0.000", "**-1.000 [-1.000, -1.000]**"]
    assert cells[-2:] == ["0.500", "**-0.500 [-0.500, -0.500]**"]
    assert len(head.split("|")) == len(worse.split("|"))
    alone_in_it = table({"gw": entries["gw"]}, pairs).splitlines()[-1]
    assert "[" not in alone_in_it


def test_entries_are_kept_beside_those_of_others_and_never_mixed_with_other_settings(tmp_path: Path):
    file, header = tmp_path / "a.json", {"zoo": "p 1", "steps": 5}
    keep(file, header, "gw", {"f1": [1.0]})
    keep(file, header, "cycle", {"f1": [0.5]})
    assert set(read(file, header)["entries"]) == {"gw", "cycle"}
    assert json.loads(file.read_text())["steps"] == 5
    with pytest.raises(InputError, match="steps: expected 6, got 5"):
        read(file, header | {"steps": 6})
    assert read(tmp_path / "none.json", header)["entries"] == {}
