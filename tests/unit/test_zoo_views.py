"""A zoo as its users want it: selected, as a torch dataset, as one of Hugging Face, and with its card."""

import importlib
from pathlib import Path

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from metamodel.config import InputError
from metamodel.triples import Zoo, begin
from metamodel.triples.dataset_card import CARD, dataset_card, write_card
from metamodel.triples.tables import table_names, table_problems, write_table

FEATURES = datasets.Features({"first": datasets.Value("string"), "second": datasets.Value("string")})


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("test_store")


@pytest.fixture
def folder(tmp_path, synthetic):
    return synthetic.store_zoo(tmp_path / "synthetic")


def test_a_selection_is_a_zoo_of_the_triples_that_have_the_values(folder):
    zoo = Zoo.open(folder)
    lineage = zoo.to_pandas()["lineage"][2]
    some = zoo.where(lineage=lineage, family=("repeated",))
    assert some.ids == (zoo.ids[2],)
    assert len(some) == len(some.rows) == len(some.to_pandas()) == 1
    assert some[0].info == zoo[2].info
    assert torch.equal(some[0].subject.weights["embed.W_E"], zoo[2].subject.weights["embed.W_E"])
    assert some[0].truth is not None
    assert [t.info.id for t in zoo.where(origin="trained")] == list(zoo.ids)
    assert some.where(size="s").ids == some.ids
    with pytest.raises(InputError, match="expected the id of a subject"):
        some.triple(zoo.ids[0])


def test_a_value_that_no_triple_has_is_answered_with_the_nearest(folder):
    with pytest.raises(
        InputError, match=r"Zoo\.where: origin: expected one of \['trained'\], got 'traind'.*'trained'\?"
    ):
        Zoo.open(folder).where(origin="traind")


def test_a_zoo_is_a_torch_dataset(folder):
    zoo = Zoo.open(folder)
    loader = DataLoader(zoo, batch_size=2, collate_fn=lambda triples: [t.info.id for t in triples])
    assert [id for batch in loader for id in batch] == list(zoo.ids)


def test_a_zoo_is_a_hugging_face_dataset_with_the_arrays_that_are_asked_for(folder):
    zoo = Zoo.open(folder)
    made = zoo.to_dataset(["labels/state", "truth/role"])
    assert made["id"] == list(zoo.ids)
    assert made[1]["labels/state"] == zoo[1].labels.state.tolist()
    assert made[0]["truth/role"] is None
    assert zoo[2].truth is not None
    assert made[2]["truth/role"] == zoo[2].truth.role.tolist()
    assert "labels/state" not in zoo.to_dataset().column_names
    with pytest.raises(
        InputError, match=r"arrays: expected a known array, got 'labels/stat'.*'labels/state'\?"
    ):
        zoo.to_dataset(["labels/stat"])


def test_a_table_beside_the_shards_changes_no_fingerprint(folder):
    before = Zoo.open(folder).fingerprint
    ids = Zoo.open(folder).ids
    write_table(folder, "pairs", [{"first": ids[0], "second": ids[1]}], FEATURES)
    zoo = Zoo.open(folder)
    assert zoo.fingerprint == before
    assert zoo.table("pairs").to_list() == [{"first": ids[0], "second": ids[1]}]
    assert table_names(folder) == ["pairs"]


def test_a_table_that_is_missing_damaged_or_of_another_zoo_is_refused(folder):
    with pytest.raises(
        InputError, match=r"expected a table, got none named 'pairs'. Make it: python -m data_gen.pairs"
    ):
        Zoo.open(folder).table("pairs")
    path = write_table(folder, "pairs", [{"first": "a", "second": "b"}], FEATURES)
    record = path.with_suffix(".json")
    whole, text = path.read_bytes(), record.read_text()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="rows that are not those of its record"):
        Zoo.open(folder).table("pairs")
    path.write_bytes(whole)
    record.write_text(text.replace(Zoo.open(folder).fingerprint, "0" * 64))
    assert table_problems(folder, "pairs") == ["rows made for another zoo (000000000000)"]
    record.write_text("{")
    assert table_problems(folder, "pairs") == ["no readable record"]


def test_no_table_is_added_to_an_unfinished_zoo(tmp_path, synthetic):
    begin(tmp_path / "z", name="z", config=synthetic.CONFIG, labels=synthetic.LABELS, n_shards=2)
    with pytest.raises(InputError, match="expected a finished zoo"):
        write_table(tmp_path / "z", "pairs", [], FEATURES)


def test_the_card_counts_what_the_zoo_holds_and_is_the_same_twice(folder, synthetic):
    text = write_card(folder).read_text()
    assert text == dataset_card(Zoo.open(folder))
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert (
        "3 triples (activation, circuit, behavior) of 3 networks in 3 lineages; 1 networks were rejected"
        in text
    )
    assert "| trained | 3 |" in text
    assert Zoo.open(folder).fingerprint[:16] in text
    truth = synthetic.synthetic_triple(2, synthetic.SHAPES[1]).truth
    assert truth is not None
    assert f"| trained | 1 | {truth.worst:.3f} | {truth.worst:.3f} |" in text
    assert "`previous_token`" in text


def test_the_folder_opens_as_a_dataset_without_this_package(folder, tmp_path):
    write_card(folder)
    assert (folder / CARD).is_file()
    opened = datasets.load_dataset(str(folder), "triples", cache_dir=str(tmp_path / "cache"))["train"]
    assert opened["id"] == list(Zoo.open(folder).ids)
    assert opened["accuracy"] == pytest.approx([0.875] * 3)
