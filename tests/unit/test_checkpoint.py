"""A checkpoint comes back as it was saved, and each way in which it can be broken is one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import metamodel
from metamodel.asking import UNTOLD
from metamodel.config import InputError
from metamodel.config.words import TEST_SPLITS
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.registry import closed_form_columns, feature_names
from metamodel.networks.reader import Reader, ReaderSizes
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.training.checkpoint import CONFIG, MODEL, SPLITS, FunctionCheckpoint, save
from metamodel.triples.schema import LabelDefinition
from metamodel.triples.splits import Splits

SHAPE = SubjectConfig(n_layers=1, n_heads=2, d_model=16, d_head=4, d_mlp=8, d_vocab=12, n_ctx=6)


def subject(**changes) -> Subject:
    config = SubjectConfig.from_dict(SHAPE.to_dict() | changes)
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(0)]), 0)
    return Subject(config=config, weights=weights, name="one")


@pytest.fixture(scope="module")
def made() -> FunctionCheckpoint:
    torch.manual_seed(0)
    sizes = ReaderSizes(
        n_features=len(feature_names("both")),
        n_channels=len(CHANNELS),
        n_evidence=len(EVIDENCE),
        n_labels=2,
        n_slices=1,
        n_algorithms=1,
        closed_forms=closed_form_columns("both", ("self", "copying")),
        width=8,
        n_layers=1,
        n_heads=2,
        edge_width=4,
        members=2,
    )
    reader = Reader(sizes)
    reader.asked[3:] = False
    reader.farthest.fill_(1e9)
    reader.largest.copy_(torch.tensor([1, 2]))
    splits = {name: (name,) for name in ("train", "validation", *TEST_SPLITS)}
    return FunctionCheckpoint(
        reader=reader.eval(),
        labels=tuple(
            LabelDefinition(
                name=name, description="d", statistics=("s",), effect_size=0.1, twin="t", determined_by=tracks
            )
            for name, tracks in (("self", ()), ("copying", ("weights", "both")))
        ),
        track="both",
        slice_names=("easy",),
        algorithms=("sort",),
        zoo={"name": "z", "folder": "data/z", "fingerprint": "f"},
        splits=Splits(**splits, trained_lineages=("train", "validation")),
        training={"name": "n"},
    )


@pytest.fixture
def folder(made, tmp_path) -> Path:
    save(made, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_loaded_reader_reads_exactly_as_the_saved_one(made, folder):
    loaded = metamodel.load(folder)
    before, after = metamodel.FunctionReader(made).read(subject()), loaded.read(subject())
    assert torch.equal(before.probabilities.nan_to_num(), after.probabilities.nan_to_num())
    assert loaded.labels == made.labels
    assert loaded.splits == made.splits
    assert loaded.checkpoint.determined == ("copying",)


def test_a_reading_names_components_and_leaves_out_what_does_not_apply(folder):
    reading = metamodel.load(folder).read(subject())
    frame = reading.to_pandas()
    assert list(frame.index) == [
        "token_embedding",
        "position_embedding",
        "L0H0",
        "L0H1",
        "MLP0",
        "unembedding",
    ]
    assert frame.loc["L0H1", "layer"] == 0
    assert 0 < frame.loc["L0H1", "copying"] < 1
    assert frame["copying"].isna()["MLP0"]
    assert reading.notes == (UNTOLD,)
    plain = json.loads(reading.to_json())
    assert plain["components"][2]["component"] == "L0H0"
    assert plain["components"][4]["probabilities"] == {"self": None, "copying": None}


def test_a_post_norm_encoder_is_read_with_notes(folder):
    reading = metamodel.load(folder).read(subject(norm_position="post", attention_dir="bidirectional"))
    assert any("read from its weights alone" in note for note in reading.notes)
    assert any("outside the training distribution" in note for note in reading.notes)
    assert reading.probabilities[2].isfinite().all()


def test_a_subject_far_from_training_is_flagged_and_a_near_one_is_not(folder):
    reader = metamodel.load(folder)
    assert reader.read(subject()).notes == (UNTOLD,)
    assert reader.read(subject(n_layers=2)).notes == (
        UNTOLD,
        "2 layers of 2 heads; training subjects had at most 1 of 2",
        "outside the training distribution: probabilities are extrapolated",
    )
    reader.checkpoint.reader.farthest.fill_(1e-6)
    assert reader.read(subject()).notes == (
        UNTOLD,
        "outside the training distribution: probabilities are extrapolated",
    )


def change(folder: Path, key: str, value) -> None:
    config = json.loads((folder / CONFIG).read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 99, "schema_version: expected 2, got 99"),
        ("feature_version", 0, "feature_version: expected 2, got 0"),
        ("kind", "sorting", "kind: expected one of 'function', 'editing', 'matching', got 'sorting'"),
        ("track", "all", "track: expected one of weights, activations, both, got all"),
        (
            "slice_name",
            [],
            "slice_name: expected a known key, got an unknown one. Remove it. Did you mean 'slice_names'?",
        ),
        ("zoo", None, "zoo: expected a value, got no such key"),
        ("zoo", {}, "zoo.name: expected text, got None"),
        ("zoo", {"name": "z", "folder": "data/z", "fingerprint": 3}, "zoo.fingerprint: expected text, got 3"),
        ("labels", {}, "labels: expected list, got dict"),
        (
            "feature_names",
            ["x"],
            f"feature_names: expected the {len(feature_names('both'))} of this version, "
            "got without head.qk_stable_rank",
        ),
        ("slice_names", ["a", "b"], "sizes.n_slices: expected 2, got 1"),
    ],
)
def test_a_wrong_configuration_is_one_line(folder, key, value, message):
    change(folder, key, value)
    with pytest.raises(InputError) as caught:
        metamodel.load(folder)
    assert f"{folder / CONFIG}: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("width", 9, "width: expected a multiple of n_heads = 2, got 9"),
        ("width", "8", "width: expected a whole number, got '8'"),
        ("width", 0, "width: expected at least 1, got 0"),
        ("members", True, "members: expected a whole number, got True"),
        ("dropout", 2.0, "dropout: expected 0 to 1, got 2.0"),
        ("dropout", float("nan"), "dropout: expected 0 to 1, got nan"),
        ("dropout", "0.1", "dropout: expected a number, got '0.1'"),
        ("closed_forms", [1.5, 2], "closed_forms: expected a list, each a whole number, got [1.5, 2]"),
        ("widths", 8, "widths: expected a known key, got an unknown one"),
        ("width", None, "width: expected a value, got no such key"),
    ],
)
def test_sizes_of_which_no_network_can_be_built_are_one_line(folder, made, key, value, message):
    sizes = json.loads((folder / CONFIG).read_text())["sizes"] | {key: value}
    change(folder, "sizes", {k: v for k, v in sizes.items() if v is not None})
    with pytest.raises(InputError) as caught:
        metamodel.load(folder)
    assert str(caught.value).startswith(f"{folder / CONFIG}: sizes.{message}. ")
    assert "\n" not in str(caught.value)


def test_a_damaged_label_is_one_line(folder):
    labels = json.loads((folder / CONFIG).read_text())["labels"]
    labels[1]["determined_by"] = ["weights", "colours"]
    change(folder, "labels", labels)
    with pytest.raises(InputError) as caught:
        metamodel.load(folder)
    assert str(caught.value).startswith(
        f"{folder / CONFIG}: labels[1].determined_by: expected a list, each one of "
        "'weights', 'activations', 'both', got ['weights', 'colours']. "
    )


def retensor(folder: Path, edit) -> None:
    tensors = load_file(folder / MODEL)
    edit(tensors)
    save_file(tensors, folder / MODEL)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("shift"), "shift: expected shape (2,), got no tensor"),
        (lambda t: t.update(more=torch.ones(1)), "more: expected no such tensor, got one"),
        (lambda t: t.update(shift=torch.ones(3)), "shift: expected shape (2,), got (3,)"),
        (lambda t: t["shift"].fill_(float("nan")), "shift: expected finite numbers, got nan or inf"),
    ],
    ids=["missing", "unknown", "misshapen", "not finite"],
)
def test_a_wrong_tensor_is_one_line(folder, edit, message):
    retensor(folder, edit)
    with pytest.raises(InputError) as caught:
        metamodel.load(folder)
    assert f"{folder / MODEL}: {message}" in str(caught.value)


def test_missing_folder_and_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="nothing: expected the folder of a checkpoint, got no such folder"):
        metamodel.load(tmp_path / "nothing")
    for name in (MODEL, SPLITS, CONFIG):
        (folder / name).rename(folder / "away")
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            metamodel.load(folder)
        (folder / "away").rename(folder / name)
    (folder / MODEL).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"model\.safetensors: expected a safetensors file"):
        metamodel.load(folder)


def test_the_whole_folder_is_uploaded_card_and_metrics_included(made, folder, monkeypatch):
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, exist_ok: calls.append(name))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder",
        lambda self, repo_id, folder_path: calls.append((repo_id, folder_path)) or "address",
    )
    assert metamodel.load(folder).push_to_hub("me/reader") == "address"
    assert calls == ["me/reader", ("me/reader", folder)]
    with pytest.raises(InputError, match="push_to_hub: expected a reader loaded from a folder, got none"):
        metamodel.FunctionReader(made).push_to_hub("me/reader")
