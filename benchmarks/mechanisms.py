"""Which mechanism did the subjects of a family learn? Accuracy, function labels and the strongest edges.

    python benchmarks/mechanisms.py --family repeated --subjects 4

Trains the first subjects of every cell of a family in a zoo, measures their function labels as a harvest
does (score, null, causal twin) and patches their edges. Progress goes to stderr; the last line of stdout is
one JSON object: for each subject its accuracy, for each label the best head's score and its state, and the
edges whose noising lowers the margin most, as shares of the clean margin.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from data_gen.config import ZooConfig
from data_gen.harvest import harvest
from data_gen.labels.registry import LABELS
from data_gen.population import ShardSpec, shard_specs
from data_gen.shard import subject_info
from data_gen.stacked_training import train
from metamodel.circuits.graph import component_edges
from metamodel.config.parser import command_parser, parse_config
from metamodel.subjects import Subject, components, unstack
from metamodel.triples.schema import PATTERN_ONLY, POSITIVE, Triple

SMALL = Path(__file__).parents[1] / "configs/zoo/small.yaml"
STATES = {POSITIVE: "positive", PATTERN_ONLY: "pattern only"}
N_EDGES = 6
"""Strongest edges that are printed for each subject."""


def strongest_edges(triple: Triple) -> dict[str, float]:
    """Names of the edges that carry most, with the share of the clean margin that noising them costs."""
    scores = triple.circuit.noising_margin
    edges = component_edges(triple.subject.config).edges
    order = scores.argsort()[:N_EDGES].tolist()
    return {edges[i].name: round(float(scores[i] / triple.behavior.margin), 3) for i in order}


def best_heads(triple: Triple, labels: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """For each label the head with the highest score, and how many heads are positive."""
    nodes = components(triple.subject.config)
    found: dict[str, dict[str, object]] = {}
    for i, label in enumerate(labels):
        raw, state = triple.labels.raw[:, i], triple.labels.state[:, i]
        if raw.isnan().all():
            continue
        best = int(raw.nan_to_num(-torch.inf).argmax())
        found[label] = {
            "head": nodes[best].name,
            "score": round(float(raw[best]), 3),
            "state": STATES.get(int(state[best]), "negative"),
            "positive_heads": int((state == POSITIVE).sum()),
        }
    return found


def measure(shard: ShardSpec, config: ZooConfig) -> list[dict[str, object]]:
    """One row a subject of a shard, the rejected with their reason."""
    trained = train(shard)
    kept = [i for i, s in enumerate(shard.subjects) if s.id not in trained.rejected]
    triples = harvest(
        [Subject(config=shard.subject_config, weights=unstack(trained.weights, i)) for i in kept],
        [trained.tasks[i] for i in kept],
        [subject_info(shard, shard.subjects[i]) for i in kept],
        config.harvest,
        config.seed,
    )
    by_id = {triple.info.id: triple for triple in triples}
    rows: list[dict[str, object]] = []
    for i, subject in enumerate(shard.subjects):
        row: dict[str, object] = {"id": subject.id, "accuracy": round(float(trained.accuracy[i]), 3)}
        if subject.id in by_id:
            triple = by_id[subject.id]
            row["labels"] = best_heads(triple, tuple(label.name for label in LABELS))
            row["edges"] = strongest_edges(triple)
        else:
            row["rejected"] = trained.rejected[subject.id]
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--family", required=True)
    arguments.add_argument("--subjects", type=int, default=4, help="of each cell")
    arguments.add_argument("--zoo", type=Path, default=SMALL, help="configuration of a zoo")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    parser = command_parser(prog="benchmarks.mechanisms", description="Reads the configuration of a zoo.")
    config, _ = parse_config(parser, ZooConfig, ["--config", str(given.zoo)])
    cells = tuple(
        replace(c, n_subjects=min(c.n_subjects, given.subjects))
        for c in config.cells
        if c.family == given.family
    )
    shards = shard_specs(replace(config, cells=cells, subjects_per_shard=given.subjects))
    rows = []
    for shard in shards:
        print(
            f"{shard.family}-{shard.variant}-{shard.size_name}: {shard.recipe.steps} steps", file=sys.stderr
        )
        rows += measure(shard, config)
    print(json.dumps({"family": given.family, "subjects": rows}))


if __name__ == "__main__":
    main()
