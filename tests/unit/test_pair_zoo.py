"""A zoo of pairs from end to end: how it is planned, made, stored, read, and what is refused."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.labels.registry import LABELS
from data_gen.matching.build import build, described, make_shard
from data_gen.matching.config import CountConfig, LevelsConfig, PairZooConfig, TuningConfig
from data_gen.matching.plan import PairSpec, departing, plan
from data_gen.shard import make_shard as make_triples
from data_gen.tasks import make_task
from metamodel.analogy.pair_store import PairZoo, holds_pairs
from metamodel.analogy.pairs import PAIR_SPLITS
from metamodel.config import InputError
from metamodel.config.parser import plain
from metamodel.features.registry import feature_names
from metamodel.triples import Zoo, begin, finish

COUNT = CountConfig(train=2, validation=1, test=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Barely trained subjects of two families, of which one departs by task."""
    folder = tmp_path_factory.mktemp("zoos") / "z"
    config = ZooConfig(
        name="z",
        n_ctx=16,
        subjects_per_shard=12,
        sizes={
            "s": SizeConfig(n_layers=1, n_heads=3, d_model=16, d_head=4, d_mlp=16),
            "wide": SizeConfig(n_layers=2, n_heads=3, d_model=16, d_head=4),
        },
        recipes={"r": RecipeConfig(steps=30, batch_size=16, learning_rate=0.01, warmup_steps=5)},
        cells=(
            CellConfig(family="sorting", sizes=("s",), recipe="r", n_subjects=6),
            CellConfig(family="facts", sizes=("s",), recipe="r", n_subjects=6),
            CellConfig(family="sorting", sizes=("wide",), recipe="r", n_subjects=2, departs="size"),
            CellConfig(family="brackets", sizes=("s",), recipe="r", n_subjects=2, departs="task"),
        ),
        harvest=HarvestConfig(n_prompts=8, n_behavior_prompts=16, n_probes=4, n_shown=8, n_random=8),
    )
    with pytest.MonkeyPatch.context() as patch:
        for family in ("sorting", "facts", "brackets"):
            patch.setattr(type(make_task(family, "base", 0)), "threshold", 0.0)
        begin(folder, name="z", config=plain(config), labels=LABELS, n_shards=4)
        threads = torch.get_num_threads()
        for index in range(4):
            make_triples(config, folder, index)
        torch.set_num_threads(threads)
        finish(folder)
    return folder


def config_of(source: Path, **changes) -> PairZooConfig:
    values = {
        "name": "p",
        "source": str(source),
        "validation_fraction": 0.25,
        "test_fraction": 0.3,
        "fewest_active": 3,
        "n_spread": 3,
        "counts": dict.fromkeys(("permuted", "modified", "larger", "partial", "natural", "planted"), COUNT),
        "levels": LevelsConfig(
            noise=(0.3,), feature_noise=(0.5,), dropped=(0, 1), inserted=(1,), extra_layers=(0,)
        ),
        "tuning": TuningConfig(steps=3, renewed_steps=3),
    }
    return PairZooConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "p"
    with pytest.MonkeyPatch.context() as patch:
        for family in ("sorting", "facts", "brackets"):
            patch.setattr(type(make_task(family, "base", 0)), "threshold", 0.0)
        _build_here(config_of(source), out)
    return out


def _build_here(config: PairZooConfig, out: Path) -> None:
    """As `build`, in this process, where thresholds are low."""
    zoo = Zoo.open(Path(config.source))
    found = plan(config, zoo)
    begin(out, name=config.name, config=plain(config), labels=(), n_shards=len(found.shards))
    threads = torch.get_num_threads()
    for index in range(len(found.shards)):
        make_shard(config, found, out, index)
    torch.set_num_threads(threads)
    finish(out)


def test_every_split_has_pairs_and_no_lineage_is_in_two(built):
    zoo = PairZoo.open(built)
    lineages = [zoo.lineages(split) for split in PAIR_SPLITS]
    assert all(lineages)
    assert sum(map(len, lineages)) == len(frozenset().union(*lineages))
    kinds = {pair.kind for pair in zoo.of("train")}
    assert kinds == {"permuted", "modified", "larger", "partial", "natural", "planted", "absent"}
    assert holds_pairs(built)


def test_nodes_are_described_by_what_is_asked(built):
    known = set(feature_names("both"))
    zoo, both = PairZoo.open(built), PairZoo.open(built, described_by="both")
    alone, bare = (PairZoo.open(built, described_by=what) for what in ("ratios", "edges"))
    assert known >= set(zoo.feature_names)
    assert known.isdisjoint(alone.feature_names)
    assert both.feature_names == zoo.feature_names + alone.feature_names
    assert alone.feature_names
    assert not bare.feature_names
    for pairs in zip(zoo.pairs, alone.pairs, both.pairs, bare.pairs, strict=True):
        graphs = [pair.first for pair in pairs]
        assert torch.equal(torch.cat([graph.features for graph in graphs[:2]], 1), graphs[2].features)
        assert graphs[3].features.shape == (len(graphs[3]), 0)


def test_ratios_of_a_zoo_without_them_are_refused(built, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(built, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        for name in shard["files"]:
            if name.endswith(".pairs.json"):
                file = folder / "shards" / name
                held = json.loads(file.read_text())
                held["features"] = [name.replace("ratio", "other") for name in held["features"]]
                file.write_text(json.dumps(held))
                data = file.read_bytes()
                shard["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="features: expected ratio signatures among them"):
        PairZoo.open(folder, described_by="both")


def test_kinds_are_what_they_say(built):
    zoo = PairZoo.open(built)
    for pair in zoo.pairs:
        assert (pair.kind == "absent") == (not pair.present)
        assert (pair.truth is None) == (pair.kind == "natural" or pair.variant in ("rewired", "unrelated"))
        assert bool(pair.missing) == (pair.variant == "missing")
        same = pair.first_side.lineage == pair.second_side.lineage
        assert same == (pair.kind != "natural" and pair.variant != "unrelated")
        assert bool(pair.level) == (pair.kind in ("planted", "partial", "absent"))
        if pair.kind == "natural":
            assert pair.first_side.id != pair.second_side.id
    assert all(pair.n_corresponding > 0 for pair in zoo.of("train", ["permuted", "larger"]))
    grown = zoo.of("train", ["larger"])
    assert {pair.variant for pair in grown} <= {"heads", "blocks", "wide"}
    order = [pair.truth for pair in zoo.of("train", ["permuted"])]
    assert any(not torch.equal(truth, torch.arange(len(truth))) for truth in order)


def test_no_level_has_more_unrelated_than_rewired_partners():
    levels = LevelsConfig().all()
    for kind in ("planted", "partial"):
        specs = [
            PairSpec(kind=kind, variant="", split="train", first=f"t{i}", number=i, unrelated="u")
            for i in range(100 * len(levels))
        ]
        for level in range(len(levels)):
            of_level = [spec.absent_is_unrelated for spec in specs if spec.number % len(levels) == level]
            assert 30 < sum(of_level) < 70
    assert not any(replace(spec, unrelated="").absent_is_unrelated for spec in specs)


def test_strangers_come_from_other_lineages_one_triple_of_each(source):
    zoo = Zoo.open(source)
    lineages = {row["id"]: row["lineage"] for row in zoo.rows.to_list()}
    specs = [spec for shard in plan(config_of(source), zoo).shards for spec in shard if spec.donors]
    assert specs
    for spec in specs:
        found = [lineages[id] for id in (spec.first, *spec.donors)]
        assert len(set(found)) == len(found)


def test_partial_pairs_are_changed_as_their_level_says_and_known_with_its_noise_but_for_training(built):
    pairs = [pair for pair in PairZoo.open(built).pairs if pair.kind == "partial"]
    assert {pair.split == "train" for pair in pairs} == {True, False}
    for pair in pairs:
        trained = pair.split == "train"
        assert pair.level == {
            "noise": 0.0 if trained else 0.3,
            "feature_noise": 0.0 if trained else 0.5,
            "dropped": pair.level["dropped"],
            "inserted": 1,
        }
        assert pair.level["dropped"] in (0, 1)
    assert {pair.level["dropped"] for pair in pairs} == {0, 1}


def test_a_shard_is_the_same_bytes_whenever_it_is_made(built, source, tmp_path):
    config = config_of(source)
    found = plan(config, Zoo.open(source))
    planted = next(i for i, shard in enumerate(found.shards) if shard[0].kind == "planted")
    permuted = next(i for i, shard in enumerate(found.shards) if shard[0].kind == "permuted")
    (tmp_path / "shards").mkdir()
    threads = torch.get_num_threads()
    for index in (permuted, planted):
        record = make_shard(config, found, tmp_path, index)
        assert record == PairZoo.open(built).manifest.shards[index]
    other = make_shard(replace(config, seed=1), plan(replace(config, seed=1), Zoo.open(source)), tmp_path, 0)
    torch.set_num_threads(threads)
    assert other.files != PairZoo.open(built).manifest.shards[0].files


def test_what_is_written_is_read_again(built, source):
    zoo = PairZoo.open(built)
    pair = zoo.of("validation", ["planted"])[0]
    torch.testing.assert_close(pair.first.edges.square().sum(), torch.tensor(1.0))
    assert pair.first.features.shape == (len(pair.first), len(zoo.feature_names))
    varying = torch.cat([p.first.features for p in zoo.of("train")])
    assert (varying != varying[:1]).any(0).sum() >= len(zoo.feature_names) - 5
    assert len(zoo.feature_names) > 50
    assert pair.first.names != pair.second.names
    assert "planted" in described(built)
    assert len(zoo.fingerprint) == 64


def test_unknown_splits_and_kinds_and_empty_choices_are_refused(built):
    zoo = PairZoo.open(built)
    with pytest.raises(InputError, match=r"split: expected .*got 'sead'"):
        zoo.of("sead")
    with pytest.raises(InputError, match="kind: expected"):
        zoo.of("seed", ["permutd"])
    with pytest.raises(InputError, match="split seed: expected pairs of kind program, got none"):
        zoo.of("seed", ["program"])


def test_a_damaged_shard_and_another_kind_of_zoo_are_refused(built, source, tmp_path):
    with pytest.raises(InputError, match="expected a zoo of pairs, got a zoo of another kind"):
        PairZoo.open(source)
    with pytest.raises(InputError, match=r"python -m data_gen\.matching"):
        PairZoo.open(tmp_path / "nothing")
    path = next((built / "shards").glob("*.pairs.json"))
    held = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(held)))
        with pytest.raises(InputError, match="expected the file that was built, got another one"):
            PairZoo.open(built)
    finally:
        path.write_text(held)
    assert len(PairZoo.open(built)) > 0


def test_a_finished_zoo_is_kept_and_another_configuration_refused(source, tmp_path):
    config = config_of(source, counts={"natural": COUNT})
    out = tmp_path / "n"
    assert build(config, out, workers=1, progress=False)
    before = PairZoo.open(out).fingerprint
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert build(config, out, workers=1, progress=False)
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    assert PairZoo.open(out).fingerprint == before
    with pytest.raises(InputError, match="another one"):
        build(replace(config, seed=3), out, workers=1, progress=False)


def test_only_size_and_task_depart_and_sizes_can_be_held_out():
    rows = [
        {"departs": departs, "size": size}
        for departs, size in (("none", "a"), ("recipe", "a"), ("none", "b"), ("task", "b"), ("size", "a"))
    ]
    assert [row["departs"] for row in departing(rows, ["b"])] == ["none", "none", "size", "task", "size"]


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="counts: expected"):
        PairZooConfig(name="x", source="y", counts={"permutd": COUNT})
    with pytest.raises(InputError, match="counts: expected a kind of pairs, got none"):
        PairZooConfig(name="x", source="y", counts={})
    with pytest.raises(InputError, match=r"counts\.train: expected at least 0, got -1"):
        CountConfig(train=-1)
    with pytest.raises(InputError, match=r"level\.dropped: expected at least 0, got -1"):
        LevelsConfig(dropped=(-1,))
    with pytest.raises(InputError, match=r"levels\.noise: expected a value, got none"):
        LevelsConfig(noise=())
