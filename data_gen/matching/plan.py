"""Which pairs a zoo holds: who is paired with whom, in which split, and in which shard it is made."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from data_gen.matching.config import KINDS, CountConfig, PairZooConfig
from data_gen.pairs import RELATED, kind_of
from data_gen.subject_task import task_of
from metamodel.analogy.graph import circuit_graph
from metamodel.analogy.pairs import PAIR_SPLITS
from metamodel.config.errors import require
from metamodel.triples.splits import make_splits
from metamodel.triples.store import Zoo

MADE = ("finetuned", "pruned")
"""Relatives that are made here where the zoo has none."""
GROWN = ("heads", "blocks", "wide")
"""Ways in which subjects grow, see `data_gen.matching.making`."""
N_STRANGERS_FROM = 6
"""Subjects of whose circuits strangers and absent circuits are taken, for one pair."""
N_UNRELATED = 16
"""Subjects among which the unrelated circuit of the nearest size is chosen."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec:
    """One pair that is to be made."""

    kind: str
    variant: str
    split: str
    first: str
    """Id of a triple."""
    second: str = ""
    """Id of another; empty where the second circuit is made from the first."""
    number: int = 0
    """Tells pairs of one kind of the same triple apart, and chooses their level."""
    donors: tuple[str, ...] = ()
    """Ids of triples of other lineages of the split, one of each lineage, for strangers."""
    unrelated: str = ""
    """Id of a triple that has learnt nothing in common."""

    @property
    def name(self) -> str:
        """What is drawn for the pair derives from it."""
        parts = (self.kind, self.variant, self.first, self.second, str(self.number))
        return " ".join(part for part in parts if part)

    @property
    def absent_is_unrelated(self) -> bool:
        """Whether its absent partner is an unrelated circuit, not a rewired one: by a hash of its name, so
        that no level has more of one kind."""
        return bool(self.unrelated) and int(_digest("absent", self.name)[:8], 16) % 2 == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All shards of a zoo of pairs, and what they share."""

    shards: tuple[tuple[PairSpec, ...], ...]
    spread_from: tuple[str, ...]
    """Ids of training triples from whose circuits the spread of features is measured."""


def plan(config: PairZooConfig, zoo: Zoo) -> Plan:
    """Raises: InputError if the zoo has too few lineages to split, or none of the pairs asked for."""
    rows = {row["id"]: row for row in departing(zoo.rows.to_list(), config.held_out_sizes)}
    splits = make_splits(
        list(rows.values()),
        seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
    )
    chooser = _Chooser(config, zoo, rows)
    specs = [
        spec
        for kind in KINDS
        if kind in config.counts
        for split in PAIR_SPLITS
        for spec in chooser.chosen(kind, split, getattr(splits, split))
    ]
    require(
        bool(specs),
        f"pairs from {zoo.folder}",
        expected="subjects of the kinds that are asked for",
        got="none",
        do="Name other kinds in `counts`, or another zoo.",
    )
    zoo_seed = int(zoo.manifest.config["seed"])

    def length(id: str) -> int:
        return task_of(zoo.info(id), zoo_seed).n_pos

    trained = _hashed([id for id in splits.train if rows[id]["relation"] == "none"], config.seed, "spread")
    return Plan(
        shards=tuple(_shards(specs, rows, config.pairs_per_shard, length)),
        spread_from=tuple(trained[: config.n_spread]),
    )


def departing(rows: Iterable[Row], held_out_sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows whose `departs` says where their pairs belong: size, task, or none.

    What departs from readers' training by variant, recipe or origin departs in nothing that matching is
    split by.
    """
    found = []
    for row in rows:
        departs = row["departs"] if row["departs"] in ("size", "task") else "none"
        if departs == "none" and row["size"] in held_out_sizes:
            departs = "size"
        found.append({**row, "departs": departs})
    return found


class _Chooser:
    """Chooses pairs by hashes of their names: adding subjects moves no other choice."""

    def __init__(self, config: PairZooConfig, zoo: Zoo, rows: Mapping[str, Row]):
        self._config, self._zoo, self._rows = config, zoo, rows
        self._sizes: dict[str, int] = {}

    def chosen(self, kind: str, split: str, ids: Sequence[str]) -> Iterator[PairSpec]:
        """Pairs of a kind in a split; none where the split has no subject for it."""
        count = _count(self._config.counts[kind], split)
        rows = [self._rows[id] for id in ids]
        match kind:
            case "program" | "natural":
                yield from self._of_two(kind, split, rows, count)
            case "modified":
                yield from self._modified(split, rows, count)
            case _:
                yield from self._of_one(kind, split, rows, count)

    def active(self, id: str) -> int:
        """Heads and MLPs of a triple's circuit."""
        if id not in self._sizes:
            triple = self._zoo.triple(id)
            graph, _ = circuit_graph(triple.subject.config, triple.circuit.noising_margin)
            self._sizes[id] = int((~graph.is_anchor).sum())
        return self._sizes[id]

    def _of_one(self, kind: str, split: str, rows: Sequence[Row], count: int) -> Iterator[PairSpec]:
        """Pairs of a triple with what is made of it; each lineage once before any comes again."""
        least = self._config.fewest_active if kind in ("planted", "partial") else 2
        own = [row for row in rows if row["relation"] == "none"]
        if kind in ("larger", "partial"):
            own = [row for row in own if row["origin"] == "trained"]
        usable = (row for row in self._by_lineage(own, kind) if self.active(row["id"]) >= least)
        found = []
        for row in usable:
            if len(found) == count:
                break
            found.append(row)
        for i in range(count if found else 0):
            row, number = found[i % len(found)], i // len(found)
            if kind in ("permuted", "larger") and number:
                break
            yield PairSpec(
                kind=kind,
                variant=GROWN[i % len(GROWN)] if kind == "larger" else "",
                split=split,
                first=row["id"],
                number=i,
                donors=self._donors(row, rows) if kind == "planted" else (),
                unrelated=self._unrelated(row, rows) if kind in ("planted", "partial") else "",
            )

    def _of_two(self, kind: str, split: str, rows: Sequence[Row], count: int) -> Iterator[PairSpec]:
        found: list[tuple[str, PairSpec]] = []
        for first, second in combinations(sorted(rows, key=lambda row: row["id"]), 2):
            related = kind_of(first, second)
            known = all(row["origin"] in ("compiled", "siit", "planted") for row in (first, second))
            if kind == "program":
                variant = related if known and related in ("disguise", "origin", "size", "seed") else None
            else:
                trained = first["origin"] == second["origin"] == "trained"
                variant = related if trained and related in ("seed", "size") else None
            if variant is not None:
                spec = PairSpec(
                    kind=kind, variant=variant, split=split, first=first["id"], second=second["id"]
                )
                found.append((self._hash(kind, spec.first, spec.second), spec))
        yield from _spread_out([spec for _, spec in sorted(found, key=lambda x: x[0])], count, self._rows)

    def _modified(self, split: str, rows: Sequence[Row], count: int) -> Iterator[PairSpec]:
        """Relatives that the zoo holds; where they do not suffice, some that are made."""
        by_subject: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_subject[row["subject"]].append(row)
        known = []
        for row in rows:
            for parent in by_subject.get(row["relative"], ()) if row["relation"] in RELATED else ():
                if kind_of(parent, row) == row["relation"]:
                    known.append(
                        PairSpec(
                            kind="modified",
                            variant=row["relation"],
                            split=split,
                            first=parent["id"],
                            second=row["id"],
                        )
                    )
        known.sort(key=lambda spec: self._hash("modified", spec.first, spec.second))
        specs = list(_spread_out(known, count, self._rows))
        yield from specs
        had = {self._rows[spec.first]["lineage"] for spec in specs}
        own = [row for row in rows if row["relation"] == "none" and row["origin"] == "trained"]
        others = (
            row
            for row in self._by_lineage(own, "modified")
            if row["lineage"] not in had and self.active(row["id"]) >= 2
        )
        for i, row in zip(range(count - len(specs)), others, strict=False):
            yield PairSpec(
                kind="modified", variant=f"made-{MADE[i % 2]}", split=split, first=row["id"], number=i
            )

    def _by_lineage(self, rows: Sequence[Row], *what: str) -> list[Row]:
        """Rows in the order of a hash, the first of each lineage before the second of any."""
        order = sorted(rows, key=lambda row: self._hash(*what, row["id"]))
        met: Counter[str] = Counter()
        ranked = []
        for place, row in enumerate(order):
            ranked.append((met[row["lineage"]], place, row))
            met[row["lineage"]] += 1
        return [row for _, _, row in sorted(ranked, key=lambda entry: entry[:2])]

    def _donors(self, row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
        others = [other["id"] for other in rows if other["lineage"] != row["lineage"]]
        of_lineage: dict[str, str] = {}
        for id in _hashed(others, self._config.seed, "donors", row["id"]):
            of_lineage.setdefault(self._rows[id]["lineage"], id)
        return tuple(of_lineage.values())[:N_STRANGERS_FROM]

    def _unrelated(self, row: Row, rows: Sequence[Row]) -> str:
        """The triple of nearest size among some that have learnt nothing in common; empty without one."""
        others = [other["id"] for other in rows if kind_of(row, other) == "unrelated"]
        some = _hashed(others, self._config.seed, "unrelated", row["id"])[:N_UNRELATED]
        size = self.active(row["id"])
        return min(some, key=lambda id: (abs(self.active(id) - size), some.index(id)), default="")

    def _hash(self, *what: str) -> str:
        return _digest(self._config.seed, *what)


def _spread_out(specs: Sequence[PairSpec], count: int, rows: Mapping[str, Row]) -> Iterator[PairSpec]:
    """The first `count`, those first whose lineages have been used least."""
    used: Counter[str] = Counter()
    left = list(specs)
    for _ in range(min(count, len(left))):
        best = min(
            range(len(left)),
            key=lambda i: used[rows[left[i].first]["lineage"]] + used[rows[left[i].second]["lineage"]],
        )
        spec = left.pop(best)
        used.update(rows[id]["lineage"] for id in (spec.first, spec.second))
        yield spec


def _shards(
    specs: Sequence[PairSpec], rows: Mapping[str, Row], size: int, length: Callable[[str], int]
) -> Iterator[tuple[PairSpec, ...]]:
    """Pairs of one kind. Those whose second subject is trained further lie with others of their shape.

    Args:
        length: of the prompts of a triple's task: subjects that are trained side by side share it.
    """
    groups: dict[tuple[object, ...], list[PairSpec]] = defaultdict(list)
    for spec in specs:
        row = rows[spec.first]
        shape = (row["size"], length(spec.first)) if is_trained_further(spec) else ()
        groups[spec.kind, spec.variant if shape else "", *shape].append(spec)
    for group in groups.values():
        for begin in range(0, len(group), size):
            yield tuple(group[begin : begin + size])


def is_trained_further(spec: PairSpec) -> bool:
    return spec.kind == "larger" or (spec.kind == "modified" and spec.variant == "made-finetuned")


def _count(counts: CountConfig, split: str) -> int:
    return getattr(counts, split) if split in ("train", "validation") else counts.test


def _hashed(ids: Sequence[str], seed: int, *what: str) -> list[str]:
    return sorted(ids, key=lambda id: _digest(seed, *what, id))


def _digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()
