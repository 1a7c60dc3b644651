"""Writes and reads a zoo of students: pairs of a teacher and its students, with prompts to measure them on.

students.json          schema version, configuration, and of each pair its names and shapes
students.safetensors   <pair>/<teacher or arm>/<weight name>, and <pair>/prompts/<field>
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject
from metamodel.triples.manifest import digest, write_atomically, write_json

SCHEMA_VERSION = 1
RECORDS, ARRAYS = "students.json", "students.safetensors"
BUILD = "Build it: python -m data_gen.student --config configs/student/small.yaml"
_FIELDS = ("clean", "corrupt", "position", "answer", "corrupt_answer")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudentPair:
    """A teacher, and one student for each way of being like it."""

    name: str
    family: str
    lineage: str
    """Of the teacher."""
    teacher: Subject
    students: Mapping[str, Subject]
    """By arm."""
    prompts: Prompts
    """Held out: none was trained on."""
    probes: Int[Tensor, "probe pos"]
    """Other prompts, on which streams are aligned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudentZoo:
    """A finished zoo of students."""

    name: str
    config: Mapping[str, Any]
    """From which it was made."""
    pairs: tuple[StudentPair, ...]

    @property
    def fingerprint(self) -> str:
        return digest(dict(self.config))

    def save(self, folder: Path) -> None:
        """Writes both files, records last."""
        arrays: dict[str, Tensor] = {}
        for pair in self.pairs:
            for arm, subject in {"teacher": pair.teacher, **pair.students}.items():
                arrays |= {f"{pair.name}/{arm}/{key}": value for key, value in subject.weights.items()}
            arrays |= {f"{pair.name}/prompts/{name}": getattr(pair.prompts, name) for name in _FIELDS}
            arrays[f"{pair.name}/probes"] = pair.probes
        data = save({key: value.contiguous() for key, value in arrays.items()})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ARRAYS, lambda partial: partial.write_bytes(data))
        records = [
            {
                "name": pair.name,
                "family": pair.family,
                "lineage": pair.lineage,
                "teacher": pair.teacher.config.to_dict(),
                "teacher_name": pair.teacher.name,
                "student": next(iter(pair.students.values())).config.to_dict(),
                "arms": list(pair.students),
            }
            for pair in self.pairs
        ]
        values = {"schema_version": SCHEMA_VERSION, "name": self.name, "config": dict(self.config)}
        write_json(folder / RECORDS, values | {"pairs": records})

    @classmethod
    def open(cls, folder: Path | str) -> "StudentZoo":
        """Raises: InputError if a file is missing or of another version."""
        folder = Path(folder)
        for name in (RECORDS, ARRAYS):
            path = folder / name
            require(path.is_file(), str(path), expected="a file of a zoo of students", got="none", do=BUILD)
        values = json.loads((folder / RECORDS).read_text())
        require(
            values.get("schema_version") == SCHEMA_VERSION,
            str(folder / RECORDS),
            expected=f"schema_version {SCHEMA_VERSION}",
            got=values.get("schema_version"),
            do="Build it again with this version of the package.",
        )
        arrays = load_file(folder / ARRAYS)
        pairs = tuple(_pair(record, arrays) for record in values["pairs"])
        return cls(name=values["name"], config=values["config"], pairs=pairs)


def _pair(record: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> StudentPair:
    name = record["name"]

    def subject(arm: str, shape: Mapping[str, Any], of: str) -> Subject:
        start = f"{name}/{arm}/"
        weights = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
        return Subject(config=SubjectConfig.from_dict(dict(shape)), weights=weights, name=of)

    fields = {field: arrays[f"{name}/prompts/{field}"] for field in _FIELDS}
    return StudentPair(
        name=name,
        family=record["family"],
        lineage=record["lineage"],
        teacher=subject("teacher", record["teacher"], record["teacher_name"]),
        students={arm: subject(arm, record["student"], f"{name}/{arm}") for arm in record["arms"]},
        prompts=Prompts(
            clean=fields["clean"],
            corrupt=fields["corrupt"],
            position=fields["position"],
            answer=fields["answer"],
            corrupt_answer=fields["corrupt_answer"],
            slice=torch.zeros_like(fields["position"]),
            slice_names=("all",),
        ),
        probes=arrays[f"{name}/probes"],
    )
