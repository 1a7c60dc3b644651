"""An editor on disk: config.json, model.safetensors, splits.json. Strict loading, without pickle."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.config.editing import Part
from metamodel.config.errors import require
from metamodel.config.record import record_from_json
from metamodel.networks.editing.editor import Editor
from metamodel.training.described import CONFIG, read_config
from metamodel.training.tensors import RETRAIN, load_tensors, save_tensors
from metamodel.triples.splits import Splits

SCHEMA_VERSION = 7
KIND = "editing"
MODEL, SPLITS = "model.safetensors", "splits.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditorSizes:
    """Sizes of an `Editor`, under the names of its arguments."""

    width: int
    map_width: int
    map_layers: int
    n_steps: int
    recurrent: int = 1
    gates: bool = False
    decay: bool = False
    without: tuple[Part, ...] = ()
    deep_steps: int = 0
    component_steps: int = 0

    def network(self) -> Editor:
        """An untrained editor of these sizes."""
        return Editor(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


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
    do = "Check the path of the checkpoint."
    require(folder.is_dir(), str(folder), expected="the folder of a checkpoint", got="no such folder", do=do)
    path = folder / CONFIG
    config = read_config(path, kind=KIND, version=SCHEMA_VERSION, types=_TYPES)
    where, got = f"{path}: refuse_below", config["refuse_below"]
    require(0 <= got <= 1, where, expected="a probability, 0 to 1", got=got, do=RETRAIN)
    sizes = record_from_json(EditorSizes, config["sizes"], f"{path}: sizes", do=RETRAIN)
    for key in ("width", "map_width", "map_layers", "n_steps", "recurrent"):
        value = getattr(sizes, key)
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


_TYPES: dict[str, tuple[type, ...]] = {
    "sizes": (dict,),
    "refuse_below": (int, float),
    "zoo": (dict,),
    "training": (dict,),
}
