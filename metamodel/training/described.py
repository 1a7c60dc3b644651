"""The config.json of a checkpoint: what it is, and strict reading of whatever it holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamodel.config.errors import InputError, require, suggestion
from metamodel.training.tensors import RETRAIN

CONFIG = "config.json"
ZOO_KEYS = ("name", "folder", "fingerprint")
"""Keys of `zoo`, each text: where the subjects of training are looked for, and known again."""
_AGAIN = "Copy the whole checkpoint again."


def kind_of(folder: Path) -> object:
    """What a checkpoint says that it is, such as `function` or `editing`; None where it says nothing.

    Raises: InputError if there is no checkpoint.
    """
    do = "Check the path of the checkpoint."
    require(folder.is_dir(), str(folder), expected="the folder of a checkpoint", got="no such folder", do=do)
    return json_object(folder / CONFIG).get("kind")


def json_object(path: Path) -> dict[str, Any]:
    """Raises: InputError if the file is missing, or no object."""
    require(path.is_file(), str(path), expected="a file", got="none", do=_AGAIN)
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), expected="JSON", got=str(error), do=_AGAIN) from error
    require(isinstance(config, dict), str(path), expected="an object", got=type(config).__name__, do=RETRAIN)
    return config


def read_config(
    path: Path, *, kind: str, version: int, types: Mapping[str, tuple[type, ...]]
) -> dict[str, Any]:
    """A config.json that says `kind`, is of this version, and holds exactly the keys of `types`.

    Args:
        types: of each key beside schema_version and kind; `zoo` must be among them.

    Raises: InputError naming path, key, expected and found.
    """
    config, known = json_object(path), {"schema_version": (int,), "kind": (str,), **types}
    got = config.get("kind")
    do = "Load another checkpoint; metamodel.load takes any kind."
    require(got == kind, f"{path}: kind", expected=repr(kind), got=repr(got), do=do)
    found = config.get("schema_version")
    require(found == version, f"{path}: schema_version", expected=str(version), got=found, do=RETRAIN)
    for key in config:
        do = f"Remove it.{suggestion(key, known)}"
        require(key in known, f"{path}: {key}", expected="a known key", got="an unknown one", do=do)
    for key, allowed in known.items():
        where = f"{path}: {key}"
        require(key in config, where, expected="a value", got="no such key", do=RETRAIN)
        expected, got = " or ".join(one.__name__ for one in allowed), type(config[key]).__name__
        require(type(config[key]) in allowed, where, expected=expected, got=got, do=RETRAIN)
    for key in ZOO_KEYS:
        where, got = f"{path}: zoo.{key}", config["zoo"].get(key)
        require(isinstance(got, str), where, expected="text", got=repr(got), do=RETRAIN)
    return config
