"""Tables beside a zoo's shards: pairs of subjects, episodes of editing. Added later, they touch no shard.

tables/pairs.arrow    the rows, of Hugging Face `datasets`
tables/pairs.json     their hash, and the zoo that they were made for; written last
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter

from metamodel.config.errors import InputError, require, suggestion
from metamodel.triples.manifest import read_finished, read_manifest, sha256, write_atomically, write_json

TABLES = "tables"
"""Folder of a zoo that holds them."""


def write_table(folder: Path, name: str, rows: Iterable[Mapping[str, Any]], features: Features) -> Path:
    """Adds a table to a finished zoo, or replaces the one of that name.

    Raises: InputError if there is no finished zoo.
    """
    manifest = read_finished(folder)
    where = folder / TABLES
    where.mkdir(exist_ok=True)
    path = where / f"{name}.arrow"

    def write(partial: Path) -> None:
        writer = ArrowWriter(features=features, path=str(partial))
        for row in rows:
            writer.write(dict(row))
        writer.finalize()
        writer.close()

    write_atomically(path, write)
    write_json(path.with_suffix(".json"), {"sha256": sha256(path), "zoo": manifest.fingerprint})
    return path


def read_table(folder: Path, name: str) -> Dataset:
    """Rows of a table, memory-mapped.

    Raises: InputError if there is none of that name, it is damaged, or it was made for another zoo.
    """
    path = folder / TABLES / f"{name}.arrow"
    known = table_names(folder)
    require(
        name in known,
        str(folder),
        expected=f"a table, one of {known}" if known else "a table",
        got=f"none named {name!r}",
        do=f"Make it: python -m data_gen.{name} {folder}.{suggestion(name, known)}",
    )
    for problem in table_problems(folder, name):
        raise InputError(str(path), expected="a table of this zoo", got=problem, do="Make it again.")
    return Dataset.from_file(str(path))


def table_names(folder: Path) -> list[str]:
    """Names of the tables of a zoo."""
    return sorted(path.stem for path in (folder / TABLES).glob("*.json"))


def table_problems(folder: Path, name: str) -> list[str]:
    """What is wrong with a table; nothing if it is whole and of this zoo."""
    path = folder / TABLES / f"{name}.arrow"
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        held, zoo = record["sha256"], record["zoo"]
    except (OSError, ValueError, KeyError, TypeError):
        return ["no readable record"]
    found = []
    if not path.is_file() or sha256(path) != held:
        found.append("rows that are not those of its record")
    if zoo != read_manifest(folder).fingerprint:
        found.append(f"rows made for another zoo ({str(zoo)[:12]})")
    return found
