"""Writes and reads a zoo of pairs of circuits.

manifest.json                    as of every zoo
shards/shard-00000.safetensors   arrays of all circuits of a shard, one behind the other
shards/shard-00000.pairs.json    a record of each pair: sizes, kinds, lineages, level
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from metamodel.analogy.graph import CHANNELS, CircuitGraph
from metamodel.analogy.pairs import PAIR_KINDS, PAIR_SPLITS, MatchedPair, Side
from metamodel.config.errors import InputError, require, require_one_of
from metamodel.config.words import NodeDescription
from metamodel.features.relative import is_ratio
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

PAIRS_VERSION = 1
"""Form of the records."""
ENDING = ".pairs.json"
BUILD = "Build it: python -m data_gen.matching --config configs/pairs/small.yaml"
AGAIN = "Remove the shard's files and build again: the other shards are kept."


def write_pairs(
    folder: Path,
    index: int,
    pairs: Sequence[MatchedPair],
    feature_names: Sequence[str],
    label_names: Sequence[str],
    rejected: Mapping[str, str] | None = None,
) -> ShardRecord:
    """Writes one shard, its record last, so that a killed build leaves no half of one."""
    shards, name = folder / SHARDS, shard_name(index)
    files: dict[str, FileRecord] = {}
    if pairs:
        data = save(_arrays(pairs))
        write_atomically(shards / f"{name}.safetensors", lambda partial: partial.write_bytes(data))
        held = {
            "version": PAIRS_VERSION,
            "channels": list(CHANNELS),
            "features": list(feature_names),
            "labels": list(label_names),
            "pairs": [_record(pair) for pair in pairs],
        }
        write_json(shards / f"{name}{ENDING}", held)
        for ending in (".safetensors", ENDING):
            path = shards / f"{name}{ending}"
            files[path.name] = FileRecord(sha256=sha256(path), bytes=path.stat().st_size)
    names = tuple(f"{pair.kind}-{index:05d}-{i:04d}" for i, pair in enumerate(pairs))
    record = ShardRecord(index=index, files=files, accepted=names, rejected=dict(rejected or {}))
    write_json(shards / f"{name}.json", plain_values(record))
    return record


def _arrays(pairs: Sequence[MatchedPair]) -> dict[str, Tensor]:
    graphs = [graph for pair in pairs for graph in (pair.first, pair.second)]
    sides = [side for pair in pairs for side in (pair.first_side, pair.second_side)]
    truths = [pair.truth for pair in pairs if pair.truth is not None]
    found = {
        "edges": torch.cat([graph.edges.flatten() for graph in graphs]).float(),
        "features": torch.cat([graph.features for graph in graphs]).float(),
        "kinds": torch.cat([graph.kinds for graph in graphs]).to(torch.uint8),
        "depth": torch.cat([graph.depth for graph in graphs]).float(),
        "orbit": torch.cat([side.orbit for side in sides]).to(torch.int16),
        "labels": torch.cat([side.labels for side in sides]).to(torch.uint8),
        "known": torch.cat([side.known for side in sides]).to(torch.uint8),
        "truth": torch.cat(truths).to(torch.int16) if truths else torch.zeros(0, dtype=torch.int16),
    }
    return {key: value.contiguous() for key, value in found.items()}


def _record(pair: MatchedPair) -> dict[str, Any]:
    return {
        "kind": pair.kind,
        "variant": pair.variant,
        "present": pair.present,
        "split": pair.split,
        "level": pair.level,
        "missing": list(pair.missing),
        "has_truth": pair.truth is not None,
        "names": [list(pair.first.names), list(pair.second.names)],
        "ids": [pair.first_side.id, pair.second_side.id],
        "lineages": [pair.first_side.lineage, pair.second_side.lineage],
    }


class PairZoo:
    """A finished zoo of pairs; all of it is read at once, for it is small."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        pairs: tuple[MatchedPair, ...],
        feature_names: tuple[str, ...],
        label_names: tuple[str, ...],
    ):
        self.folder, self.manifest, self.pairs = folder, manifest, pairs
        self.feature_names, self.label_names = feature_names, label_names
        """Of the columns of `features`: those of the package that differ between nodes of training pairs."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def __len__(self) -> int:
        return len(self.pairs)

    def of(
        self, split: str, kinds: Sequence[str] | None = None, *, present: bool | None = None
    ) -> tuple[MatchedPair, ...]:
        """Pairs of one split, in the order in which they were built.

        Args:
            kinds: of pairs; all by default.
            present: whether the circuit is to be there; either by default.

        Raises: InputError for an unknown split or kind, or where there is no such pair.
        """
        require_one_of(split, PAIR_SPLITS, "split")
        for kind in kinds or ():
            require_one_of(kind, PAIR_KINDS, "kind")
        found = tuple(
            pair
            for pair in self.pairs
            if pair.split == split
            and (kinds is None or pair.kind in kinds)
            and (present is None or pair.present == present)
        )
        require(
            bool(found),
            f"{self.folder}: split {split}",
            expected=f"pairs of kind {' or '.join(kinds)}" if kinds else "pairs",
            got="none",
            do="Name another kind, or build a zoo from more subjects.",
        )
        return found

    def counts(self) -> Counter[tuple[str, str, str]]:
        """Pairs by (kind, variant, split)."""
        return Counter((pair.kind, pair.variant, pair.split) for pair in self.pairs)

    def lineages(self, split: str) -> frozenset[str]:
        """All lineages that pairs of a split come from."""
        return frozenset(name for pair in self.pairs if pair.split == split for name in pair.lineages if name)

    @classmethod
    def open(cls, folder: Path | str, *, described_by: NodeDescription = "features") -> "PairZoo":
        """Args:
            described_by: which of the stored columns nodes are described by.

        Raises: InputError if it is missing, unfinished, damaged, a zoo of another kind, or one without ratios
            where these are asked for.
        """
        folder = Path(folder)
        manifest = read_finished(folder, BUILD)
        features: list[str] = []
        labels: list[str] = []
        pairs: list[MatchedPair] = []
        for shard in manifest.shards:
            if shard.files:
                held, arrays = _read(folder, shard)
                features, labels = held["features"], held["labels"]
                where = f"{folder / SHARDS / shard_name(shard.index)}{ENDING}"
                pairs += _pairs(held, arrays, where)
        asked = torch.tensor([_is_asked(name, described_by) for name in features], dtype=torch.bool)
        require(
            described_by in ("edges", "features") or any(map(is_ratio, features)),
            f"{folder}: features",
            expected="ratio signatures among them",
            got="a zoo that was built before there were any",
            do=BUILD,
        )
        varying = _varying(pairs) & asked
        kept = [_with_columns(pair, varying) for pair in pairs]
        names = tuple(name for name, varies in zip(features, varying.tolist(), strict=True) if varies)
        return cls(folder, manifest, tuple(kept), names, tuple(labels))


def _is_asked(name: str, described_by: NodeDescription) -> bool:
    if described_by == "edges":
        return False
    return described_by == "both" or is_ratio(name) == (described_by == "ratios")


def _varying(pairs: Sequence[MatchedPair]) -> Bool[Tensor, " feature"]:
    """Columns that differ between some nodes of the pairs that matchers are trained on."""
    trained = [pair for pair in pairs if pair.split == "train"] or pairs
    if not trained:
        return torch.zeros(0, dtype=torch.bool)
    values = torch.cat([graph.features for pair in trained for graph in (pair.first, pair.second)])
    return (values != values[:1]).any(0)


def _with_columns(pair: MatchedPair, columns: Bool[Tensor, " feature"]) -> MatchedPair:
    return pair.with_features(pair.first.features[:, columns], pair.second.features[:, columns])


def holds_pairs(folder: Path | str) -> bool:
    """Whether a folder is a zoo of pairs, as its files say."""
    return any((Path(folder) / SHARDS).glob(f"*{ENDING}"))


def _read(folder: Path, shard: ShardRecord) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name, record in shard.files.items():
        path = folder / SHARDS / name
        whole = path.is_file() and sha256(path) == record.sha256
        require(whole, str(path), expected="the file that was built", got="another one, or none", do=AGAIN)
    base = folder / SHARDS / shard_name(shard.index)
    where = Path(f"{base}{ENDING}")
    require(where.is_file(), str(folder), expected="a zoo of pairs", got="a zoo of another kind", do=BUILD)
    held = json.loads(where.read_text())
    expected = {"version": PAIRS_VERSION, "channels": list(CHANNELS)}
    for key, value in expected.items():
        require(
            held[key] == value,
            f"{where}: {key}",
            expected=str(value),
            got=held[key],
            do="Build the zoo again with this version of the package.",
        )
    try:
        return held, load_file(f"{base}.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(str(base), expected="a readable shard", got=str(error), do=BUILD) from error


def _pairs(held: Mapping[str, Any], arrays: Mapping[str, Tensor], where: str) -> Iterator[MatchedPair]:
    cursor = _Cursor(arrays, where)
    for row in held["pairs"]:
        graphs, sides = [], []
        for names, id, lineage in zip(row["names"], row["ids"], row["lineages"], strict=True):
            n = len(names)
            graphs.append(
                CircuitGraph(
                    edges=cursor.next("edges", len(CHANNELS) * n * n).view(len(CHANNELS), n, n),
                    features=cursor.next("features", n),
                    kinds=cursor.next("kinds", n).long(),
                    depth=cursor.next("depth", n),
                    names=tuple(names),
                )
            )
            sides.append(
                Side(
                    id=id,
                    lineage=lineage,
                    orbit=cursor.next("orbit", n).long(),
                    labels=cursor.next("labels", n).bool(),
                    known=cursor.next("known", n).bool(),
                )
            )
        yield MatchedPair(
            first=graphs[0],
            second=graphs[1],
            truth=cursor.next("truth", len(graphs[0])).long() if row["has_truth"] else None,
            kind=row["kind"],
            variant=row["variant"],
            present=row["present"],
            split=row["split"],
            first_side=sides[0],
            second_side=sides[1],
            level=row["level"],
            missing=tuple(row["missing"]),
        )


class _Cursor:
    """Takes arrays apart that lie one behind the other."""

    def __init__(self, arrays: Mapping[str, Tensor], where: str):
        self._arrays, self._where, self._at = arrays, where, Counter[str]()

    def next(self, key: str, n: int) -> Tensor:
        begin = self._at[key]
        self._at[key] += n
        found = self._arrays[key][begin : begin + n]
        require(
            len(found) == n,
            f"{self._where}: {key}",
            expected=f"{n} numbers from {begin} on",
            got=len(found),
            do=AGAIN,
        )
        return found.clone()
