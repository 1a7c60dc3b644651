"""Pairs: how two triples are related, which are chosen, and which of their components correspond."""

import torch

from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.pair_table import add_pairs
from data_gen.pairs import kind_of, pairs
from data_gen.shard import make_shard
from data_gen.tasks.facts import Facts
from metamodel.config.parser import plain
from metamodel.triples import Zoo, begin, finish


def row(id: str, **values: str) -> dict[str, str]:
    base = {"family": "facts", "variant": "base", "size": "s", "recipe": "r", "origin": "trained"}
    rest = {"subject": id, "lineage": id, "relation": "none", "relative": "", "departs": "none"}
    return {"id": id} | base | rest | values


def test_every_kind_of_pair_is_told_from_the_rows():
    first = row("a")
    assert kind_of(first, row("b")) == "seed"
    assert kind_of(first, row("b", recipe="q")) is None
    assert kind_of(first, row("b", size="wide")) == "size"
    assert kind_of(first, row("b", origin="compiled", size="wide")) == "algorithm"
    assert kind_of(row("a", origin="siit"), row("b", origin="compiled")) == "origin"
    assert kind_of(first, row("b", family="sorting")) == "unrelated"
    assert kind_of(row("a", family="sorting"), row("b", family="rasp-sort")) is None
    both = row("facts+sorting-base-s-r-0000@sorting", subject="facts+sorting-base-s-r-0000", family="sorting")
    assert kind_of(first, both) is None
    assert kind_of(first, row("b", variant="more_keys")) is None
    child = row("c", lineage="a", relation="pruned", relative="a")
    assert kind_of(first, child) == kind_of(child, first) == "pruned"
    assert kind_of(child, row("d", lineage="a", relation="finetuned", relative="a")) is None
    assert kind_of(child, row("b")) is None
    assert kind_of(row("a@facts", subject="a"), row("a@sorting", subject="a", family="sorting")) is None
    compiled = {"origin": "compiled", "lineage": "p"}
    assert kind_of(row("x", **compiled), row("y", **compiled)) == "disguise"


def test_the_choice_of_pairs_does_not_depend_on_order_and_hardly_on_what_else_there_is():
    rows = [row(f"s{i}") for i in range(12)]
    chosen = [(p["first"], p["second"]) for p in pairs(rows, most=10)]
    assert len(chosen) == 10
    assert [(p["first"], p["second"]) for p in pairs(rows[::-1], most=10)] == chosen
    assert [(p["first"], p["second"]) for p in pairs(rows, most=10, seed=1)] != chosen
    fewer = {(p["first"], p["second"]) for p in pairs(rows[:-1], most=10)}
    assert {pair for pair in chosen if "s11" not in pair} <= fewer


def test_components_of_relatives_correspond_except_for_pruned_heads(tmp_path, monkeypatch):
    monkeypatch.setattr(Facts, "threshold", 0.0)
    size = SizeConfig(n_layers=1, n_heads=4, d_model=16, d_head=4)
    cell = CellConfig(
        family="facts", sizes=("s",), recipe="r", n_subjects=2, checkpoints=(0.5,), n_pruned=1, n_finetuned=1
    )
    config = ZooConfig(
        name="z",
        n_ctx=16,
        sizes={"s": size},
        recipes={"r": RecipeConfig(steps=4, batch_size=4, warmup_steps=1)},
        cells=(cell,),
        harvest=HarvestConfig(n_prompts=8, n_behavior_prompts=16, n_probes=4, n_shown=8, n_random=8),
    )
    folder, threads = tmp_path / "z", torch.get_num_threads()
    begin(folder, name="z", config=plain(config), labels=(), n_shards=1)
    make_shard(config, folder, 0)
    torch.set_num_threads(threads)
    finish(folder)
    counts = add_pairs(folder, most=5)
    assert dict(counts) == {"seed": 1, "checkpoint": 2, "finetuned": 1, "pruned": 1}
    held = {pair["kind"]: pair for pair in Zoo.open(folder).table("pairs").to_list()}
    n_nodes = 2 + 4 + 1
    assert held["seed"]["map"] is None
    assert held["checkpoint"]["map"] == held["finetuned"]["map"] == list(range(n_nodes))
    counterparts = held["pruned"]["map"]
    assert counterparts.count(-1) == 2
    assert all(counterparts[i] in (i, -1) for i in range(n_nodes))
    assert {i for i in range(n_nodes) if counterparts[i] == -1} <= {2, 3, 4, 5}
