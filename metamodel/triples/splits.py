"""Which subjects a meta-model trains on, and which tests depart from them along one axis only.

One training set leaves out everything that departs, so every test can be scored with one checkpoint. Among
subjects that do not depart, a lineage is held out by a hash of its own name: adding or dropping subjects
moves no other, and families and sizes are represented in proportion.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from metamodel.config.errors import InputError, require, require_one_of
from metamodel.config.record import record_values
from metamodel.config.words import TEST_SPLITS
from metamodel.triples.manifest import write_atomically

SPLITS_VERSION = 2
"""Form of the saved splits."""
SPLITS = ("train", "validation", *TEST_SPLITS)
_COPY = "Copy the whole checkpoint again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Ids of subjects, split by split; each is in at most one."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    seed: tuple[str, ...]
    """Held-out lineages that depart in nothing else."""
    variant: tuple[str, ...]
    size: tuple[str, ...]
    recipe: tuple[str, ...]
    origin: tuple[str, ...]
    task: tuple[str, ...]
    trained_lineages: tuple[str, ...]
    """Lineages of `train` and `validation`: no evaluation may contain them."""

    def __post_init__(self):
        twice = _first_repeated(id for name in SPLITS for id in getattr(self, name))
        assert twice is None, f"a subject is in two splits: {twice}"

    def of(self, name: str) -> tuple[str, ...]:
        """Ids of one split.

        Raises: InputError if there is no such split or it is empty.
        """
        require_one_of(name, SPLITS, "split")
        ids: tuple[str, ...] = getattr(self, name)
        do = "Add subjects to the zoo, or name another split."
        require(bool(ids), f"split {name}", expected="at least one subject", got="none", do=do)
        return ids

    @property
    def tests(self) -> dict[str, tuple[str, ...]]:
        """The test splits that hold subjects."""
        return {name: getattr(self, name) for name in TEST_SPLITS if getattr(self, name)}

    def save(self, path: Path) -> None:
        values = {"schema_version": SPLITS_VERSION, **dataclasses.asdict(self)}
        text = json.dumps(values, indent=1, sort_keys=True) + "\n"
        write_atomically(path, lambda partial: partial.write_text(text))

    @classmethod
    def load(cls, path: Path) -> "Splits":
        """Raises: InputError if the file is missing or holds something else."""
        require(path.is_file(), str(path), expected="saved splits", got="no file", do="Check the checkpoint.")
        try:
            values = json.loads(path.read_text())
            version = values.pop("schema_version")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                str(path), expected="saved splits", got="something else", do="Check the checkpoint."
            ) from error
        require(
            version == SPLITS_VERSION,
            str(path),
            expected=f"schema version {SPLITS_VERSION}",
            got=version,
            do="Train again with this version of the package.",
        )
        found = record_values(cls, values, str(path), do=_COPY)
        twice = _first_repeated(id for name in SPLITS for id in found[name])
        require(
            twice is None, str(path), expected="each subject in one split", got=f"{twice!r} twice", do=_COPY
        )
        return cls(**found)


def _first_repeated(ids: Iterable[str]) -> str | None:
    """The first id that comes a second time."""
    met: set[str] = set()
    for id in ids:
        if id in met:
            return id
        met.add(id)
    return None


def position(lineage: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the lineage and the seed of the split."""
    digest = hashlib.sha256(f"split {seed} {lineage}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def make_splits(
    rows: Dataset | Iterable[Mapping[str, Any]],
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
) -> Splits:
    """Splits the rows of a zoo (`Zoo.rows`, or mappings with `id`, `lineage` and `departs`).

    Args:
        rows: one for each subject.
        seed: of the split.
        validation_fraction: expected share of lineages without departure that calibrate the reader and
            tune the opponents.
        test_fraction: expected share of those that make the `seed` test.

    Raises: InputError if train, validation or seed test is empty, a fraction out of range or a lineage has
        subjects with different departures.
    """
    for name, value in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        require(0 < value < 1, f"splits.{name}", expected="between 0 and 1", got=value, do="Try 0.15.")
    total = validation_fraction + test_fraction
    require(
        total < 1,
        "splits",
        expected="validation_fraction + test_fraction < 1",
        got=total,
        do="Leave subjects to train on.",
    )
    found: dict[str, list[str]] = {name: [] for name in SPLITS}
    split_of: dict[str, str] = {}
    plain = rows.select_columns(["id", "lineage", "departs"]).to_list() if isinstance(rows, Dataset) else rows
    for row in plain:
        lineage, departs = row["lineage"], row["departs"]
        assert departs in ("none", *TEST_SPLITS), departs
        split = departs
        if departs == "none":
            place = position(lineage, seed)
            split = "seed" if place < test_fraction else "validation" if place < total else "train"
        first = split_of.setdefault(lineage, split)
        require(
            first == split,
            f"lineage {lineage}",
            expected="all its subjects in one split",
            got=f"{first} and {split}",
            do="Give one departure to all subjects of a lineage.",
        )
        found[split].append(row["id"])
    trained = sorted(lineage for lineage, split in split_of.items() if split in ("train", "validation"))
    splits = Splits(**{name: tuple(ids) for name, ids in found.items()}, trained_lineages=tuple(trained))
    for name in ("train", "validation", "seed"):
        splits.of(name)
    return splits


def refuse_trained(splits: Splits, lineages: Iterable[str]) -> None:
    """Raises: InputError if a lineage that is to be evaluated was trained on."""
    seen = sorted(set(lineages) & set(splits.trained_lineages))
    require(
        not seen,
        "evaluate",
        expected="subjects whose lineage was not trained on",
        got=f"{len(seen)} that were, such as {seen[0] if seen else ''}",
        do="Choose another split or zoo.",
    )
