"""From a zoo's configuration to the specs of its subjects: pure, so that restarts and workers change nothing.

A subject's seed is a hash of its own spec. Adding a cell, reordering cells or sharding differently therefore
leaves every other subject as it was.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from data_gen.config import RecipeConfig, SizeConfig, ZooConfig
from data_gen.tasks import make_task
from data_gen.tasks.base import D_VOCAB
from metamodel.config import require
from metamodel.config.words import Departure
from metamodel.subjects.config import SubjectConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSpec:
    """Identity of one subject."""

    id: str
    """`family-variant-size-recipe-index`, unique inside the zoo."""
    seed: int
    """Seeds its weights, its task's private truth and its data; below 2^53, so that JSON keeps it."""
    lineage: str
    """Fingerprint of its spec: subjects of different initialisation never share one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """Subjects of one shape, task and recipe, which are trained, harvested and stored together."""

    index: int
    """Position of the shard in its zoo."""
    family: str
    variant: str
    size_name: str
    subject_config: SubjectConfig
    recipe_name: str
    recipe: RecipeConfig
    departs: Departure
    subjects: tuple[SubjectSpec, ...]


def subject_config(size: SizeConfig, *, n_ctx: int) -> SubjectConfig:
    """Full shape of a size: vocabulary and context are shared by the whole zoo."""
    return SubjectConfig(d_vocab=D_VOCAB, n_ctx=n_ctx, **dataclasses.asdict(size))


def fingerprint(spec: dict[str, object]) -> str:
    """Hex digest of a spec of plain values, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def shard_specs(config: ZooConfig) -> tuple[ShardSpec, ...]:
    """All shards of a zoo, in the order of its cells and of their sizes.

    Raises: InputError for an unknown family or variant, or a task whose prompts exceed the zoo's context.
    """
    shards: list[ShardSpec] = []
    for i, cell in enumerate(config.cells):
        task = make_task(cell.family, cell.variant, seed=0)
        n_pos = task.n_pos
        require(
            n_pos <= config.n_ctx,
            f"zoo.cells[{i}]",
            expected=f"prompts of at most n_ctx = {config.n_ctx} tokens",
            got=f"{n_pos} of {cell.family}-{cell.variant}",
            do=f"Set n_ctx: {n_pos} or another variant.",
        )
        recipe = config.recipes[cell.recipe]
        for size_name in cell.sizes:
            shape = subject_config(config.sizes[size_name], n_ctx=config.n_ctx)
            require(
                shape.attention_dir == "causal" or not task.causal_only,
                f"zoo.cells[{i}]",
                expected=f"causal subjects, for prompts of {cell.family} hold their answers",
                got=f"bidirectional ones of size {size_name}",
                do="Choose another size or family.",
            )
            subjects = []
            for number in range(cell.n_subjects):
                digest = fingerprint(
                    {
                        "zoo_seed": config.seed,
                        "task": [cell.family, cell.variant],
                        "shape": shape.to_dict(),
                        "recipe": dataclasses.asdict(recipe),
                        "index": number,
                    }
                )
                name = f"{cell.family}-{cell.variant}-{size_name}-{cell.recipe}-{number:04d}"
                subjects.append(SubjectSpec(id=name, seed=int(digest[:13], 16), lineage=digest[:16]))
            for start in range(0, len(subjects), config.subjects_per_shard):
                shards.append(
                    ShardSpec(
                        index=len(shards),
                        family=cell.family,
                        variant=cell.variant,
                        size_name=size_name,
                        subject_config=shape,
                        recipe_name=cell.recipe,
                        recipe=recipe,
                        departs=cell.departs,
                        subjects=tuple(subjects[start : start + config.subjects_per_shard]),
                    )
                )
    return tuple(shards)
