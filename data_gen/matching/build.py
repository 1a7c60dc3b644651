"""Builds what is missing of a zoo of pairs, and says what a finished one holds."""

from functools import lru_cache, partial
from pathlib import Path

import torch

from data_gen.build_lock import claimed
from data_gen.executor import Job, build_shards
from data_gen.matching.circuits import Circuits
from data_gen.matching.config import PairZooConfig
from data_gen.matching.graph_pairs import GraphPairs
from data_gen.matching.making import Maker
from data_gen.matching.plan import Plan, is_trained_further, plan
from data_gen.workers import Report
from metamodel.analogy.pair_store import PairZoo, write_pairs
from metamodel.analogy.pairs import PAIR_SPLITS
from metamodel.config.parser import plain
from metamodel.features.relative import matcher_names
from metamodel.triples.building import begin
from metamodel.triples.manifest import ShardRecord, read_manifest, valid_shard
from metamodel.triples.store import Zoo

COSTS = {"permuted": 1.0, "modified": 0.6, "partial": 1.0, "program": 0.4, "natural": 0.4, "planted": 0.5}
"""Work of one pair, roughly in seconds; `FURTHER` where its second subject is trained further."""
FURTHER = 3.0


def build(
    config: PairZooConfig,
    out: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    shards: tuple[int, int] = (0, 1),
) -> bool:
    """Builds a zoo of pairs in `out`, and tells whether it is whole. See `data_gen.build.build`.

    Raises: InputError if there is no source zoo, `out` holds something else, or another builder is at work.
    """
    zoo = Zoo.open(Path(config.source))
    found = plan(config, zoo)
    made_of = plain(config) | {"source_fingerprint": zoo.manifest.fingerprint}
    began = begin(
        out, name=config.name, config=made_of, labels=zoo.manifest.labels, n_shards=len(found.shards)
    )
    jobs = {
        index: Job(
            n_subjects=len(specs),
            cost=sum(FURTHER if is_trained_further(spec) else COSTS[spec.kind] for spec in specs),
        )
        for index, specs in enumerate(found.shards)
        if index % shards[1] == shards[0]
    }
    if not (began.finished and all(valid_shard(out, index) is not None for index in jobs)):
        with claimed(out, shards):
            make = partial(make_shard, config, found, out.absolute())
            build_shards(began, out, make, jobs, workers=workers, progress=progress, card=lambda folder: None)
    return read_manifest(out).finished


def make_shard(
    config: PairZooConfig, found: Plan, folder: Path, index: int, report: Report | None = None
) -> ShardRecord:
    """Makes and stores the pairs of one shard, on one thread."""
    torch.set_num_threads(1)
    circuits = _circuits(config.source, config.seed)
    graphs = GraphPairs(config=config, circuits=circuits, spread_from=found.spread_from)
    maker = Maker(config=config, circuits=circuits, graphs=graphs)
    pairs, rejected = maker.made(found.shards[index])
    labels = [label.name for label in circuits.zoo.manifest.labels]
    return write_pairs(folder, index, pairs, matcher_names(), labels, rejected)


@lru_cache(maxsize=1)
def _circuits(source: str, seed: int) -> Circuits:
    """One for each process: what it makes serves all shards that the process makes."""
    return Circuits.open(source, seed)


def described(folder: Path) -> str:
    """Pairs by kind and split, lineages by split, and what could not be made."""
    zoo = PairZoo.open(folder)
    counts = zoo.counts()
    lines = [f"{'':24}" + "".join(f"{split:>12}" for split in PAIR_SPLITS)]
    for kind, variant in sorted({key[:2] for key in counts}):
        numbers = "".join(f"{counts[kind, variant, split]:>12}" for split in PAIR_SPLITS)
        lines.append(f"{f'{kind} {variant}'.strip():24}{numbers}")
    lines.append(f"{'lineages':24}" + "".join(f"{len(zoo.lineages(split)):>12}" for split in PAIR_SPLITS))
    n_rejected = sum(len(shard.rejected) for shard in zoo.manifest.shards)
    lines.append(f"{len(zoo)} pairs; {n_rejected} could not be made.")
    return "\n".join(lines) + "\n"
