"""Which mechanism did the subjects of a family learn? Accuracy, function labels and the strongest edges.

    python benchmarks/mechanisms.py --family repeated --subjects 4

Trains the first subjects of every cell of a family in a zoo, measures their function labels as a harvest
does (score, null, causal twin) and patches their edges. Progress goes to stderr; the last line of stdout is
one JSON object: for each subject its accuracy, for each label the best head's score and its state, and the
edges whose noising lowers the margin most, as shares of the mean clean margin on the same prompts.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from data_gen.config import ZooConfig
from data_gen.harvesting import circuit_prompts
from data_gen.labels.registry import LABELS
from data_gen.population import ShardSpec, shard_specs
from data_gen.shard import harvest_all
from data_gen.tasks.mixture import part_family, parts_of
from data_gen.trained import make_trained
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts
from metamodel.config import require, suggestion
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_config, parse_options
from metamodel.subjects import Subject, components
from metamodel.triples.schema import PATTERN_ONLY, POSITIVE, Triple

SMALL = Path(__file__).parents[1] / "configs/zoo/small.yaml"
STATES = {POSITIVE: "positive", PATTERN_ONLY: "pattern only"}
N_EDGES = 6
"""Strongest edges that are printed for each subject."""


@torch.no_grad()
def clean_margin(subject: Subject, prompts: Prompts) -> float:
    """Mean over clean prompts of the right answer's logit minus the runner-up's."""
    logits = subject.run(prompts.clean).logits[0, torch.arange(len(prompts)), prompts.position]
    return float(margin(logits, prompts.answer).mean())


def strongest_edges(triple: Triple, whole: float) -> dict[str, float]:
    """Names of the edges whose noising lowers the margin most, and the effect as a share of `whole`."""
    scores = triple.circuit.noising_margin
    edges = component_edges(triple.subject.config).edges
    order = scores.argsort()[:N_EDGES].tolist()
    return {edges[i].name: round(float(scores[i]) / whole, 3) for i in order}


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
    made = make_trained(shard)
    tasks = {one.subject.name: parts_of(one.task) for one in made.accepted}
    families = [part_family(part) for part in next(iter(tasks.values()), ())]
    rows: list[dict[str, object]] = []
    for triple in harvest_all(shard, made.accepted, config.harvest, config.seed):
        task = tasks[triple.info.subject][families.index(triple.info.family)]
        prompts = circuit_prompts(task, triple.info.id, config.harvest, config.seed)
        rows.append(
            {
                "id": triple.info.id,
                "accuracy": round(float(triple.behavior.accuracy), 3),
                "labels": best_heads(triple, tuple(label.name for label in LABELS)),
                "edges": strongest_edges(triple, clean_margin(triple.subject, prompts)),
            }
        )
    rows.extend({"id": id, "rejected": reason} for id, reason in made.rejected.items())
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    return rows


def main(arguments: list[str]) -> None:
    """Raises: InputError for a family that the zoo's configuration does not have."""
    parser = command_parser(prog="benchmarks.mechanisms", description=__doc__ or "")
    parser.add_argument("--family", type=str, required=True, help="a family of the zoo's cells")
    parser.add_argument("--subjects", type=int, default=4, help="subjects of each cell")
    parser.add_argument("--zoo", type=str, default=str(SMALL), help="configuration of a zoo")
    given = parse_options(parser, arguments)
    require(given.subjects >= 1, "--subjects", expected="at least 1", got=given.subjects, do="Set 1 or more.")
    config = zoo_config(given.zoo)
    families = sorted({cell.family for cell in config.cells})
    require(
        given.family in families,
        "--family",
        expected=f"one of {', '.join(families)}",
        got=repr(given.family),
        do=f"Name a family of {given.zoo}.{suggestion(given.family, families)}",
    )
    torch.set_num_threads(1)
    cells = tuple(
        replace(c, n_subjects=min(c.n_subjects, given.subjects))
        for c in config.cells
        if c.family == given.family
    )
    rows = []
    for shard in shard_specs(replace(config, cells=cells, subjects_per_shard=given.subjects)):
        print(
            f"{shard.family}-{shard.variant}-{shard.size_name}: {shard.recipe.steps} steps", file=sys.stderr
        )
        rows += measure(shard, config)
    print(json.dumps({"family": given.family, "subjects": rows}))


def zoo_config(file: str) -> ZooConfig:
    require(
        Path(file).is_file(), "--zoo", expected="a YAML file", got=f"no file {file}", do="Check the path."
    )
    parser = command_parser(prog="benchmarks.mechanisms", description="Reads the configuration of a zoo.")
    return parse_config(parser, ZooConfig, ["--config", file])[0]


if __name__ == "__main__":
    run_command(main)
