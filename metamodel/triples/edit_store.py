"""Writes and reads a zoo of edits: subjects, their whole domains, and edits with known truth.

manifest.json                    as of every zoo
shards/shard-00000.safetensors   weights/<name> [subject, ...], tokens, answer, answers and unseen, and of
                                 each edit wanted, scope and pool [edit, input]
shards/shard-00000.edits.json    a record of each subject and of each edit
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from metamodel.config.errors import InputError, require, suggestion
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, stack
from metamodel.triples.edits import EDITS_VERSION, Edit, Editable
from metamodel.triples.manifest import (
    SHARDS,
    FileRecord,
    Manifest,
    ShardRecord,
    plain_values,
    read_finished,
    sha256,
    shard_name,
    write_atomically,
    write_json,
)

ENDING = ".edits.json"
BUILD = "Build it: python -m data_gen.episodes --config configs/edits/small.yaml"


def write_edits(
    folder: Path, index: int, subjects: Sequence[Editable], rejected: dict[str, str]
) -> ShardRecord:
    """Writes one shard, its record last. All subjects are of one shape and have domains of one size."""
    shards, name = folder / SHARDS, shard_name(index)
    files: dict[str, FileRecord] = {}
    if subjects:
        arrays = {f"weights/{k}": v for k, v in stack([one.subject for one in subjects]).items()}
        for part in ("tokens", "answer", "answers"):
            arrays[part] = torch.stack([getattr(one, part) for one in subjects]).to(torch.int16)
        arrays["unseen"] = torch.stack([one.unseen for one in subjects])
        edits = [(i, edit) for i, one in enumerate(subjects) for edit in one.edits]
        arrays["wanted"] = torch.stack([edit.wanted for _, edit in edits]).to(torch.int16)
        arrays["scope"] = torch.stack([edit.scope for _, edit in edits]).to(torch.uint8)
        arrays["pool"] = torch.stack([edit.pool for _, edit in edits])
        data = save({key: value.contiguous() for key, value in arrays.items()})
        write_atomically(shards / f"{name}.safetensors", lambda partial: partial.write_bytes(data))
        write_json(shards / f"{name}{ENDING}", _records(subjects, edits))
        for ending in (".safetensors", ENDING):
            path = shards / f"{name}{ending}"
            files[path.name] = FileRecord(sha256=sha256(path), bytes=path.stat().st_size)
    ids = tuple(one.subject.name for one in subjects)
    record = ShardRecord(index=index, files=files, accepted=ids, rejected=rejected)
    write_json(shards / f"{name}.json", plain_values(record))
    return record


def _records(subjects: Sequence[Editable], edits: Sequence[tuple[int, Edit]]) -> dict[str, Any]:
    return {
        "version": EDITS_VERSION,
        "config": subjects[0].subject.config.to_dict(),
        "subjects": [
            {
                "id": one.subject.name,
                "family": one.family,
                "lineage": one.lineage,
                "departs": one.departs,
                "quality": one.quality,
            }
            for one in subjects
        ],
        "edits": [
            {"subject": i, "kind": edit.kind, "rule": edit.rule, "n_pairs": edit.n_pairs, "test": edit.test}
            for i, edit in edits
        ],
    }


class EditZoo:
    """A finished zoo of edits; all of it is read at once, for it is small."""

    def __init__(self, folder: Path, manifest: Manifest, subjects: tuple[Editable, ...]):
        self.folder, self.manifest, self.subjects = folder, manifest, subjects

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @classmethod
    def open(cls, folder: Path | str) -> "EditZoo":
        """Raises: InputError if it is missing, unfinished, damaged, or a zoo of another kind."""
        folder = Path(folder)
        manifest = read_finished(folder, BUILD)
        subjects = [one for shard in manifest.shards if shard.files for one in _read(folder, shard)]
        return cls(folder, manifest, tuple(subjects))

    def editable(self, id: str) -> Editable:
        """One subject with its domain and edits. Raises: InputError if the id is unknown."""
        found = {one.subject.name: one for one in self.subjects}
        do = f"See the ids in EditZoo.subjects.{suggestion(id, found)}"
        where = f"{self.folder}#{id}"
        require(id in found, where, expected="the id of a subject in this zoo", got=repr(id), do=do)
        return found[id]


def holds_edits(folder: Path | str) -> bool:
    """Whether a folder is a zoo of edits, as its files say."""
    return any((Path(folder) / SHARDS).glob(f"*{ENDING}"))


def _read(folder: Path, shard: ShardRecord) -> Iterator[Editable]:
    for name, record in shard.files.items():
        path = folder / SHARDS / name
        require(
            path.is_file() and sha256(path) == record.sha256,
            str(path),
            expected="the file that was built",
            got="another one, or none",
            do="Remove the shard's files and build again: the other shards are kept.",
        )
    base = folder / SHARDS / shard_name(shard.index)
    where = f"{base}{ENDING}"
    require(Path(where).is_file(), str(folder), expected="a zoo of edits", got="a zoo of triples", do=BUILD)
    records = json.loads(Path(where).read_text())
    require(
        records["version"] == EDITS_VERSION,
        where,
        expected=f"version {EDITS_VERSION}",
        got=records["version"],
        do="Build the zoo again with this version of the package.",
    )
    try:
        arrays = load_file(f"{base}.safetensors")
    except OSError as error:
        raise InputError(str(base), expected="a readable shard", got=str(error), do=BUILD) from error
    config = SubjectConfig.from_dict(records["config"])
    edits: list[list[Edit]] = [[] for _ in records["subjects"]]
    for i, row in enumerate(records["edits"]):
        row = dict(row)
        edits[row.pop("subject")].append(
            Edit(
                wanted=arrays["wanted"][i].long(),
                scope=arrays["scope"][i].long(),
                pool=arrays["pool"][i],
                **row,
            )
        )
    for i, row in enumerate(records["subjects"]):
        weights = {
            k.removeprefix("weights/"): v[i].clone() for k, v in arrays.items() if k.startswith("weights/")
        }
        yield Editable(
            subject=Subject(config=config, weights=weights, name=row["id"]),
            family=row["family"],
            lineage=row["lineage"],
            departs=row["departs"],
            tokens=arrays["tokens"][i].long(),
            answer=arrays["answer"][i].long(),
            answers=arrays["answers"][i].long(),
            unseen=arrays["unseen"][i],
            edits=tuple(edits[i]),
            quality=row["quality"],
        )
