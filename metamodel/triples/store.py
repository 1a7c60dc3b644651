"""Reads a zoo: a sequence of triples, loaded when asked for.

Tables are memory-mapped, arrays read row by row. Reading needs datasets, safetensors and torch, no pickle,
and writes no cache. A zoo is a map-style torch dataset, and `Zoo.to_dataset` is one of Hugging Face.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
from datasets import Dataset, concatenate_datasets
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from metamodel.config.errors import InputError, require, suggestion
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.subject import Subject
from metamodel.triples.manifest import SHARDS, Manifest, read_manifest, shard_name
from metamodel.triples.schema import (
    Activation,
    Behavior,
    CircuitScores,
    FunctionLabels,
    LabelDefinition,
    SubjectInfo,
    Triple,
    Truth,
)
from metamodel.triples.shard import CONFIG_FIELDS, INFO_FIELDS, OPTIONAL, PARTS, array_fields, check_file
from metamodel.triples.tables import read_table

COLUMNS = ("family", "variant", "size", "recipe", "origin", "departs", "relation", "lineage", "subject")
"""Columns by which `Zoo.where` selects."""


class Zoo(TorchDataset[Triple]):
    """A finished zoo: a sequence of triples, read when asked for. Make one with `Zoo.open`.

    A shard's hash is checked once, when it is first read; tables are checked on opening.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self._checked: set[int] = set()
        self._chosen: tuple[int, ...] | None = None
        """Indices of the triples that a selection holds, among all; None for all."""
        for shard in manifest.shards:
            for name, record in shard.files.items():
                if name.endswith(".arrow"):
                    check_file(folder, name, record)
                else:
                    path = folder / SHARDS / name
                    require(
                        path.is_file(),
                        str(path),
                        expected="a shard of the zoo",
                        got="no such file",
                        do="Build again: the other shards of this zoo are kept.",
                    )

    @classmethod
    def open(cls, folder: Path | str) -> "Zoo":
        """Opens a zoo's folder.

        Raises: InputError if it is missing, unfinished, of another schema version, or lacks a file.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        require(
            manifest.finished,
            str(folder),
            expected="a finished zoo",
            got=f"one that is being built ({manifest.n_shards} shards)",
            do="Run the command that builds it again: it goes on.",
        )
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def labels(self) -> tuple[LabelDefinition, ...]:
        return self.manifest.labels

    @property
    def fingerprint(self) -> str:
        """Hash of everything the zoo holds."""
        return self.manifest.fingerprint

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._positions)

    @cached_property
    def rows(self) -> Dataset:
        """The table, memory-mapped: one row a triple, in the order of `ids`."""
        return self._table if self._chosen is None else self._table.select(self._chosen)

    @cached_property
    def _table(self) -> Dataset:
        tables = [
            Dataset.from_file(str(self.folder / SHARDS / name))
            for shard in self.manifest.shards
            for name in shard.files
            if name.endswith(".arrow")
        ]
        require(
            bool(tables), str(self.folder), expected="accepted subjects", got="none", do="Train them longer."
        )
        return concatenate_datasets(tables)

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        """The rows, decoded once: `Dataset` rebuilds its schema at every access, which takes long."""
        return self._table.data.to_pylist()

    @cached_property
    def _positions(self) -> dict[str, tuple[int, int, int]]:
        """For each id its index in the whole table, its shard and its row there."""
        places = [
            (shard.index, row, id_)
            for shard in self.manifest.shards
            for row, id_ in enumerate(shard.accepted)
        ]
        chosen = range(len(places)) if self._chosen is None else self._chosen
        return {places[i][2]: (i, *places[i][:2]) for i in chosen}

    def where(
        self,
        *,
        family: str | Collection[str] | None = None,
        variant: str | Collection[str] | None = None,
        size: str | Collection[str] | None = None,
        recipe: str | Collection[str] | None = None,
        origin: str | Collection[str] | None = None,
        departs: str | Collection[str] | None = None,
        relation: str | Collection[str] | None = None,
        lineage: str | Collection[str] | None = None,
        subject: str | Collection[str] | None = None,
    ) -> "Zoo":
        """The same zoo with those triples only whose columns have these values, or one of several.

        Raises: InputError for a value that no triple of this zoo has.
        """
        given = (family, variant, size, recipe, origin, departs, relation, lineage, subject)
        wanted = {
            column: {values} if isinstance(values, str) else set(values)
            for column, values in zip(COLUMNS, given, strict=True)
            if values is not None
        }
        for column, values in wanted.items():
            known = {record[column] for record in self._records}
            for value in sorted(values - known):
                raise InputError(
                    f"Zoo.where: {column}",
                    expected=f"one of {sorted(known)[:12]}",
                    got=repr(value),
                    do=f"See Zoo.to_pandas().{suggestion(value, known)}",
                )
        indices = (index for index, _, _ in self._positions.values())
        selection = Zoo.__new__(Zoo)
        selection.folder, selection.manifest, selection._checked = self.folder, self.manifest, self._checked
        selection._chosen = tuple(
            i for i in indices if all(self._records[i][column] in values for column, values in wanted.items())
        )
        selection.__dict__["_table"], selection.__dict__["_records"] = self._table, self._records
        return selection

    def table(self, name: str) -> Dataset:
        """A table beside the shards, such as `pairs`.

        Raises: InputError if there is none of that name, or it is damaged or made for another zoo.
        """
        return read_table(self.folder, name)

    def to_dataset(self, arrays: Collection[str] = ()) -> Dataset:
        """The triples as a Hugging Face dataset in memory: the columns of `rows`, and arrays as lists.

        Args:
            arrays: such as `labels/state` or `weights/blocks.0.attn.W_Q`; see `Zoo.array_names`.

        Raises: InputError for an array that no triple has.
        """
        known = self.array_names()
        for name in arrays:
            if name not in known:
                do = f"See Zoo.array_names().{suggestion(name, known)}"
                raise InputError("Zoo.to_dataset: arrays", expected="a known array", got=repr(name), do=do)
        rows = []
        for index, shard, place in self._positions.values():
            held = self._read(shard, place, "") if arrays else {}
            own = {name: held[name].tolist() if name in held else None for name in arrays}
            rows.append(self._records[index] | own)
        return Dataset.from_list(rows)

    def array_names(self) -> tuple[str, ...]:
        """Names of the arrays that some triple of this zoo has."""
        shards = sorted({shard for _, shard, _ in self._positions.values()})
        return tuple(sorted({key for shard in shards for key in self._keys(shard)}))

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a data frame."""
        return self.rows.to_pandas()  # pyright: ignore[reportReturnType]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Triple]:
        return map(self.triple, self.ids)

    def __getitem__(self, index: int) -> Triple:
        if not -len(self) <= index < len(self):
            raise IndexError(f"zoo {self.name} has {len(self)} triples, asked for {index}")
        return self.triple(self.ids[index])

    def triple(self, id: str) -> Triple:
        """Raises: InputError if the id is unknown or its shard corrupted."""
        index, shard, place = self._position(id)
        row = self._records[index]
        arrays = self._read(shard, place, "")
        parts: dict[str, dict[str, Any]] = {
            part: {name: arrays[f"{part}/{name}"] for name in array_fields(part)}
            for part in PARTS
            if part not in OPTIONAL or any(key.startswith(f"{part}/") for key in arrays)
        }
        behavior = parts["behavior"]
        behavior["slice_names"] = tuple(row["slice_names"])
        behavior["slice_accuracy"] = behavior["slice_accuracy"][: len(row["slice_names"])]
        return Triple(
            info=self.info(id),
            subject=_subject(row, arrays),
            activation=Activation(**parts["activation"]),
            circuit=CircuitScores(**parts["circuit"]),
            behavior=Behavior(**parts["behavior"]),
            labels=FunctionLabels(**parts["labels"]),
            truth=Truth(**parts["truth"]) if "truth" in parts else None,
        )

    def info(self, id: str) -> SubjectInfo:
        """Where a triple's subject comes from. Raises: InputError if the id is unknown."""
        row = self._records[self._position(id)[0]]
        return SubjectInfo(**{name: row[name] for name in INFO_FIELDS})

    def subject(self, id: str) -> Subject:
        """One subject, without its arrays.

        Raises: InputError if the id is unknown or its shard corrupted.
        """
        index, shard, place = self._position(id)
        return _subject(self._records[index], self._read(shard, place, "weights/"))

    def _position(self, id: str) -> tuple[int, int, int]:
        if id not in self._positions:
            raise InputError(
                f"{self.folder}#{id}",
                expected="the id of a subject in this zoo",
                got=repr(id),
                do=f"See the ids in Zoo.rows.{suggestion(id, self.ids)}",
            )
        return self._positions[id]

    def _keys(self, shard: int) -> list[str]:
        with safe_open(self._arrays_of(shard), framework="pt") as file:
            return list(file.keys())

    def _arrays_of(self, shard: int) -> Path:
        """File with the arrays of a shard, checked once. Raises: InputError if it is corrupted."""
        name = f"{shard_name(shard)}.safetensors"
        if shard not in self._checked:
            check_file(self.folder, name, self.manifest.shards[shard].files[name])
            self._checked.add(shard)
        return self.folder / SHARDS / name

    def _read(self, shard: int, row: int, prefix: str) -> dict[str, Tensor]:
        path = self._arrays_of(shard)
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_slice(key)[row] for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(
                str(path), expected="a safetensors file", got=str(error), do="Build this shard again."
            ) from error


def _subject(row: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Subject:
    config = SubjectConfig(**{name: row[name] for name in CONFIG_FIELDS})
    weights = {name: arrays[f"weights/{name}"] for name in weight_shapes(config)}
    return Subject(config=config, weights=weights, name=row["id"], notes=tuple(row["notes"]))
