"""An editor on disk: config.json, model.safetensors, splits.json. Strict loading, without pickle."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.config.errors import InputError, require, suggestion
from metamodel.config.record import record_from_json
from metamodel.networks.editing.editor import Editor
from metamodel.training.tensors import RETRAIN, load_tensors, save_tensors
from metamodel.triples.splits import Splits

SCHEMA_VERSION = 1
KIND = "editing"
CONFIG, MODEL, SPLITS = "config.json", "model.safetensors", "splits.json"
_AGAIN = "Copy the whole checkpoint again."


@dataclass(frozen=True, slots=True, kw_only=True)
class EditorSizes:
    """Sizes of an `Editor`, under the names of its arguments."""

    width: int
    map_width: int
    map_layers: int
    n_steps: int

    def network(self) -> Editor:
        """An untrained editor of these sizes."""
        return Editor(
            width=self.width, map_width=self.map_width, map_layers=self.map_layers, n_steps=self.n_steps
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditingCheckpoint:
    """A trained editor with all that it needs to edit a subject."""

    editor: Editor
    sizes: EditorSizes
    refuse_below: float
    """Probability of success below which a proposal is refused."""
    zoo: Mapping[str, Any]
    """Name, folder and fingerprint of the zoo that it was trained on."""
    splits: Splits
    training: Mapping[str, Any]
    """The resolved configuration of the run."""


def save(checkpoint: EditingCheckpoint, folder: Path) -> None:
    """Writes config.json, model.safetensors and splits.json into a new or empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "sizes": dataclasses.asdict(checkpoint.sizes),
        "refuse_below": checkpoint.refuse_below,
        "zoo": dict(checkpoint.zoo),
        "training": dict(checkpoint.training),
    }
    save_tensors(checkpoint.editor, folder / MODEL)
    checkpoint.splits.save(folder / SPLITS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_editing_checkpoint(folder: Path) -> EditingCheckpoint:
    """Reads a checkpoint of an editor.

    Raises: InputError naming path, key, expected and found, for whatever is missing, unknown or misshapen.
    """
    kind = kind_of(folder)
    path = folder / CONFIG
    do = "Load another checkpoint; metamodel.load takes either kind."
    require(kind == KIND, f"{path}: kind", expected=repr(KIND), got=repr(kind), do=do)
    config = _config(path)
    sizes = record_from_json(EditorSizes, config["sizes"], f"{path}: sizes", do=RETRAIN)
    for key, value in dataclasses.asdict(sizes).items():
        require(value >= 1, f"{path}: sizes.{key}", expected="at least 1", got=value, do=RETRAIN)
    editor = sizes.network()
    load_tensors(editor, folder / MODEL)
    return EditingCheckpoint(
        editor=editor.eval(),
        sizes=sizes,
        refuse_below=float(config["refuse_below"]),
        zoo=config["zoo"],
        splits=Splits.load(folder / SPLITS),
        training=config["training"],
    )


def kind_of(folder: Path) -> object:
    """What a checkpoint says that it is, such as `function` or `editing`; None where it says nothing.

    Raises: InputError if there is no checkpoint.
    """
    do = "Check the path of the checkpoint."
    require(folder.is_dir(), str(folder), expected="the folder of a checkpoint", got="no such folder", do=do)
    return _object(folder / CONFIG).get("kind")


_TYPES: dict[str, tuple[type, ...]] = {
    "schema_version": (int,),
    "kind": (str,),
    "sizes": (dict,),
    "refuse_below": (int, float),
    "zoo": (dict,),
    "training": (dict,),
}
_ZOO = ("name", "folder", "fingerprint")
"""Keys of `zoo`, each text: where the subjects of training are looked for, and known again."""


def _object(path: Path) -> dict[str, Any]:
    require(path.is_file(), str(path), expected="a file", got="none", do=_AGAIN)
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), expected="JSON", got=str(error), do=_AGAIN) from error
    require(isinstance(config, dict), str(path), expected="an object", got=type(config).__name__, do=RETRAIN)
    return config


def _config(path: Path) -> dict[str, Any]:
    config = _object(path)
    version = config.get("schema_version")
    where = f"{path}: schema_version"
    require(version == SCHEMA_VERSION, where, expected=str(SCHEMA_VERSION), got=version, do=RETRAIN)
    for key in config:
        do = f"Remove it.{suggestion(key, _TYPES)}"
        require(key in _TYPES, f"{path}: {key}", expected="a known key", got="an unknown one", do=do)
    for key, types in _TYPES.items():
        where = f"{path}: {key}"
        require(key in config, where, expected="a value", got="no such key", do=RETRAIN)
        expected, got = " or ".join(kind.__name__ for kind in types), type(config[key]).__name__
        require(type(config[key]) in types, where, expected=expected, got=got, do=RETRAIN)
    for key in _ZOO:
        where, got = f"{path}: zoo.{key}", config["zoo"].get(key)
        require(isinstance(got, str), where, expected="text", got=repr(got), do=RETRAIN)
    where, got = f"{path}: refuse_below", config["refuse_below"]
    require(0 <= got <= 1, where, expected="a probability, 0 to 1", got=got, do=RETRAIN)
    return config
