"""Writes the triples of one shard: arrays stacked in a safetensors file, and a table with a row a triple.

Weights and arrays are stacked `[row, ...]` under `weights/<name>` and `<part>/<field>`; what fits a table is
a row of a Hugging Face `datasets` Arrow file.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from metamodel.config.errors import require
from metamodel.subjects.config import SubjectConfig
from metamodel.triples.manifest import (
    SHARDS,
    FileRecord,
    ShardRecord,
    plain_values,
    sha256,
    shard_name,
    write_atomically,
    write_json,
)
from metamodel.triples.schema import (
    Activation,
    Behavior,
    CircuitScores,
    FunctionLabels,
    SubjectInfo,
    Triple,
    Truth,
)

PARTS = {
    "activation": Activation,
    "circuit": CircuitScores,
    "behavior": Behavior,
    "labels": FunctionLabels,
    "truth": Truth,
}
"""Parts of a triple whose arrays are stored."""
OPTIONAL = {"truth"}
"""Parts that not every subject has; those of one shard all have them, or none."""
SLICES = "behavior/slice_accuracy"
NAMES = {"slice_names"}
"""Fields of parts that are no arrays and stand in the table."""
INFO_FIELDS = tuple(f.name for f in dataclasses.fields(SubjectInfo))
CONFIG_FIELDS = tuple(f.name for f in dataclasses.fields(SubjectConfig))


def array_fields(part: str) -> tuple[str, ...]:
    """Names of the arrays of one part of a triple."""
    return tuple(f.name for f in dataclasses.fields(PARTS[part]) if f.name not in NAMES)


def row_features() -> Features:
    """Columns of the table, one row a triple: its `SubjectInfo`, its `SubjectConfig`, its behavior."""
    kinds = {int: "int64", float: "float64"}
    columns: dict[str, Any] = {"shard": Value("int32"), "row": Value("int32")}
    for owner in (SubjectInfo, SubjectConfig):
        for item in dataclasses.fields(owner):
            columns[item.name] = Value(kinds.get(item.type, "string"))  # pyright: ignore[reportArgumentType]
    numbers = ("accuracy", "margin", "cross_entropy")
    columns |= {name: Value("float32") for name in numbers}
    columns |= {"slice_names": List(Value("string")), "slice_accuracy": List(Value("float32"))}
    columns |= {"n_nodes": Value("int32"), "n_edges": Value("int32"), "n_member_edges": Value("int32")}
    columns["certificate"] = Value("float32")
    columns["notes"] = List(Value("string"))
    return Features(columns)


def _row(index: int, row: int, triple: Triple) -> dict[str, Any]:
    behavior = triple.behavior
    return {
        "shard": index,
        "row": row,
        **{name: getattr(triple.info, name) for name in INFO_FIELDS},
        **triple.subject.config.to_dict(),
        "accuracy": behavior.accuracy.item(),
        "margin": behavior.margin.item(),
        "cross_entropy": behavior.cross_entropy.item(),
        "slice_names": list(behavior.slice_names),
        "slice_accuracy": behavior.slice_accuracy.tolist(),
        "n_nodes": triple.circuit.node_member.shape[0],
        "n_edges": triple.circuit.member.shape[0],
        "n_member_edges": int(triple.circuit.member.sum()),
        "certificate": None if triple.truth is None else triple.truth.worst,
        "notes": list(triple.subject.notes),
    }


def _arrays(triple: Triple) -> dict[str, Tensor]:
    found = {f"weights/{name}": weight for name, weight in triple.subject.weights.items()}
    for part in PARTS:
        values = getattr(triple, part)
        if values is None:
            assert part in OPTIONAL
            continue
        found |= {f"{part}/{name}": getattr(values, name) for name in array_fields(part)}
    return {name: array.detach().cpu() for name, array in found.items()}


def write_shard(
    folder: Path, index: int, triples: Sequence[Triple], rejected: Mapping[str, str]
) -> ShardRecord:
    """Writes one shard of a begun zoo: data first, then its record, which makes it exist.

    Args:
        folder: the zoo.
        index: number of the shard.
        triples: all of one shape; may be empty, then only the record is written.
        rejected: reason for every subject of this shard that was not accepted, by id.
    """
    where = folder / SHARDS
    where.mkdir(parents=True, exist_ok=True)
    files: dict[str, FileRecord] = {}
    if triples:
        arrays = [_arrays(triple) for triple in triples]
        longest = max(len(a[SLICES]) for a in arrays)
        for a in arrays:  # tasks of one subject may have different numbers of slices
            a[SLICES] = pad(a[SLICES], (0, longest - len(a[SLICES])), value=torch.nan)
        for other in arrays[1:]:
            shapes = {name: array.shape for name, array in other.items()}
            assert shapes == {name: array.shape for name, array in arrays[0].items()}, "one shape a shard"
        stacked = {name: torch.stack([a[name] for a in arrays]).contiguous() for name in sorted(arrays[0])}
        rows = [_row(index, i, triple) for i, triple in enumerate(triples)]

        def write_table(path: Path) -> None:
            writer = ArrowWriter(features=row_features(), path=str(path))
            for row in rows:
                writer.write(row)
            writer.finalize()
            writer.close()

        # One key of metadata at most: safetensors orders several of them anew in every process.
        for ending, write in (
            ("safetensors", lambda path: path.write_bytes(save(stacked, metadata={"format": "pt"}))),
            ("arrow", write_table),
        ):
            path = where / f"{shard_name(index)}.{ending}"
            write_atomically(path, write)
            files[path.name] = FileRecord(sha256=sha256(path), bytes=path.stat().st_size)
    record = ShardRecord(
        index=index,
        files=files,
        accepted=tuple(triple.info.id for triple in triples),
        rejected=dict(sorted(rejected.items())),
    )
    write_json(where / f"{shard_name(index)}.json", plain_values(record))
    return record


def check_file(folder: Path, name: str, record: FileRecord) -> None:
    """Raises: InputError if a file of a shard is missing or not the one that was written."""
    path = folder / SHARDS / name
    again = "Remove it and build again: the other shards of this zoo are kept."
    require(path.is_file(), str(path), expected="a file of the zoo", got="no such file", do=again)
    found = sha256(path)
    require(
        found == record.sha256,
        str(path),
        expected=f"sha256 {record.sha256[:12]}",
        got=f"{found[:12]}: a corrupted file",
        do=again,
    )
