"""The folder of a zoo while it is built: begun by any number of jobs, gone on with, finished by the last.

The manifest comes first: whoever finds `shards/` finds it too, also among jobs that begin one zoo at once.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamodel.config.errors import require
from metamodel.triples.manifest import (
    MANIFEST,
    PARTIAL,
    SHARDS,
    Manifest,
    code_version,
    digest,
    has_record,
    plain_values,
    read_manifest,
    unwritable,
    valid_shard,
    write_json,
    write_json_first,
)
from metamodel.triples.schema import SCHEMA_VERSION, LabelDefinition

MOST_SHOWN = 6
"""Differences of two configurations that are shown."""
LONGEST_SHOWN = 60
"""Characters of one value that are shown."""
ABSENT = "nothing"


def begin(
    folder: Path, *, name: str, config: Mapping[str, Any], labels: tuple[LabelDefinition, ...], n_shards: int
) -> Manifest:
    """Opens a folder for building: writes an unfinished manifest, or accepts the one of the same zoo.

    Several jobs may begin one zoo at once: one of them writes the manifest, the others accept it or, if they
    are of another configuration, refuse it.

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
        raise unwritable(folder, error) from error


def _begun(folder: Path, wanted: Manifest) -> Manifest:
    # in this order: another job may write the manifest and then its shards between the two looks
    others = _foreign(folder)
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        changed = {
            **differences(found.config, wanted.config),
            **differences(plain_values(found)["labels"], plain_values(wanted)["labels"], "labels"),
            **differences(found.code_version, wanted.code_version, "code_version"),
        }
        require(
            not changed,
            str(folder),
            expected="the zoo of this configuration",
            got=f"another one (there -> here): {shown(changed)}",
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
    if not write_json_first(folder / MANIFEST, plain_values(wanted)):
        return _begun(folder, wanted)
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


def differences(first: Any, second: Any, where: str = "") -> dict[str, tuple[str, str]]:
    """By dotted name, the values in which two trees of plain values differ, as text."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = {f"{where}.{key}" if where else str(key): key for key in sorted(first.keys() | second.keys())}
    elif isinstance(first, list) and isinstance(second, list):
        first, second = dict(enumerate(first)), dict(enumerate(second))
        names = {f"{where}[{i}]": i for i in range(max(len(first), len(second)))}
    else:
        return {} if first == second else {where or "config": (_short(first), _short(second))}
    found: dict[str, tuple[str, str]] = {}
    for name, key in names.items():
        if key in first and key in second:
            found |= differences(first[key], second[key], name)
        else:
            old, new = (_short(values[key]) if key in values else ABSENT for values in (first, second))
            found[name] = old, new
    return found


def shown(changed: Mapping[str, tuple[str, str]]) -> str:
    """Differences in one line, the first few of them."""
    lines = [f"{name}: {old} -> {new}" for name, (old, new) in changed.items()]
    more = [f"and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    return ", ".join([*lines[:MOST_SHOWN], *more])


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def finish(folder: Path) -> Manifest | None:
    """Writes the manifest once every shard is there; None while some are missing."""
    begun = read_manifest(folder)
    # without reading files, so that each of many jobs may ask at its end
    if not all(has_record(folder, index) for index in range(begun.n_shards)):
        return None
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
