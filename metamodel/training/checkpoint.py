"""A function reader on disk: config.json, model.safetensors, splits.json. Strict loading, without pickle."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.config.errors import InputError, require, suggestion
from metamodel.config.record import record_from_json
from metamodel.config.words import TRACKS, Track
from metamodel.features.batch import pad_seen
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.examples import NONE_OF_THESE, Prediction, Seen
from metamodel.features.registry import FEATURE_VERSION, closed_form_columns, feature_names
from metamodel.networks.reader import Reader, ReaderSizes
from metamodel.training.tensors import RETRAIN, load_tensors, save_tensors
from metamodel.triples.schema import LabelDefinition
from metamodel.triples.splits import Splits

SCHEMA_VERSION = 2
KIND = "function"
CONFIG, MODEL, SPLITS = "config.json", "model.safetensors", "splits.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionCheckpoint:
    """A trained function reader with all that it needs to read a subject."""

    reader: Reader
    labels: tuple[LabelDefinition, ...]
    """In the order of every `label` axis."""
    track: Track
    slice_names: tuple[str, ...]
    algorithms: tuple[str, ...]
    """Programs that it can tell."""
    zoo: Mapping[str, Any]
    """Name, folder and fingerprint of the zoo that it was trained on."""
    splits: Splits
    training: Mapping[str, Any]
    """The resolved configuration of the run."""

    @property
    def determined(self) -> tuple[str, ...]:
        """Labels that the track determines by a formula: outside macro averages."""
        return tuple(label.name for label in self.labels if self.track in label.determined_by)

    @property
    def undetermined(self) -> tuple[bool, ...]:
        """Of each label, whether the track leaves it open."""
        return tuple(label.name not in self.determined for label in self.labels)

    @property
    def held_out_functions(self) -> tuple[str, ...]:
        """Labels that no loss saw."""
        return tuple(self.training["training"]["held_out_functions"])

    def predict(self, seen: Seen) -> Prediction:
        """All answers about one subject."""
        reader = self.reader.eval()
        batch = pad_seen([seen], self.slice_names)
        device = batch.nodes.device
        averaged = reader.answers(batch.to(next(reader.parameters()).device))
        return Prediction(
            function_probability=averaged.function_probability[0].to(device),
            function_score=averaged.function_score[0].to(device),
            node_member=averaged.node_member[0].to(device),
            edge_member=(averaged.edge_member[0].to(device) * (batch.edges[0, ..., 0] > 0)),
            slice_accuracy=averaged.slice_accuracy[0].to(device),
            probe_answer=averaged.answer[0].argmax(-1).to(device),
            algorithm=(*self.algorithms, NONE_OF_THESE)[int(averaged.algorithm[0].argmax())],
        )


def save(checkpoint: FunctionCheckpoint, folder: Path) -> None:
    """Writes config.json, model.safetensors and splits.json into a new or empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "feature_version": FEATURE_VERSION,
        "track": checkpoint.track,
        "feature_names": list(feature_names(checkpoint.track)),
        "edge_channels": list(CHANNELS),
        "evidence_channels": list(EVIDENCE),
        "labels": [dataclasses.asdict(label) for label in checkpoint.labels],
        "slice_names": list(checkpoint.slice_names),
        "algorithms": list(checkpoint.algorithms),
        "zoo": dict(checkpoint.zoo),
        "sizes": dataclasses.asdict(checkpoint.reader.sizes),
        "training": dict(checkpoint.training),
    }
    save_tensors(checkpoint.reader, folder / MODEL)
    checkpoint.splits.save(folder / SPLITS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_checkpoint(folder: Path) -> FunctionCheckpoint:
    """Reads a checkpoint.

    Raises: InputError naming path, key, expected and found, for whatever is missing, unknown or misshapen.
    """
    require(
        folder.is_dir(),
        str(folder),
        expected="the folder of a checkpoint",
        got="no such folder",
        do="Check the path; `python -m metamodel.train` makes one.",
    )
    path = folder / CONFIG
    config = _config(path)
    track: Track = config["track"]
    known = {
        "feature_names": feature_names(track),
        "edge_channels": CHANNELS,
        "evidence_channels": EVIDENCE,
    }
    for key, expected in known.items():
        _same_names(path, key, expected, config[key])
    labels = tuple(
        record_from_json(LabelDefinition, label, f"{path}: labels[{i}]", do=RETRAIN)
        for i, label in enumerate(config["labels"])
    )
    sizes = record_from_json(ReaderSizes, config["sizes"], f"{path}: sizes", do=RETRAIN)
    given = {
        "n_features": len(known["feature_names"]),
        "n_channels": len(CHANNELS),
        "n_evidence": len(EVIDENCE),
        "n_labels": len(labels),
        "n_slices": len(config["slice_names"]),
        "n_algorithms": len(config["algorithms"]),
        "closed_forms": closed_form_columns(track, [label.name for label in labels]),
    }
    for key, value in given.items():
        got = getattr(sizes, key)
        require(got == value, f"{path}: sizes.{key}", expected=str(value), got=str(got), do=RETRAIN)
    _check_sizes(sizes, f"{path}: sizes")
    reader = Reader(sizes)
    load_tensors(reader, folder / MODEL)
    return FunctionCheckpoint(
        reader=reader.eval(),
        labels=labels,
        track=track,
        slice_names=tuple(config["slice_names"]),
        algorithms=tuple(config["algorithms"]),
        zoo=config["zoo"],
        splits=Splits.load(folder / SPLITS),
        training=config["training"],
    )


_TYPES: dict[str, type] = {
    "schema_version": int,
    "kind": str,
    "feature_version": int,
    "track": str,
    "feature_names": list,
    "edge_channels": list,
    "evidence_channels": list,
    "labels": list,
    "slice_names": list,
    "algorithms": list,
    "zoo": dict,
    "sizes": dict,
    "training": dict,
}
_ZOO = ("name", "folder", "fingerprint")
"""Keys of `zoo`, each text: where the subjects of training are looked for, and known again."""


def _config(path: Path) -> dict[str, Any]:
    require(path.is_file(), str(path), expected="a file", got="none", do="Copy the whole checkpoint.")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), expected="JSON", got=str(error), do="Copy the file again.") from error
    require(isinstance(config, dict), str(path), expected="an object", got=type(config).__name__, do=RETRAIN)
    version, kind = config.get("schema_version"), config.get("kind")
    where = f"{path}: schema_version"
    require(version == SCHEMA_VERSION, where, expected=str(SCHEMA_VERSION), got=version, do=RETRAIN)
    require(kind == KIND, f"{path}: kind", expected=repr(KIND), got=repr(kind), do="Load another checkpoint.")
    for key in config:
        do = f"Remove it.{suggestion(key, _TYPES)}"
        require(key in _TYPES, f"{path}: {key}", expected="a known key", got="an unknown one", do=do)
    for key, kind_of_value in _TYPES.items():
        require(key in config, f"{path}: {key}", expected="a value", got="no such key", do=RETRAIN)
        expected, got = kind_of_value.__name__, type(config[key]).__name__
        require(
            isinstance(config[key], kind_of_value), f"{path}: {key}", expected=expected, got=got, do=RETRAIN
        )
    for key in _ZOO:
        where, got = f"{path}: zoo.{key}", config["zoo"].get(key)
        require(isinstance(got, str), where, expected="text", got=repr(got), do=RETRAIN)
    got = config["feature_version"]
    where = f"{path}: feature_version"
    require(got == FEATURE_VERSION, where, expected=str(FEATURE_VERSION), got=got, do=RETRAIN)
    expected = f"one of {', '.join(TRACKS)}"
    require(config["track"] in TRACKS, f"{path}: track", expected=expected, got=config["track"], do=RETRAIN)
    return config


def _same_names(path: Path, key: str, expected: Sequence[str], got: Sequence[str]) -> None:
    if list(expected) == list(got):
        return
    missing = [name for name in expected if name not in got]
    unknown = [name for name in got if name not in expected]
    difference = f"without {missing[0]}" if missing else f"with {unknown[0]}" if unknown else "another order"
    raise InputError(
        f"{path}: {key}", expected=f"the {len(expected)} of this version", got=difference, do=RETRAIN
    )


def _check_sizes(sizes: ReaderSizes, where: str) -> None:
    """What a network needs of its sizes, before torch asserts it in words of its own."""
    for key in ("width", "n_layers", "n_heads", "edge_width", "members"):
        value = getattr(sizes, key)
        require(value >= 1, f"{where}.{key}", expected="at least 1", got=value, do=RETRAIN)
    for key in ("dropout", "input_dropout", "track_dropout", "prompt_dropout"):
        value = getattr(sizes, key)
        require(0 <= value <= 1, f"{where}.{key}", expected="0 to 1", got=value, do=RETRAIN)
    width, n_heads = sizes.width, sizes.n_heads
    expected = f"a multiple of n_heads = {n_heads}"
    require(width % n_heads == 0, f"{where}.width", expected=expected, got=width, do=RETRAIN)
