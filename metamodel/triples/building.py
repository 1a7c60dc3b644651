"""The folder of a zoo while it is built: begun by any number of jobs, gone on with, finished by the last.

The manifest comes first: whoever finds `shards/` finds it too, also among jobs that begin one zoo at once.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamodel.config.errors import InputError, require
from metamodel.triples.manifest import (
    MANIFEST,
    PARTIAL,
    SHARDS,
    Manifest,
    code_version,
    digest,
    plain_values,
    read_manifest,
    valid_shard,
    write_json,
)
from metamodel.triples.schema import SCHEMA_VERSION, LabelDefinition


def begin(
    folder: Path, *, name: str, config: Mapping[str, Any], labels: tuple[LabelDefinition, ...], n_shards: int
) -> Manifest:
    """Opens a folder for building: writes an unfinished manifest, or accepts the one of the same zoo.

    Several jobs may begin one zoo at once: all of them write the same manifest.

    Raises: InputError if the folder holds a zoo of another configuration, or another thing, or if it cannot
        be written.
    """
    wanted = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        config=json.loads(json.dumps(config)),
        config_fingerprint=digest(config),
        code_version=code_version(),
        labels=labels,
        n_shards=n_shards,
        finished=False,
        shards=(),
    )
    try:
        return _begun(folder, wanted)
    except OSError as error:
        raise InputError(
            str(folder),
            expected="a folder that can be written",
            got=error.strerror or str(error),
            do="Choose another folder with --out.",
        ) from error


def _begun(folder: Path, wanted: Manifest) -> Manifest:
    # in this order: another job may write the manifest and then its shards between the two looks
    others = _foreign(folder)
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        differing = [
            *differing_keys(found.config, wanted.config),
            *(["labels"] if found.labels != wanted.labels else []),
            *(["code_version"] if found.code_version != wanted.code_version else []),
        ]
        require(
            not differing,
            str(folder),
            expected="the zoo of this configuration",
            got=f"another one: {', '.join(differing)} differ",
            do="Choose another folder with --out, or remove this one.",
        )
        return found
    require(
        not others,
        str(folder),
        expected="an empty folder or a zoo",
        got=f"{others[0] if others else ''} and no {MANIFEST}",
        do="Choose another folder with --out.",
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, plain_values(wanted))
    (folder / SHARDS).mkdir(exist_ok=True)
    return wanted


def _foreign(folder: Path) -> list[str]:
    """Names of what lies in a folder, except for what a build that was killed while it began left there."""
    if not folder.is_dir():
        return []
    shards = folder / SHARDS
    empty = shards.is_dir() and all(p.name.endswith(PARTIAL) for p in shards.iterdir())
    return sorted(
        p.name for p in folder.iterdir() if not (p.match(f"{MANIFEST}.*{PARTIAL}") or (p == shards and empty))
    )


def differing_keys(first: Any, second: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values in which two configurations differ."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [prefix or "config"]
    found = []
    for key in sorted(first.keys() | second.keys()):
        dotted = f"{prefix}.{key}" if prefix else key
        if key not in first or key not in second:
            found.append(dotted)
        else:
            found += differing_keys(first[key], second[key], dotted)
    return found


def finish(folder: Path) -> Manifest | None:
    """Writes the manifest once every shard is there; None while some are missing."""
    begun = read_manifest(folder)
    records = [valid_shard(folder, index) for index in range(begun.n_shards)]
    whole = tuple(record for record in records if record is not None)
    if len(whole) < begun.n_shards:
        return None
    # missing_ok: the last jobs of an array finish the zoo, and sweep, at the same time
    for partial in (*folder.glob(f"{MANIFEST}.*{PARTIAL}"), *(folder / SHARDS).glob(f"*{PARTIAL}")):
        partial.unlink(missing_ok=True)
    finished = dataclasses.replace(begun, finished=True, shards=whole)
    write_json(folder / MANIFEST, plain_values(finished))
    return finished
