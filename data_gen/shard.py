"""One shard of a zoo, from its specs to its files: a pure function of (configuration, shard number)."""

from collections.abc import Callable
from pathlib import Path

import torch

from data_gen.config import HarvestConfig, ZooConfig
from data_gen.harvesting import harvest
from data_gen.made import Made
from data_gen.origins import MAKERS
from data_gen.population import ShardSpec, shard_specs
from data_gen.programs.task import PREFIX, RANDOM, ProgramTask
from data_gen.tasks.base import Task
from data_gen.tasks.mixture import inner, parts_of
from data_gen.trained import FINETUNING_SHARE
from metamodel.circuits.graph import component_edges
from metamodel.triples.manifest import ShardRecord
from metamodel.triples.schema import SubjectInfo, Triple
from metamodel.triples.shard import write_shard

TRAINING_SHARE = 0.75
"""Part of a shard's time that goes to training, the rest being harvest: about, for showing progress."""

_KEPT: list[tuple[ZooConfig, tuple[ShardSpec, ...]]] = []
"""The last zoo's configuration and shards."""


def make_shard(
    config: ZooConfig, folder: Path, index: int, report: Callable[[float], None] | None = None
) -> ShardRecord:
    """Makes, harvests and stores the subjects of one shard of a zoo that is begun in `folder`, on one thread.

    With several threads sums are split otherwise, and the bytes would depend on the machine's cores.

    Args:
        report: called with the share of the work that is done, now and then.
    """

    def made_so_far(done: int, whole: int) -> None:
        if report is not None:
            report(TRAINING_SHARE * done / whole)

    torch.set_num_threads(1)
    spec = _specs(config)[index]
    made = MAKERS[spec.cell.origin](spec, made_so_far)
    triples = harvest_all(spec, made.accepted, config.harvest, config.seed)
    return write_shard(folder, index, triples, made.rejected)


def _specs(config: ZooConfig) -> tuple[ShardSpec, ...]:
    """`shard_specs`, kept: a worker makes many shards of one zoo, and all subjects are hashed for each."""
    if not _KEPT or _KEPT[0][0] != config:
        _KEPT[:] = [(config, shard_specs(config))]
    return _KEPT[0][1]


def harvest_all(
    spec: ShardSpec, subjects: tuple[Made, ...], config: HarvestConfig, seed: int
) -> tuple[Triple, ...]:
    """One triple for each subject and each of its tasks: all of the first task, then all of the second."""
    triples: list[Triple] = []
    for i, family in enumerate(spec.cell.families):
        # Random programs are tasks of their own, each with a null of its own.
        groups = [(one,) for one in subjects] if family == RANDOM else [subjects]
        for group in groups:
            parts = [parts_of(one.task)[i] for one in group]
            infos = [
                subject_info(spec, one, _name(part, family)) for one, part in zip(group, parts, strict=True)
            ]
            networks, truths = [one.subject for one in group], [one.truth for one in group]
            triples += harvest(networks, parts, infos, config, seed, truths=truths)
    return tuple(triples)


def _name(task: Task, family: str) -> str:
    """Name of a triple's family; of a random program, the program's own."""
    program = inner(task)
    return f"{PREFIX}{program.program.name}" if isinstance(program, ProgramTask) else family


def subject_info(spec: ShardSpec, made: Made, family: str) -> SubjectInfo:
    """Where a subject comes from, and which of its tasks a triple is about."""
    name, cell = made.subject.name, spec.cell
    return SubjectInfo(
        id=f"{name}@{family}" if len(cell.families) > 1 else name,
        subject=name,
        family=family,
        variant=cell.variant,
        size=spec.size_name,
        recipe=cell.recipe,
        seed=made.seed,
        lineage=made.lineage,
        origin=cell.origin,
        departs=cell.departs,
        relation=made.relation,
        relative=made.relative,
    )


def cost(spec: ShardSpec, config: HarvestConfig) -> float:
    """Work that a shard takes, up to a factor: prompts run through its layers, in training and in sweeps."""
    shape, cell, n = spec.subject_config, spec.cell, len(spec.subjects)
    width = shape.d_model * (4 * shape.n_heads * shape.d_head + 2 * shape.d_mlp) + 32 * shape.d_model
    tuned, pruned = (len(spec.among_first(k)) for k in (cell.n_finetuned, cell.n_pruned))
    training = 3 * spec.recipe.steps * spec.recipe.batch_size * (n + FINETUNING_SHARE * tuned)
    triples = len(cell.families) * (n * (1 + len(cell.checkpoints)) + tuned + pruned)
    patching = 2 * (len(component_edges(shape)) + config.n_null_copies) * config.n_prompts * triples
    return shape.n_layers * width * float(training + patching)
