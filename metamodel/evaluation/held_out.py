"""Which subjects of a zoo a checkpoint may be scored on, and which its opponents learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamodel.config.errors import require
from metamodel.config.words import TEST_SPLITS
from metamodel.training.checkpoint import FunctionCheckpoint
from metamodel.triples.splits import Splits, refuse_trained
from metamodel.triples.store import Zoo

LEAST_PRESENT = 0.9
"""Share of the subjects of training that a zoo must have to be the one that was trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The zoo of the opponents, the zoo that is scored, and the ids in each."""

    home: Zoo
    """The zoo that the checkpoint was trained on."""
    train: tuple[str, ...]
    validation: tuple[str, ...]
    away: Zoo
    """The zoo that is scored; often the same."""
    tests: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    """What a user must know before comparing numbers."""


def held_out(checkpoint: FunctionCheckpoint, *, zoo: Path | None, split: str | None) -> HeldOut:
    """Opens the zoos, and chooses subjects that were not trained on.

    In the zoo of the checkpoint these are its saved test splits. In another zoo they are all subjects, split
    by how they say that they depart.

    Raises: InputError on a zoo of other labels, a split without subjects, or subjects that were trained on.
    """
    home_folder = Path(checkpoint.zoo["folder"])
    away = Zoo.open(home_folder if zoo is None else zoo)
    at_home = away.name == checkpoint.zoo["name"] and _was_trained_on(checkpoint.splits, away)
    home = away if at_home else Zoo.open(home_folder)
    for one in (home, away):
        _same_labels(checkpoint, one)
    notes = []
    if home.fingerprint != checkpoint.zoo["fingerprint"]:
        notes.append(f"{home.folder} is not byte for byte the zoo of the checkpoint: numbers may differ")
    splits, present = checkpoint.splits, set(home.ids)
    notes += _absent(splits.train, home, "trained on") + _absent(splits.validation, home, "validated on")
    train = tuple(id for id in splits.train if id in present)
    validation = tuple(id for id in splits.validation if id in present)
    tests = splits.tests if at_home else _by_departure(away.rows)
    if split is not None:
        tests = {split: tests.get(split, ())}
    for name, ids in tests.items():
        notes += _absent(ids, away, f"of its split {name}")
    known = set(away.ids)
    tests = {name: tuple(id for id in ids if id in known) for name, ids in tests.items()}
    for name, ids in {"train": train, "validation": validation, **tests}.items():
        require(
            bool(ids),
            f"split {name}",
            expected="at least one subject",
            got="none",
            do=f"Check that {(home if name in ('train', 'validation') else away).folder} is the right zoo, "
            "or name another split.",
        )
    lineage = dict(zip(away.rows["id"], away.rows["lineage"], strict=True))
    refuse_trained(splits, [lineage[id] for ids in tests.values() for id in ids])
    return HeldOut(home=home, train=train, validation=validation, away=away, tests=tests, notes=tuple(notes))


def _was_trained_on(splits: Splits, zoo: Zoo) -> bool:
    """Whether the subjects of training are in this zoo, by lineage: two zoos may share a name and ids.

    On another machine a few subjects may be missing, those that training brings to just under a threshold
    there.
    """
    lineage = dict(zip(zoo.rows["id"], zoo.rows["lineage"], strict=True))
    trained = [id for id in (*splits.train, *splits.validation) if id in lineage]
    enough = len(trained) >= LEAST_PRESENT * (len(splits.train) + len(splits.validation))
    return enough and {lineage[id] for id in trained} <= set(splits.trained_lineages)


def _absent(ids: Sequence[str], zoo: Zoo, what: str) -> list[str]:
    """A note on subjects that the zoo lacks; none where it has all."""
    present = set(zoo.ids)
    lacking = [id for id in ids if id not in present]
    if not lacking:
        return []
    return [
        f"{zoo.folder} lacks {len(lacking)} of the {len(ids)} subjects {what}, such as {lacking[0]}: "
        "numbers may differ"
    ]


def _by_departure(rows: Any) -> dict[str, tuple[str, ...]]:
    """Ids by test split; subjects that depart in nothing are other seeds."""
    found: dict[str, list[str]] = {name: [] for name in TEST_SPLITS}
    for id, departs in zip(rows["id"], rows["departs"], strict=True):
        found["seed" if departs == "none" else departs].append(id)
    return {name: tuple(ids) for name, ids in found.items() if ids}


def _same_labels(checkpoint: FunctionCheckpoint, zoo: Zoo) -> None:
    expected, got = ([label.name for label in labels] for labels in (checkpoint.labels, zoo.labels))
    require(
        expected == got,
        f"{zoo.folder}: labels",
        expected=_names(expected),
        got=_names(got),
        do="Use a zoo with the labels that the checkpoint was trained on.",
    )


def _names(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"
