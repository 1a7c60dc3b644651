"""The evaluate command: same numbers again, only subjects that were not trained on, mistakes in one line."""

import importlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from metamodel import evaluate
from metamodel.baselines import opponents
from metamodel.config import InputError
from metamodel.config.command import run_command
from metamodel.config.evaluate import EvaluateOptions
from metamodel.evaluation.held_out import held_out
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.registry import closed_form_columns, feature_names
from metamodel.networks.reader import Reader, ReaderSizes
from metamodel.subjects import SubjectConfig, components
from metamodel.training.checkpoint import FunctionCheckpoint, load_checkpoint, save
from metamodel.triples import Zoo, begin, finish, write_shard
from metamodel.triples.schema import MASKED, LabelDefinition
from metamodel.triples.splits import Splits, make_splits

SHAPE = SubjectConfig(n_layers=2, n_heads=2, d_model=12, d_head=4, d_mlp=0, d_vocab=20, n_ctx=8)
LABELS = tuple(
    LabelDefinition(name=name, description="d", statistics=(), effect_size=0.1, twin="none")
    for name in ("previous_token", "induction")
)
N = 24


def triple_of(index: int, *, first: int = 0):
    """A random triple; every sixth departs along variant, the next along task."""
    made = importlib.import_module("test_store").synthetic_triple(first + index, SHAPE)
    departs = {4: "variant", 5: "task"}.get(index % 6, "none")
    heads = torch.tensor([node.kind == "head" for node in components(SHAPE)])
    state = torch.where(heads[:, None], (made.labels.raw > 0.3).long(), MASKED)
    b = made.behavior
    inside = replace(b, probe_position=b.probe_position % SHAPE.n_ctx, probe_slice=b.probe_slice % 2)
    return replace(
        made,
        info=replace(made.info, departs=departs),
        labels=replace(made.labels, state=state),
        behavior=inside,
    )


def store_zoo(folder: Path, *, name: str, labels=LABELS, first: int = 0) -> Path:
    begin(folder, name=name, config={"name": name}, labels=labels, n_shards=1)
    write_shard(folder, 0, [triple_of(i, first=first) for i in range(N)], {})
    assert finish(folder) is not None
    return folder


def checkpoint_of(zoo: Zoo, splits: Splits) -> FunctionCheckpoint:
    torch.manual_seed(0)
    sizes = ReaderSizes(
        n_features=len(feature_names("weights")),
        n_channels=len(CHANNELS),
        n_evidence=len(EVIDENCE),
        n_labels=len(LABELS),
        n_slices=2,
        n_algorithms=1,
        closed_forms=closed_form_columns("weights", [label.name for label in LABELS]),
        width=8,
        n_layers=1,
        n_heads=2,
        members=1,
    )
    return FunctionCheckpoint(
        reader=Reader(sizes),
        labels=LABELS,
        track="weights",
        slice_names=("early", "late"),
        algorithms=("sort",),
        zoo={"name": zoo.name, "folder": str(zoo.folder), "fingerprint": zoo.fingerprint},
        splits=splits,
        training={"bootstrap_seed": 3},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`home` and `away` zoos with different subjects, and a checkpoint of `home`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        folder = tmp_path_factory.mktemp("evaluate")
        home = Zoo.open(store_zoo(folder / "home", name="home"))
        store_zoo(folder / "away", name="away", first=1000)
        store_zoo(folder / "namesake", name="home", first=1000)
        store_zoo(folder / "copy", name="copy")
    splits = make_splits(home.rows, seed=1, validation_fraction=0.2, test_fraction=0.25)
    save(checkpoint_of(home, splits), folder / "checkpoint")
    return folder


@pytest.fixture
def checkpoint(folder) -> FunctionCheckpoint:
    return load_checkpoint(folder / "checkpoint")


def test_the_command_prints_the_form_of_metrics_json_and_the_same_numbers_again(folder, capsys):
    arguments = [str(folder / "checkpoint"), "--split", "seed", "--json"]
    printed = []
    for _ in range(2):
        evaluate.main(arguments)
        printed.append(capsys.readouterr().out)
    found = json.loads(printed[0])
    assert printed[0] == printed[1]
    assert list(found["splits"]) == ["seed"]
    assert len(found["splits"]["seed"]["average_precision"]) == len(opponents("weights")) + len(
        {"meta-model", "shuffled_labels"}
    )
    assert set(found["controls"]) == {"schema_version", "n_subjects", "trained", "untrained"}
    assert found["controls"]["n_subjects"] == len(load_checkpoint(folder / "checkpoint").splits.seed)
    assert found["zoo"].startswith("home ")


def test_the_zoo_of_the_checkpoint_is_scored_on_its_saved_test_splits(checkpoint):
    found = held_out(checkpoint, zoo=None, split=None)
    assert found.train == checkpoint.splits.train
    assert found.tests == checkpoint.splits.tests
    assert set(found.tests) == {"seed", "variant", "task"}
    assert not found.notes


def test_another_zoo_is_scored_whole_by_departure_and_baselines_stay_at_home(folder, checkpoint):
    found = held_out(checkpoint, zoo=folder / "away", split=None)
    assert found.home.name == "home"
    assert found.away.name == "away"
    assert found.train == checkpoint.splits.train
    assert {name: len(ids) for name, ids in found.tests.items()} == {"seed": 16, "variant": 4, "task": 4}


def test_a_zoo_of_the_same_name_and_other_lineages_is_not_taken_for_the_one_trained_on(folder, checkpoint):
    found = held_out(checkpoint, zoo=folder / "namesake", split=None)
    assert found.home.folder == folder / "home"
    assert found.away.folder == folder / "namesake"
    assert len(found.tests["seed"]) == 16


def test_subjects_that_were_trained_on_are_refused_in_one_line(folder, checkpoint):
    with pytest.raises(InputError) as error:
        held_out(checkpoint, zoo=folder / "copy", split="seed")
    text = str(error.value)
    assert text.startswith("evaluate: expected subjects whose lineage was not trained on, got ")
    assert "\n" not in text
    assert held_out(checkpoint, zoo=folder / "copy", split="variant").tests["variant"]


def test_a_split_without_subjects_is_refused_in_one_line(checkpoint):
    with pytest.raises(InputError, match="split size: expected at least one subject, got none"):
        held_out(checkpoint, zoo=None, split="size")


def test_a_zoo_of_other_labels_is_refused_in_one_line(checkpoint):
    other = replace(checkpoint, labels=(LABELS[0], replace(LABELS[1], name="copying")))
    with pytest.raises(InputError) as error:
        held_out(other, zoo=None, split=None)
    assert str(error.value).endswith(
        "home: labels: expected previous_token, copying, got previous_token, induction. "
        "Use a zoo with the labels that the checkpoint was trained on."
    )


def test_a_rebuilt_zoo_with_other_bytes_is_used_with_a_note(checkpoint):
    other = replace(checkpoint, zoo={**checkpoint.zoo, "fingerprint": "of another machine"})
    found = held_out(other, zoo=None, split=None)
    assert "not byte for byte" in found.notes[0]


def test_a_rebuilt_zoo_that_lacks_a_few_subjects_is_still_the_zoo_trained_on(checkpoint):
    splits = checkpoint.splits
    wider = replace(splits, train=(*splits.train, "gone"), seed=(*splits.seed, "lost"))
    found = held_out(replace(checkpoint, splits=wider), zoo=None, split="seed")
    assert found.train == splits.train
    assert found.tests == {"seed": splits.seed}
    assert [note.partition(":")[0].partition("lacks ")[2] for note in found.notes] == [
        f"1 of the {len(wider.train)} subjects trained on, such as gone",
        f"1 of the {len(wider.seed)} subjects of its split seed, such as lost",
    ]


def test_a_zoo_with_half_of_the_subjects_of_training_is_not_the_zoo_trained_on(folder, checkpoint):
    splits = checkpoint.splits
    wider = replace(splits, train=(*splits.train, *(f"gone-{i}" for i in range(len(splits.train)))))
    found = held_out(replace(checkpoint, splits=wider), zoo=folder / "copy", split="variant")
    assert found.home.folder == folder / "home"


def test_a_missing_zoo_is_refused_in_one_line_and_with_exit_code_2(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(evaluate.main, [str(folder / "checkpoint"), "--zoo", str(folder / "nowhere")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert said.count("\n") == 1


def test_a_zoo_that_moved_is_found_where_one_says(folder, checkpoint, tmp_path):
    shutil.copytree(folder / "home", tmp_path / "moved")
    lost = replace(checkpoint, zoo={**checkpoint.zoo, "folder": str(tmp_path / "lost")})
    assert held_out(lost, zoo=tmp_path / "moved", split="seed").home.folder == tmp_path / "moved"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--split", "seeds"], "--split: expected one of seed, variant, size, recipe, origin, task"),
        (["x", "--splt", "seed"], "--splt. See --help. Did you mean '--split'?"),
        ([], "metamodel.evaluate: checkpoint: expected a value, got none."),
    ],
)
def test_a_mistaken_argument_is_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        evaluate.main(arguments)
    assert message in str(error.value)


def test_only_the_checkpoint_must_be_named():
    assert asdict(EvaluateOptions(checkpoint="x")) == {
        "checkpoint": "x",
        "zoo": None,
        "split": None,
        "json": False,
    }
