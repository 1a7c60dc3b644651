"""One shard of a zoo, from its specs to its files: a pure function of (configuration, shard number)."""

from collections.abc import Callable
from pathlib import Path

import torch

from data_gen.config import HarvestConfig, ZooConfig
from data_gen.harvest import harvest
from data_gen.population import ShardSpec, SubjectSpec, shard_specs
from data_gen.stacked_training import train
from metamodel.circuits.graph import component_edges
from metamodel.subjects.subject import Subject, unstack
from metamodel.triples.manifest import ShardRecord
from metamodel.triples.schema import SubjectInfo
from metamodel.triples.shard import write_shard

TRAINING_SHARE = 0.75
"""Part of a shard's time that goes to training, the rest being harvest: about, for showing progress."""

_KEPT: list[tuple[ZooConfig, tuple[ShardSpec, ...]]] = []
"""The last zoo's configuration and shards."""


def make_shard(
    config: ZooConfig, folder: Path, index: int, report: Callable[[float], None] | None = None
) -> ShardRecord:
    """Trains, harvests and stores one shard of a zoo that is begun in `folder`, on one thread.

    With several threads sums are split otherwise, and the bytes would depend on the machine's cores.

    Args:
        report: called with the share of the work that is done, now and then.
    """

    def trained_steps(done: int, steps: int) -> None:
        if report is not None:
            report(TRAINING_SHARE * done / steps)

    torch.set_num_threads(1)
    spec = _specs(config)[index]
    trained = train(spec, progress=trained_steps)
    kept = [i for i, subject in enumerate(spec.subjects) if subject.id not in trained.rejected]
    subjects = [
        Subject(config=spec.subject_config, weights=unstack(trained.weights, i), name=spec.subjects[i].id)
        for i in kept
    ]
    triples = harvest(
        subjects,
        [trained.tasks[i] for i in kept],
        [subject_info(spec, spec.subjects[i]) for i in kept],
        config.harvest,
        config.seed,
    )
    return write_shard(folder, index, triples, trained.rejected)


def _specs(config: ZooConfig) -> tuple[ShardSpec, ...]:
    """`shard_specs`, kept: a worker makes many shards of one zoo, and all subjects are hashed for each."""
    if not _KEPT or _KEPT[0][0] != config:
        _KEPT[:] = [(config, shard_specs(config))]
    return _KEPT[0][1]


def subject_info(spec: ShardSpec, subject: SubjectSpec) -> SubjectInfo:
    """Where a trained subject comes from."""
    return SubjectInfo(
        id=subject.id,
        subject=subject.id,
        family=spec.family,
        variant=spec.variant,
        size=spec.size_name,
        recipe=spec.recipe_name,
        seed=subject.seed,
        lineage=subject.lineage,
        origin="trained",
        departs=spec.departs,
    )


def cost(spec: ShardSpec, config: HarvestConfig) -> float:
    """Work that a shard takes, up to a factor: prompts run through its layers, in training and in sweeps."""
    shape = spec.subject_config
    width = shape.d_model * (4 * shape.n_heads * shape.d_head + 2 * shape.d_mlp) + 32 * shape.d_model
    training = 3 * spec.recipe.steps * spec.recipe.batch_size
    patching = 2 * (len(component_edges(shape)) + config.n_null_copies) * config.n_prompts
    return len(spec.subjects) * shape.n_layers * width * float(training + patching)
