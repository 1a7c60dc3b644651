"""Measures the labels of a zoo again, on other prompts and against other untrained copies: how far they hold.

    python -m data_gen.remeasured data/medium [--times 4]

What two measurements of one subject do not agree on, no reader can know: the table `remeasured` gives the
noise ceiling of an evaluation. Weights, tasks and thresholds stay; prompts, batteries, nulls are drawn anew.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metamodel.config import InputError, require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from data_gen.config import HarvestConfig

TIMES = 4
NAME = "remeasured"


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.remeasured", description="Measures the labels of a zoo again.")
    parser.add_argument("folder", type=str, help="folder of the zoo")
    parser.add_argument("--times", type=int, default=TIMES, help="measurements of each triple")
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one for each core")
    options = parse_options(parser, arguments)
    require(options.times >= 1, "--times", expected="at least 1", got=options.times, do=f"Try {TIMES}.")
    n = add_remeasured(Path(options.folder), times=options.times, workers=options.workers)
    sys.stdout.write(f"{n} triples were measured {options.times} times again.\n")
    sys.stdout.write(f"Zoo.open({options.folder!r}).table({NAME!r}) reads what was found.\n")


def add_remeasured(folder: Path, *, times: int, workers: int | None = None, progress: bool = True) -> int:
    """Adds the table `remeasured` to a zoo, or makes it anew. Returns the number of triples.

    Raises: InputError without a finished zoo, or for one whose subjects were not made here.
    """
    from datasets import Features, List, Value

    from data_gen.progress import Progress
    from data_gen.workers import Advance, run_jobs
    from metamodel.triples.store import Zoo
    from metamodel.triples.tables import write_table

    features = Features(
        {
            "id": Value("string"),
            "measurement": Value("int32"),
            "raw": List(Value("float32")),
            "state": List(Value("int8")),
            "member": List(Value("bool")),
            "node_member": List(Value("bool")),
        }
    )
    zoo = Zoo.open(folder)
    harvest_of(folder)
    groups = groups_of(zoo.rows.to_list())
    jobs = {i * times + k: (group, k) for i, group in enumerate(groups) for k in range(times)}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    with (
        Progress(name=NAME, n_subjects=times * len(zoo.ids), cost=float(len(jobs)), show=progress) as shown,
        closing(run_jobs(partial(_job, folder, jobs), list(jobs), workers=workers)) as outcomes,
    ):
        for outcome in outcomes:
            if outcome is None or isinstance(outcome, Advance):
                shown.tick()
                continue
            if outcome.result is None:
                raise InputError(
                    str(folder), expected="workers that live", got=outcome.died, do="Give fewer --workers."
                )
            rows |= {(row["id"], row["measurement"]): row for row in outcome.result}
            shown.advance(accepted=len(outcome.result), rejected=0, cost=1.0)
    write_table(folder, NAME, (rows[id, k] for id in zoo.ids for k in range(times)), features)
    return len(zoo.ids)


def groups_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Ids of triples that share a null: of one shape and one kind of task."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        found[row["family"], row["variant"], row["size"]].append(row["id"])
    return [tuple(ids) for ids in found.values()]


def _job(
    folder: Path, jobs: dict[int, tuple[tuple[str, ...], int]], index: int, _: Any
) -> list[dict[str, Any]]:
    from metamodel.triples.store import Zoo

    group, measurement = jobs[index]
    return measured(Zoo.open(folder), group, measurement)


def harvest_of(folder: Path) -> "tuple[HarvestConfig, int]":
    """How a zoo was measured, and the seed that its names derive theirs from.

    Raises: InputError for subjects that were not made here: nothing draws other prompts of their tasks.
    """
    from data_gen.config import HarvestConfig
    from metamodel.triples.manifest import read_manifest

    config = read_manifest(folder).config
    require(
        "imported" not in config,
        str(folder),
        expected="a zoo of subjects that were made here",
        got="one of imported subjects",
        do="Harvest them again on other prompts instead.",
    )
    return HarvestConfig(**config["harvest"]), int(config["seed"])


def measured(zoo: Any, group: Sequence[str], measurement: int) -> list[dict[str, Any]]:
    """Rows of the table for triples of one group.

    Args:
        measurement: number of the measurement, from which its prompts, batteries and copies are drawn.
    """
    import torch

    from data_gen.function_labels import function_labels
    from data_gen.harvesting import circuit_of, circuit_prompts, shard_null
    from data_gen.seeds import derived_seed
    from data_gen.subject_task import task_of

    harvest, seed = harvest_of(zoo.folder)
    again = derived_seed(seed, "measured again", measurement)
    rows, null = [], None
    with torch.no_grad():
        for id in group:
            triple = zoo.triple(id)
            info, subject = triple.info, triple.subject
            task = task_of(info, seed)
            if null is None:
                kind = f"{info.family}-{info.variant}"
                null = shard_null(subject.config, task.renewed(info.variant, seed), kind, harvest, again)
            prompts = circuit_prompts(task, id, harvest, again)
            labels = function_labels(subject, prompts, null.tests, null.labels, task.structure(prompts))
            circuit = circuit_of(subject, prompts, null.edge_threshold)
            rows.append(
                {
                    "id": id,
                    "measurement": measurement,
                    "raw": labels.raw.flatten().tolist(),
                    "state": labels.state.flatten().tolist(),
                    "member": circuit.member.tolist(),
                    "node_member": circuit.node_member.tolist(),
                }
            )
    return rows


if __name__ == "__main__":
    run_command(main)
