"""A zoo gives back what was stored, notices damage, and is the same bytes whatever happened on the way."""

import json
import pickle
import shutil

import pytest
import torch

from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.subjects import Subject, SubjectConfig, components, initial_weights, unstack
from metamodel.triples import (
    ROLES,
    Activation,
    Behavior,
    CircuitScores,
    FunctionLabels,
    LabelDefinition,
    SubjectInfo,
    Triple,
    Truth,
    Zoo,
    begin,
    finish,
    valid_shard,
    write_shard,
)
from metamodel.triples.shard import PARTS, array_fields

LABELS = (
    LabelDefinition(
        name="previous_token",
        description="Attention to the token before.",
        statistics=("pattern_previous",),
        effect_size=0.4,
        twin="cutting it hurts",
        determined_by=("weights", "both"),
    ),
    LabelDefinition(name="self", description="d", statistics=(), effect_size=0.4, twin="none"),
)
CONFIG = {"name": "synthetic", "seed": 0, "harvest": {"n_prompts": 4}}
SHAPES = (
    SubjectConfig(n_layers=1, n_heads=2, d_model=4, d_head=2, d_mlp=3, d_vocab=5, n_ctx=3),
    SubjectConfig(n_layers=2, n_heads=1, d_model=6, d_head=2, d_mlp=0, d_vocab=5, n_ctx=3),
)


def synthetic_triple(index: int, shape: SubjectConfig = SHAPES[0]) -> Triple:
    """A triple of random arrays with the right shapes; equal for equal arguments."""
    generator = torch.Generator().manual_seed(index)
    node, edge, label = len(components(shape)), len(component_edges(shape)), len(LABELS)
    probe, pos, d_model = 3, shape.n_ctx, shape.d_model

    def normal(*size: int):
        return torch.randn(size, generator=generator)

    def tokens(*size: int):
        return torch.randint(0, shape.d_vocab, size, generator=generator)

    by_label = {name: normal(node, label) for name in ("raw", "null_max", "null_z", "twin")}
    by_edge = {name: normal(edge) for name in ("noising_margin", "noising_kl", "zero_margin", "zero_kl")}
    weights = unstack(initial_weights(shape, [generator]), 0)
    name = f"repeated-base-s-{index:04d}"
    return Triple(
        info=SubjectInfo(
            id=name,
            subject=name,
            family="repeated",
            variant="base",
            size="s",
            recipe="quick",
            seed=2**52 + index,
            lineage=f"{index:016x}",
            origin="trained",
            departs="none",
        ),
        subject=Subject(config=shape, weights=weights, name=name, notes=("a note",)),
        activation=Activation(
            output_norm=normal(node),
            second_moment=normal(node, d_model, d_model),
            pattern_entropy=normal(node),
            pattern_mean=normal(node, pos, pos),
            logit_attribution=normal(node),
            probe_tokens=tokens(probe, pos),
            probe_outputs=normal(probe, pos, node, d_model),
        ),
        circuit=CircuitScores(
            **by_edge,
            null_threshold=normal(),
            member=normal(edge) > 0,
            node_member=normal(node) > 0,
        ),
        behavior=Behavior(
            accuracy=torch.tensor(0.875),
            margin=normal(),
            cross_entropy=normal(),
            slice_accuracy=torch.tensor([0.5, float("nan")]),
            slice_names=("early", "late"),
            **{name: normal(node) for name in ("ablation_margin", "ablation_kl")},
            probe_tokens=tokens(probe, pos),
            **{name: tokens(probe) for name in ("probe_position", "probe_slice")},
            **{name: tokens(probe) for name in ("probe_answer", "probe_right_answer")},
            shown_tokens=tokens(probe + 1, pos),
            shown_position=tokens(probe + 1) % pos,
        ),
        labels=FunctionLabels(**by_label, state=tokens(node, label)),
        truth=None if shape == SHAPES[0] else synthetic_truth(node, edge, generator),
    )


def synthetic_truth(node: int, edge: int, generator: torch.Generator) -> Truth:
    """Subjects of the second shape have a known circuit."""
    return Truth(
        structural=torch.rand(edge, generator=generator) > 0.5,
        visible=torch.rand(edge, generator=generator) > 0.5,
        role=torch.randint(len(ROLES), (node,), generator=generator),
        variables=torch.randint(4, (node,), generator=generator),
        node_accuracy=torch.rand(node, generator=generator),
    )


def store_shard(folder, shard: int) -> None:
    """Two accepted subjects in shard 0, one of another shape in shard 1, none in shard 2."""
    stored = {0: [synthetic_triple(0), synthetic_triple(1)], 1: [synthetic_triple(2, SHAPES[1])], 2: []}[
        shard
    ]
    write_shard(folder, shard, stored, {"repeated-base-s-0009": "accuracy 0.31 < 0.9"} if shard == 2 else {})


def store_zoo(folder):
    begin(folder, name="synthetic", config=CONFIG, labels=LABELS, n_shards=3)
    for shard in range(3):
        store_shard(folder, shard)
    assert finish(folder) is not None
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_zoo(tmp_path_factory.mktemp("zoo") / "synthetic")


@pytest.fixture
def damaged(stored, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(stored, tmp_path / "synthetic")


def assert_equal(first: Triple, second: Triple) -> None:
    assert first.info == second.info
    assert first.subject.config == second.subject.config
    assert (first.subject.name, first.subject.notes) == (second.subject.name, second.subject.notes)
    for name, weight in first.subject.weights.items():
        torch.testing.assert_close(weight, second.subject.weights[name], rtol=0, atol=0)
    for part in PARTS:
        one, other = getattr(first, part), getattr(second, part)
        assert (one is None) == (other is None), part
        if one is None:
            continue
        for a, b in ((getattr(one, name), getattr(other, name)) for name in array_fields(part)):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert first.behavior.slice_names == second.behavior.slice_names


def test_every_triple_comes_back_bit_for_bit(stored):
    zoo = Zoo.open(stored)
    written = [synthetic_triple(0), synthetic_triple(1), synthetic_triple(2, SHAPES[1])]
    assert len(zoo) == 3
    for i, triple in enumerate(written):
        assert_equal(zoo[i], triple)
    for read, triple in zip(zoo, written, strict=True):
        assert_equal(read, triple)
    assert (zoo.name, zoo.labels, zoo[-1].info.id) == ("synthetic", LABELS, zoo.ids[2])


def test_a_subject_is_read_without_the_rest_of_its_triple(stored):
    subject = Zoo.open(stored).subject("repeated-base-s-0001")
    for name, weight in synthetic_triple(1).subject.weights.items():
        torch.testing.assert_close(subject.weights[name], weight, rtol=0, atol=0)


def test_the_table_has_a_row_a_triple_and_writes_no_cache(stored, monkeypatch):
    before = sorted(stored.rglob("*"))
    table = Zoo.open(stored).to_pandas()
    assert list(table.id) == ["repeated-base-s-0000", "repeated-base-s-0001", "repeated-base-s-0002"]
    assert list(table.n_layers) == [1, 1, 2]
    assert list(table.seed) == [2**52, 2**52 + 1, 2**52 + 2]
    assert list(table.slice_names[0]) == ["early", "late"]
    assert sorted(stored.rglob("*")) == before


def test_an_opened_zoo_can_be_sent_to_a_worker(stored):
    zoo = pickle.loads(pickle.dumps(Zoo.open(stored)))
    assert_equal(zoo[1], synthetic_triple(1))


def test_writing_twice_gives_the_same_bytes_and_another_value_does_not(stored, tmp_path):
    again = store_zoo(tmp_path / "again")
    for path in sorted(stored.rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(stored)).read_bytes(), path
    assert Zoo.open(again).fingerprint == Zoo.open(stored).fingerprint
    other = tmp_path / "other"
    begin(other, name="synthetic", config=CONFIG, labels=LABELS, n_shards=1)
    write_shard(other, 0, [synthetic_triple(0), synthetic_triple(3)], {})
    finish(other)
    assert Zoo.open(other).fingerprint != Zoo.open(stored).fingerprint


def test_what_was_killed_goes_on_and_ends_in_the_same_bytes(stored, tmp_path):
    folder = tmp_path / "killed"
    begin(folder, name="synthetic", config=CONFIG, labels=LABELS, n_shards=3)
    store_shard(folder, 1)
    shards = folder / "shards"
    (shards / "shard-00000.safetensors.123.part").write_bytes(b"half")  # killed while writing data
    (shards / "shard-00001.arrow").write_bytes(b"torn")  # written, then damaged
    shutil.copy(stored / "shards/shard-00002.json", shards)
    assert finish(folder) is None
    with pytest.raises(InputError, match="expected a finished zoo, got one that is being built"):
        Zoo.open(folder)
    begin(folder, name="synthetic", config=CONFIG, labels=LABELS, n_shards=3)
    missing = [i for i in range(3) if valid_shard(folder, i) is None]
    assert missing == [0, 1]
    for shard in missing:
        store_shard(folder, shard)
    finish(folder)
    names = {p.relative_to(folder) for p in folder.rglob("*")}
    assert names == {p.relative_to(stored) for p in stored.rglob("*")}
    for path in stored.rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(stored)).read_bytes(), path


def test_another_configuration_is_refused_with_the_differing_fields(stored):
    other = {"name": "synthetic", "seed": 1, "harvest": {"n_prompts": 5}}
    with pytest.raises(InputError) as error:
        begin(stored, name="synthetic", config=other, labels=LABELS, n_shards=3)
    assert str(error.value) == (
        f"{stored}: expected the zoo of this configuration, got another one (there -> here): "
        "harvest.n_prompts: 4 -> 5, seed: 0 -> 1. "
        "Choose another folder with --out, or remove this one."
    )
    with pytest.raises(InputError, match=r"another one \(there -> here\): labels\[1\]: .* -> nothing"):
        begin(stored, name="synthetic", config=CONFIG, labels=LABELS[:1], n_shards=3)


def test_a_folder_of_other_things_is_not_built_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError) as error:
        begin(tmp_path, name="synthetic", config=CONFIG, labels=LABELS, n_shards=1)
    assert "expected an empty folder or a zoo, got thesis.tex and no manifest.json." in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_zoo_names_the_command_that_builds_it(tmp_path):
    with pytest.raises(InputError) as error:
        Zoo.open(tmp_path / "small")
    assert str(error.value) == (
        f"{tmp_path}/small: expected a zoo, got no manifest.json. "
        "Build it: python -m data_gen.build --config configs/zoo/small.yaml"
    )


def test_another_schema_version_is_refused(damaged):
    manifest = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(InputError) as error:
        Zoo.open(damaged)
    assert str(error.value) == (
        f"{damaged}/manifest.json: expected schema version 3, got 99. "
        "Rebuild the zoo with this version of the package."
    )


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema_version": 3, "labels": [], "shards": [3]}'])
def test_a_manifest_that_is_none_is_refused(damaged, text):
    (damaged / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: expected a .*manifest"):
        Zoo.open(damaged)


def flip(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("position", [20, -1])
def test_a_flipped_byte_is_refused_and_other_shards_are_still_read(damaged, position):
    path = damaged / "shards/shard-00000.safetensors"
    flip(path, position)
    zoo = Zoo.open(damaged)
    with pytest.raises(InputError) as error:
        zoo.subject("repeated-base-s-0000")
    assert str(error.value).startswith(f"{path}: expected sha256 ")
    assert str(error.value).endswith("Remove it and build again: the other shards of this zoo are kept.")
    assert_equal(zoo[2], synthetic_triple(2, SHAPES[1]))


def test_a_flipped_byte_of_a_table_is_refused_on_opening(damaged):
    flip(damaged / "shards/shard-00001.arrow", 500)
    with pytest.raises(InputError, match=r"shard-00001\.arrow: expected sha256 .* a corrupted file"):
        Zoo.open(damaged)


@pytest.mark.parametrize("name", ["shard-00000.safetensors", "shard-00001.arrow"])
def test_a_missing_shard_is_refused_on_opening(damaged, name):
    (damaged / "shards" / name).unlink()
    with pytest.raises(InputError, match=f"{name}: expected a .* of the zoo, got no such file"):
        Zoo.open(damaged)


def test_an_unknown_id_suggests_the_nearest(stored):
    with pytest.raises(InputError) as error:
        Zoo.open(stored).subject("repeated-base-s-001")
    assert str(error.value) == (
        f"{stored}#repeated-base-s-001: expected the id of a subject in this zoo, got 'repeated-base-s-001'. "
        "See the ids in Zoo.rows. Did you mean 'repeated-base-s-0001'?"
    )
    with pytest.raises(IndexError, match="zoo synthetic has 3 triples, asked for 3"):
        Zoo.open(stored)[3]
