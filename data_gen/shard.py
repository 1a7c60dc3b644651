"""One shard of a zoo, from its specs to its files: a pure function of (configuration, shard number)."""

from collections.abc import Callable
from pathlib import Path

import torch

from data_gen.config import HarvestConfig, ZooConfig
from data_gen.harvest import harvest
from data_gen.made import Made
from data_gen.population import ShardSpec, shard_specs
from data_gen.tasks.mixture import part_family, parts_of
from data_gen.trained import FINETUNING_SHARE, make_trained
from metamodel.circuits.graph import component_edges
from metamodel.triples.manifest import ShardRecord
from metamodel.triples.schema import SubjectInfo, Triple
from metamodel.triples.shard import write_shard

TRAINING_SHARE = 0.75
"""Part of a shard's time that goes to training, the rest being harvest: about, for showing progress."""


def make_shard(
    config: ZooConfig, folder: Path, index: int, report: Callable[[float], None] | None = None
) -> ShardRecord:
    """Makes, harvests and stores the subjects of one shard of a zoo that is begun in `folder`, on one thread.

    With several threads sums are split otherwise, and the bytes would depend on the machine's cores.

    Args:
        report: called with the share of the work that is done, now and then.
    """

    def trained_steps(done: int, steps: int) -> None:
        if report is not None:
            report(TRAINING_SHARE * done / steps)

    torch.set_num_threads(1)
    spec = shard_specs(config)[index]
    made = make_trained(spec, trained_steps)
    triples = harvest_all(spec, made.accepted, config.harvest, config.seed)
    return write_shard(folder, index, triples, made.rejected)


def harvest_all(
    spec: ShardSpec, subjects: tuple[Made, ...], config: HarvestConfig, seed: int
) -> tuple[Triple, ...]:
    """One triple for each subject and each of its tasks: all of the first task, then all of the second."""
    triples: list[Triple] = []
    for i in range(len(spec.cell.families)):
        parts = [parts_of(one.task)[i] for one in subjects]
        infos = [
            subject_info(spec, one, part_family(part)) for one, part in zip(subjects, parts, strict=True)
        ]
        networks, truths = [one.subject for one in subjects], [one.truth for one in subjects]
        triples += harvest(networks, parts, infos, config, seed, truths=truths)
    return tuple(triples)


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
