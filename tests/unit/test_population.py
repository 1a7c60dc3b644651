"""Specs of subjects depend on what they say, not on where they stand."""

from dataclasses import replace
from typing import Any

import pytest

from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.population import shard_specs
from metamodel.config import InputError

SMALL = SizeConfig(n_layers=1, n_heads=2, d_model=8, d_head=4)
CELLS = (
    CellConfig(family="repeated", sizes=("s", "m"), recipe="r", n_subjects=5),
    CellConfig(family="facts", sizes=("s",), recipe="r", n_subjects=3, departs="task"),
)


def zoo(cells: tuple[CellConfig, ...] = CELLS, **changes) -> ZooConfig:
    fields: dict[str, Any] = {
        "name": "zoo",
        "n_ctx": 16,
        "sizes": {"s": SMALL, "m": replace(SMALL, d_mlp=16)},
        "recipes": {"r": RecipeConfig(steps=100)},
        "cells": cells,
        "subjects_per_shard": 2,
    }
    return ZooConfig(**(fields | changes))


def seeds(config: ZooConfig) -> dict[str, int]:
    return {subject.id: subject.seed for shard in shard_specs(config) for subject in shard.subjects}


def test_every_subject_of_every_cell_is_in_one_shard_and_has_a_seed_and_lineage_of_its_own():
    shards = shard_specs(zoo())
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert [len(shard.subjects) for shard in shards] == [2, 2, 1, 2, 2, 1, 2, 1]
    found = [subject for shard in shards for subject in shard.subjects]
    for name in ("id", "seed", "lineage"):
        assert len({getattr(subject, name) for subject in found}) == 13
    assert {(s.family, s.cell.departs) for s in shards} == {("repeated", "none"), ("facts", "task")}


def test_order_shards_and_further_cells_change_no_other_subject():
    before = seeds(zoo())
    more = CellConfig(family="modular", sizes=("s",), recipe="r", n_subjects=2)
    assert seeds(zoo((CELLS[1], CELLS[0]))) == before
    assert seeds(zoo(subjects_per_shard=5)) == before
    assert before.items() <= seeds(zoo((more, *CELLS))).items()
    assert before.items() <= seeds(zoo((replace(CELLS[0], n_subjects=9), CELLS[1]))).items()


def test_zoo_seed_shape_and_recipe_change_seeds():
    before = seeds(zoo())
    assert not before.items() & seeds(zoo(seed=1)).items()
    assert not before.items() & seeds(zoo(recipes={"r": RecipeConfig(steps=101)})).items()
    wider = zoo(sizes={"s": replace(SMALL, d_model=16), "m": replace(SMALL, d_mlp=16)})
    assert {name for name, seed in seeds(wider).items() if seed == before[name]} == {
        name for name in before if "-m-" in name
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: zoo((replace(CELLS[0], family="repeted"),)),
            "task.family: expected one of .*Did you mean 'repeated'",
        ),
        (lambda: zoo((replace(CELLS[0], recipe="q"),)), r"zoo.cells\[0\].recipe: expected one of \['r'\]"),
        (lambda: zoo((replace(CELLS[0], sizes=("l",)),)), r"zoo.cells\[0\].sizes: expected one of"),
        (
            lambda: zoo((CELLS[0], CELLS[0])),
            r"zoo.cells\[1\]: expected each .* once, got trained-repeated",
        ),
        (lambda: zoo(n_ctx=12), r"zoo.cells\[0\]: expected prompts of at most n_ctx = 12 tokens, got 16"),
        (lambda: zoo(()), "zoo.cells: expected at least one cell, got none"),
        (lambda: zoo(name="a/b"), "zoo.name: expected a name of a folder, got 'a/b'"),
        (lambda: replace(SMALL, n_layers=5), "size.n_layers: expected 1 to 4 layers, got 5"),
        (lambda: replace(SMALL, n_heads=0), "size.n_heads: expected at least 1, got 0"),
        (lambda: RecipeConfig(steps=0), "recipe.steps: expected at least 1, got 0"),
        (lambda: RecipeConfig(steps=9), "recipe.warmup_steps: expected at most the 9 steps, got 50"),
        (lambda: RecipeConfig(steps=99, learning_rate=-0.1), "recipe.learning_rate: expected > 0, got -0.1"),
        (lambda: HarvestConfig(n_null_copies=5), "harvest.n_null_copies: expected at least 20, got 5"),
    ],
)
def test_what_is_out_of_range_or_unknown_is_answered_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        shard_specs(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"variant": "long", "departs": "variant"}, True),
        ({"variant": "long", "departs": "variant", "recipe": "other"}, False),
        ({"variant": "long", "departs": "variant", "sizes": ("l",)}, False),
        ({"departs": "variant", "recipe": "other"}, False),
        ({"departs": "size", "sizes": ("l",)}, True),
        ({"departs": "size", "sizes": ("l",), "recipe": "other"}, False),
        ({"departs": "size", "sizes": ("l",), "variant": "long"}, False),
        ({"departs": "size", "sizes": ("s",), "variant": "long"}, False),
        ({"departs": "task", "family": "modular"}, True),
        ({"departs": "task", "family": "modular", "recipe": "other"}, False),
        ({"departs": "task", "family": "modular", "sizes": ("l",)}, False),
        ({"departs": "task", "variant": "long"}, False),
        ({"departs": "task", "family": "modular+facts"}, True),
        ({"departs": "task", "family": "modular+repeated"}, False),
        ({"departs": "task", "family": "rasp-induction"}, False),  # repeated by another name
        ({"departs": "recipe", "recipe": "other"}, True),
        ({"departs": "recipe", "recipe": "other", "sizes": ("l",)}, False),
        ({"departs": "recipe", "variant": "long"}, False),
        ({"departs": "origin", "origin": "siit"}, True),
        ({"departs": "origin", "origin": "siit", "sizes": ("l",)}, False),
        ({"departs": "origin", "origin": "siit", "variant": "long"}, False),
        ({"departs": "origin", "variant": "long"}, False),
    ],
)
def test_what_departs_departs_along_one_axis_only(changes, fits):
    base = CellConfig(family="repeated", sizes=("s",), recipe="r", n_subjects=2)
    cells = (base, replace(base, **changes))
    sizes = {"s": SMALL, "l": replace(SMALL, d_model=16)}
    recipes = {"r": RecipeConfig(steps=100), "other": RecipeConfig(steps=200)}
    if fits:
        zoo(cells, sizes=sizes, recipes=recipes)
        return
    with pytest.raises(
        InputError, match=rf"zoo\.cells\[1\]\.departs: expected .* got '{changes['departs']}' for"
    ):
        zoo(cells, sizes=sizes, recipes=recipes)


def test_made_subjects_share_lineages_as_they_share_circuits_however_they_are_sharded():
    size = replace(SMALL, n_heads=6, d_model=64, d_head=10, d_mlp=64, normalization_type="none")
    recipes = {"r": RecipeConfig(steps=100)}

    def lineages(per_shard: int) -> dict[str, list[str]]:
        base = CellConfig(family="rasp-first", sizes=("s",), recipe="r", n_subjects=6)
        cells = tuple(replace(base, origin=origin) for origin in ("trained", "compiled", "siit", "planted"))
        config = zoo(cells, sizes={"s": size}, recipes=recipes, subjects_per_shard=per_shard)
        found: dict[str, list[str]] = {}
        for shard in shard_specs(config):
            assert shard.first % per_shard == 0
            found.setdefault(shard.cell.origin, []).extend(subject.lineage for subject in shard.subjects)
        return found

    held = lineages(2)
    assert held == lineages(5)
    distinct = {origin: len(set(names)) for origin, names in held.items()}
    assert distinct == {"trained": 6, "compiled": 3, "siit": 6, "planted": 1}
    assert len({name for names in held.values() for name in names}) == 16


def test_prompts_that_hold_their_answers_are_not_for_bidirectional_subjects():
    cell = CellConfig(family="repeated", sizes=("s",), recipe="r", n_subjects=2)
    both = {"s": replace(SMALL, attention_dir="bidirectional")}
    with pytest.raises(
        InputError, match="expected causal subjects, for prompts of repeated hold their answers"
    ):
        shard_specs(zoo((cell,), sizes=both))
    assert shard_specs(zoo((replace(cell, family="brackets"),), sizes=both))
