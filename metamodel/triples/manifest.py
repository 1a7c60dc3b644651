"""What lies in a zoo's folder: which files, with which hashes, from which configuration.

    manifest.json                    schema, configuration, labels, and a record of every shard
    shards/shard-00000.json          record of one shard, written last: without it the shard does not exist
    shards/shard-00000.safetensors   weights and arrays of its triples, stacked
    shards/shard-00000.arrow         one row a triple

Nothing here depends on time, machine or order of work, so one configuration gives one set of bytes. Every
file is written under another name and renamed, so that a killed build leaves no half-written one.
"""

import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.config.errors import InputError, require
from metamodel.triples.schema import SCHEMA_VERSION, LabelDefinition

MANIFEST = "manifest.json"
SHARDS = "shards"
PARTIAL = ".part"
"""Ending of files that are being written."""
ATTEMPTS = 3
"""How often a file is written that another job sweeps away as left over."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""How file systems say that they have no hard links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Identity of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What a shard holds, and what it lacks and why."""

    index: int
    files: dict[str, FileRecord]
    """By name inside `shards/`; none where no subject was accepted."""
    accepted: tuple[str, ...]
    """Ids, in the order of rows."""
    rejected: dict[str, str]
    """Id to reason."""

    @property
    def n_subjects(self) -> int:
        """Networks that were accepted; one that has learnt several families has several rows."""
        return len({id.partition("@")[0] for id in self.accepted})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record of a zoo."""

    schema_version: int
    name: str
    config: dict[str, Any]
    """Resolved configuration, as plain values."""
    config_fingerprint: str
    code_version: str
    labels: tuple[LabelDefinition, ...]
    n_shards: int
    finished: bool
    shards: tuple[ShardRecord, ...]

    @property
    def fingerprint(self) -> str:
        """Identity of what the zoo holds: hashes of all its files, and the meaning of its labels."""
        held = plain_values(self)
        return digest({key: held[key] for key in ("schema_version", "labels", "shards")})


def digest(values: object) -> str:
    """Hash of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_values(record: Manifest | ShardRecord) -> dict[str, Any]:
    """A record as JSON holds it: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def code_version() -> str:
    """Version of this package, without which a zoo cannot be rebuilt to the same bytes."""
    return importlib.metadata.version("metamodel")


def shard_name(index: int) -> str:
    return f"shard-{index:05d}"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, forces it to disk and only then gives it its name.

    Raises: InputError if the disk is full or the folder cannot be written. No part of the file stays.
    """
    for attempt in range(ATTEMPTS):
        partial = _partial(path)
        try:
            write(partial)
            _named(partial, path)
            return
        except FileNotFoundError:  # swept away by a job that finished the zoo meanwhile
            if attempt == ATTEMPTS - 1 or not path.parent.is_dir():
                raise
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise unwritable(path, error) from error


def write_json(path: Path, values: object) -> None:
    write_atomically(path, lambda partial: partial.write_text(_json(values)))


def write_json_first(path: Path, values: object) -> bool:
    """Writes the file unless it is there, and tells whether it did. Of jobs that write at once one does.

    Hard links decide that, also between machines. A file system without them lets both write.
    """
    partial = _partial(path)
    try:
        partial.write_text(_json(values))
        _synced(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if path.exists():
                return False
            os.replace(partial, path)
        _synced(path.parent)
        return True
    except FileNotFoundError:  # swept away by a job that finished the zoo meanwhile
        if not path.exists():
            raise
        return False
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> InputError:
    """What to say where a file cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return InputError(
        str(path),
        expected="space on its disk" if full else "a folder that can be written",
        got=error.strerror or str(error),
        do="Free some and run the same command again: what is finished is kept."
        if full
        else "Choose another folder with --out.",
    )


def _partial(path: Path) -> Path:
    # drawn, since jobs of one array on many machines may have the same process number
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def _named(partial: Path, path: Path) -> None:
    _synced(partial)
    os.replace(partial, path)
    _synced(path.parent)


def _synced(path: Path) -> None:
    """Forces a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(values: object) -> str:
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def has_record(folder: Path, index: int) -> bool:
    """Whether a shard was made; `valid_shard` tells, by reading all of it, whether it is still whole."""
    return (folder / SHARDS / f"{shard_name(index)}.json").is_file()


def valid_shard(folder: Path, index: int) -> ShardRecord | None:
    """The record of a shard whose files are whole; None if it has to be made."""
    try:
        record = shard_record(json.loads((folder / SHARDS / f"{shard_name(index)}.json").read_text()))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    whole = all(
        (folder / SHARDS / name).is_file() and sha256(folder / SHARDS / name) == file.sha256
        for name, file in record.files.items()
    )
    return record if whole else None


def read_manifest(folder: Path, build: str = "") -> Manifest:
    """The record of a zoo.

    Args:
        build: how to build it, for messages; by default the command of a zoo of triples.

    Raises: InputError if there is none, or one of another schema version.
    """
    path = folder / MANIFEST
    build = build or f"Build it: python -m data_gen.build --config configs/zoo/{folder.name}.yaml"
    require(path.is_file(), str(folder), expected="a zoo", got=f"no {MANIFEST}", do=build)
    try:
        values = json.loads(path.read_text())
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), expected="a zoo's manifest", got="another text", do=build) from error
    require(
        version == SCHEMA_VERSION,
        str(path),
        expected=f"schema version {SCHEMA_VERSION}",
        got=version,
        do="Rebuild the zoo with this version of the package.",
    )
    try:
        labels = tuple(label_definition(label) for label in values.pop("labels"))
        shards = tuple(shard_record(shard) for shard in values.pop("shards"))
        return Manifest(labels=labels, shards=shards, **values)
    except (KeyError, TypeError) as error:
        raise InputError(
            str(path), expected="a whole manifest", got=f"an error at {error}", do=build
        ) from error


def read_finished(folder: Path, build: str = "") -> Manifest:
    """The record of a finished zoo; arguments as of `read_manifest`.

    Raises: InputError if there is none, one of another schema version, or one that is being built.
    """
    manifest = read_manifest(folder, build)
    require(
        manifest.finished,
        str(folder),
        expected="a finished zoo",
        got="one that is being built",
        do="Run the command that builds it again: it goes on.",
    )
    return manifest


def shard_record(values: object) -> ShardRecord:
    """Raises: KeyError or TypeError if the values are no record."""
    held = _object(values, "shards")
    files = {
        name: FileRecord(**_object(file, f"shards.files.{name}"))
        for name, file in _object(held["files"], "shards.files").items()
    }
    return ShardRecord(
        index=held["index"],
        files=files,
        accepted=tuple(held["accepted"]),
        rejected=_object(held["rejected"], "shards.rejected"),
    )


def label_definition(values: object) -> LabelDefinition:
    """Raises: TypeError if the values are no definition."""
    held = _object(values, "labels")
    lists: dict[str, Any] = {key: tuple(value) for key, value in held.items() if isinstance(value, list)}
    return LabelDefinition(**{**held, **lists})


def _object(values: object, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"{where}, a {type(values).__name__} in place of an object")
    return values
