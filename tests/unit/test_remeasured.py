"""Labels measured again: every triple, every time, on other prompts; the same again from the same number."""

import json

import pytest
import torch

from data_gen import remeasured
from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.harvesting import circuit_prompts
from data_gen.labels.registry import LABELS
from data_gen.remeasured import add_remeasured, groups_of, harvest_of, measured
from data_gen.seeds import derived_seed
from data_gen.shard import make_shard
from data_gen.subject_task import task_of
from data_gen.tasks.facts import Facts
from metamodel.config import InputError
from metamodel.config.parser import plain
from metamodel.subjects.config import components
from metamodel.triples import Zoo, begin, finish


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A zoo of two subjects of one task, hardly trained."""
    folder, threads = tmp_path_factory.mktemp("remeasured") / "z", torch.get_num_threads()
    size = SizeConfig(n_layers=1, n_heads=4, d_model=16, d_head=4)
    config = ZooConfig(
        name="z",
        n_ctx=16,
        sizes={"s": size},
        recipes={"r": RecipeConfig(steps=4, batch_size=4, warmup_steps=1)},
        cells=(CellConfig(family="facts", sizes=("s",), recipe="r", n_subjects=2),),
        harvest=HarvestConfig(n_prompts=8, n_behavior_prompts=16, n_probes=4, n_shown=8, n_random=8),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Facts, "threshold", 0.0)
        begin(folder, name="z", config=plain(config), labels=LABELS, n_shards=1)
        make_shard(config, folder, 0)
    torch.set_num_threads(threads)
    finish(folder)
    return folder


def test_the_table_holds_every_triple_as_often_as_asked_in_the_order_of_the_zoo(folder):
    assert add_remeasured(folder, times=2, workers=1, progress=False) == 2
    zoo = Zoo.open(folder)
    rows = zoo.table("remeasured").to_list()
    assert [(row["id"], row["measurement"]) for row in rows] == [(id, k) for id in zoo.ids for k in (0, 1)]
    for row in rows:
        triple = zoo.triple(row["id"])
        n_nodes = len(components(triple.subject.config))
        assert len(row["raw"]) == len(row["state"]) == n_nodes * len(LABELS)
        assert len(row["node_member"]) == n_nodes
        assert len(row["member"]) == len(triple.circuit.member)
        # what is undefined does not depend on the prompts
        kept = torch.tensor(row["raw"]).view(n_nodes, -1).isnan()
        assert torch.equal(kept.all(1), triple.labels.raw.isnan().all(1))


def test_a_measurement_is_the_same_again_and_another_one_is_not(folder):
    zoo = Zoo.open(folder)
    once, again, other = (measured(zoo, zoo.ids, k) for k in (0, 0, 1))
    assert repr(once) == repr(again)
    for one, two in zip(once, other, strict=True):
        assert torch.tensor(one["raw"]).nan_to_num().ne(torch.tensor(two["raw"]).nan_to_num()).any()


def test_each_measurement_has_prompts_of_its_own(folder):
    zoo = Zoo.open(folder)
    harvest, seed = harvest_of(folder)
    task = task_of(zoo.info(zoo.ids[0]), seed)
    seeds = (seed, *(derived_seed(seed, "measured again", k) for k in (0, 1)))
    stored, first, second = (circuit_prompts(task, zoo.ids[0], harvest, s).clean for s in seeds)
    assert stored.shape == first.shape
    assert not torch.equal(stored, first)
    assert not torch.equal(first, second)


def test_triples_share_a_null_where_shape_and_task_are_the_same():
    rows = [{"id": i, "family": f, "variant": "v", "size": s} for i, f, s in ("axs", "bxs", "cys", "dxt")]
    assert groups_of(rows) == [("a", "b"), ("c",), ("d",)]


def test_imported_subjects_and_no_measurement_are_refused_in_one_line(tmp_path):
    begin(tmp_path / "z", name="z", config={"imported": {}}, labels=(), n_shards=0)
    finish(tmp_path / "z")
    with pytest.raises(InputError) as error:
        remeasured.main([str(tmp_path / "z")])
    assert str(error.value) == (
        f"{tmp_path / 'z'}: expected a zoo of subjects that were made here, got one of imported subjects. "
        "Harvest them again on other prompts instead."
    )
    with pytest.raises(InputError, match="--times: expected at least 1, got 0"):
        remeasured.main([str(tmp_path / "z"), "--times", "0"])


def test_an_unfinished_zoo_is_refused_in_one_line(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    with pytest.raises(InputError, match="expected a finished zoo, got one that is being built"):
        add_remeasured(tmp_path, times=1)
