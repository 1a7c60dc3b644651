"""Splits hold lineages apart, and nobody moves when others come or go."""

import json
import random

import pytest
from datasets import Dataset

from metamodel.config import InputError
from metamodel.config.words import TEST_SPLITS
from metamodel.triples.splits import Splits, make_splits, refuse_trained

FRACTIONS = {"validation_fraction": 0.15, "test_fraction": 0.25}


def rows(n_lineages: int = 120, *, first: int = 0, copies: int = 2):
    """Lineages with two subjects each, half of which depart along some axis."""
    departures = ("none", "none", "variant", "recipe", "none", "size", "none", "origin", "task", "none")
    return [
        {"id": f"s{i}-{copy}", "lineage": f"lineage{i}", "departs": departures[i % 10]}
        for i in range(first, first + n_lineages)
        for copy in range(copies)
    ]


def split_of(splits: Splits) -> dict[str, str]:
    names = ("train", "validation", *TEST_SPLITS)
    return {id: name for name in names for id in getattr(splits, name)}


def test_every_subject_is_in_one_split_and_lineages_stay_whole():
    made = make_splits(rows(), seed=0, **FRACTIONS)
    found = split_of(made)
    assert sorted(found) == sorted(row["id"] for row in rows())
    assert sum(len(made.of(name)) for name in ("train", "validation", *TEST_SPLITS)) == len(rows())
    for i in range(120):
        assert found[f"s{i}-0"] == found[f"s{i}-1"]


def test_training_leaves_out_everything_that_departs_and_each_test_departs_along_its_axis_only():
    made = make_splits(rows(), seed=0, **FRACTIONS)
    departs = {row["id"]: row["departs"] for row in rows()}
    for name in ("train", "validation", "seed"):
        assert {departs[id] for id in made.of(name)} == {"none"}
    for name in ("variant", "size", "recipe", "origin", "task"):
        assert {departs[id] for id in made.of(name)} == {name}
        assert len(made.of(name)) == sum(d == name for d in departs.values())


def test_adding_dropping_and_shuffling_subjects_moves_no_other():
    small, large = rows(60), rows(120)
    random.Random(0).shuffle(large)
    before = split_of(make_splits(small, seed=3, **FRACTIONS))
    after = split_of(make_splits(large, seed=3, **FRACTIONS))
    assert before == {id: after[id] for id in before}


def test_another_seed_gives_other_splits():
    first = make_splits(rows(), seed=0, **FRACTIONS)
    second = make_splits(rows(), seed=1, **FRACTIONS)
    assert set(first.seed) != set(second.seed)
    assert set(first.validation) != set(second.validation)
    assert first.size == second.size


def test_fractions_are_kept_on_average():
    made = make_splits(rows(4000, copies=1), seed=0, **FRACTIONS)
    n = len(made.train) + len(made.validation) + len(made.seed)
    assert len(made.seed) / n == pytest.approx(0.25, abs=0.03)
    assert len(made.validation) / n == pytest.approx(0.15, abs=0.03)


def test_the_table_of_a_zoo_is_split_as_its_rows_are():
    assert make_splits(Dataset.from_list(rows()), seed=0, **FRACTIONS) == make_splits(
        rows(), seed=0, **FRACTIONS
    )


def test_splits_survive_being_saved(tmp_path):
    made = make_splits(rows(), seed=0, **FRACTIONS)
    made.save(tmp_path / "splits.json")
    assert Splits.load(tmp_path / "splits.json") == made


def test_a_subject_in_two_splits_is_impossible():
    made = make_splits(rows(), seed=0, **FRACTIONS)
    with pytest.raises(AssertionError, match="in two splits"):
        Splits(
            train=made.train,
            validation=made.train[:1],
            seed=(),
            variant=(),
            size=(),
            recipe=(),
            origin=(),
            task=(),
            trained_lineages=(),
        )


def test_a_lineage_across_two_departures_is_refused():
    cut = [*rows(), {"id": "odd", "lineage": "lineage2", "departs": "size"}]
    with pytest.raises(InputError) as error:
        make_splits(cut, seed=0, **FRACTIONS)
    assert str(error.value) == (
        "lineage lineage2: expected all its subjects in one split, got variant and size. "
        "Give one departure to all subjects of a lineage."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "split train: expected at least one subject, got none."),
        ([row for row in rows() if row["departs"] == "size"], "split train: expected at least one subject"),
        (rows(2), "expected at least one subject, got none. Add subjects to the zoo, or name another split."),
    ],
)
def test_an_empty_split_is_refused(given, message):
    with pytest.raises(InputError) as error:
        make_splits(given, seed=0, **FRACTIONS)
    assert message in str(error.value)


def test_asking_for_an_empty_or_unknown_split_is_one_line():
    made = make_splits([r for r in rows() if r["departs"] != "task"], seed=0, **FRACTIONS)
    assert "task" not in made.tests
    assert set(made.tests) == {"seed", "variant", "size", "recipe", "origin"}
    with pytest.raises(InputError) as error:
        made.of("task")
    assert str(error.value).startswith("split task: expected at least one subject, got none.")
    with pytest.raises(InputError) as error:
        made.of("sed")
    assert str(error.value) == (
        "split: expected one of train, validation, seed, variant, size, recipe, origin, task, got 'sed'. "
        "Name one of them. Did you mean 'seed'?"
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match=r"splits\.test_fraction: expected between 0 and 1, got"):
        make_splits(rows(), seed=0, validation_fraction=0.1, test_fraction=fraction)
    with pytest.raises(InputError, match="validation_fraction \\+ test_fraction < 1"):
        make_splits(rows(), seed=0, validation_fraction=0.5, test_fraction=0.5)


def test_what_was_trained_on_is_not_evaluated():
    made = make_splits(rows(), seed=0, **FRACTIONS)
    lineage_of = {row["id"]: row["lineage"] for row in rows()}
    for ids in made.tests.values():
        refuse_trained(made, [lineage_of[id] for id in ids])
    for name in ("train", "validation"):
        lineage = lineage_of[made.of(name)[0]]
        with pytest.raises(InputError) as error:
            refuse_trained(made, [lineage, "unheard of"])
        assert str(error.value) == (
            "evaluate: expected subjects whose lineage was not trained on, "
            f"got 1 that were, such as {lineage}. Choose another split or zoo."
        )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": []}'])
def test_a_file_that_holds_no_splits_is_refused(tmp_path, text):
    path = tmp_path / "splits.json"
    with pytest.raises(InputError, match="expected saved splits, got no file"):
        Splits.load(path)
    path.write_text(text)
    with pytest.raises(InputError, match="expected saved splits, got something else"):
        Splits.load(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation": ["s0-0"]}, ": expected each subject in one split, got 's0-0' twice"),
        ({"size": None}, ".size: expected a list, each text, got None"),
        ({"size": [3]}, ".size: expected a list, each text, got [3]"),
        ({"sise": []}, ".sise: expected a known key, got an unknown one"),
        ({"schema_version": 3}, ": expected schema version 2, got 3"),
    ],
)
def test_damaged_splits_are_one_line(tmp_path, changes, said):
    path = tmp_path / "splits.json"
    names = ("train", "validation", *TEST_SPLITS, "trained_lineages")
    whole = {"schema_version": 2, **{name: [] for name in names}, "train": ["s0-0"]}
    path.write_text(json.dumps(whole))
    assert Splits.load(path).train == ("s0-0",)
    path.write_text(json.dumps(whole | changes))
    with pytest.raises(InputError) as error:
        Splits.load(path)
    assert str(error.value).startswith(f"{path}{said}.")
    assert "\n" not in str(error.value)
