"""Our own folder of one subject, for those without a form in transformers: JSON and safetensors."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject

SCHEMA_VERSION = 1
CONFIG, WEIGHTS = "subject.json", "subject.safetensors"


def save_own(subject: Subject, folder: Path) -> Path:
    """Writes shape, name, notes and raw weights, bit by bit."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "schema_version": SCHEMA_VERSION,
        "name": subject.name,
        "notes": list(subject.notes),
        "config": subject.config.to_dict(),
    }
    weights = {key: value.detach().cpu().contiguous() for key, value in subject.weights.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(values, indent=1) + "\n")
    return folder


def is_own(folder: Path) -> bool:
    """Whether a folder is one of these."""
    return (folder / CONFIG).is_file()


def load_own(folder: Path) -> Subject:
    """Raises: InputError, one line, if a file is missing, of another version or broken."""
    path, do = folder / CONFIG, "Copy the whole folder again."
    try:
        values = json.loads(path.read_text())
        version, config = values["schema_version"], SubjectConfig.from_dict(values["config"])
        name, notes = str(values["name"]), tuple(map(str, values["notes"]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), expected="a subject", got="something else", do=do) from error
    require(
        version == SCHEMA_VERSION,
        f"{path}: schema_version",
        expected=str(SCHEMA_VERSION),
        got=version,
        do="Write it again with this version of the package.",
    )
    weights = folder / WEIGHTS
    require(weights.is_file(), str(weights), expected="a file", got="none", do=do)
    try:
        found = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(str(weights), expected="a safetensors file", got=str(error), do=do) from error
    return Subject(config=config, weights=found, name=name, notes=notes)
