"""From a zoo's configuration to the specs of its subjects: pure, so that restarts and workers change nothing.

A subject's seed is a hash of its own spec. Adding a cell, reordering cells or sharding differently therefore
leaves every other subject as it was.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import torch

from data_gen.cells import CellConfig, MadeOrigin
from data_gen.config import RecipeConfig, SizeConfig, ZooConfig
from data_gen.programs.language import Program
from data_gen.programs.task import RANDOM, ProgramTask
from data_gen.tasks import make_task
from data_gen.tasks.base import D_VOCAB
from metamodel.config import require
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
    """Subjects of one shape, task and recipe, which are made, harvested and stored together."""

    index: int
    """Position of the shard in its zoo."""
    cell: CellConfig
    """What the subjects have in common; their number is that of the whole cell."""
    subject_config: SubjectConfig
    size_name: str
    recipe: RecipeConfig
    subjects: tuple[SubjectSpec, ...]
    first: int
    """Number of the first of them inside its cell."""
    network_seed: int
    """From it derive the networks that compiled subjects are disguises of."""

    @property
    def family(self) -> str:
        return self.cell.family

    @property
    def variant(self) -> str:
        return self.cell.variant

    @property
    def n_networks(self) -> int:
        """Networks that come of the shard, relatives included."""
        cell = self.cell
        relatives = len(self.among_first(cell.n_finetuned)) + len(self.among_first(cell.n_pruned))
        return len(self.subjects) * (1 + len(cell.checkpoints)) + relatives

    def among_first(self, n: int) -> tuple[SubjectSpec, ...]:
        """Those of the shard's subjects that are among the first `n` of the cell."""
        return self.subjects[: max(0, n - self.first)]


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
        for size_name in cell.sizes:
            shape = subject_config(config.sizes[size_name], n_ctx=config.n_ctx)
            _check_task(f"zoo.cells[{i}]", cell, size_name, shape)
            subjects = _subjects(config, cell, size_name, shape)
            for first in range(0, len(subjects), config.subjects_per_shard):
                shards.append(
                    ShardSpec(
                        index=len(shards),
                        cell=cell,
                        subject_config=shape,
                        size_name=size_name,
                        recipe=config.recipes[cell.recipe],
                        subjects=subjects[first : first + config.subjects_per_shard],
                        first=first,
                        network_seed=network_seed(config.seed, cell.family, cell.variant),
                    )
                )
    return tuple(shards)


def _check_task(where: str, cell: CellConfig, size_name: str, shape: SubjectConfig) -> None:
    task = make_task(cell.family, cell.variant, seed=0)
    runs_program = isinstance(task, ProgramTask)
    require(
        runs_program or cell.origin == "trained",
        f"{where}.family",
        expected=f"a program, such as rasp-histogram, for {cell.origin} subjects",
        got=repr(cell.family),
        do="Name a program, or train the subjects.",
    )
    if runs_program and cell.family != RANDOM:
        check_fit(task.program, shape, cell.origin)
    require(
        task.n_pos <= shape.n_ctx,
        where,
        expected=f"prompts of at most n_ctx = {shape.n_ctx} tokens",
        got=f"{task.n_pos} of {cell.family}-{cell.variant}",
        do=f"Set n_ctx: {task.n_pos} or another variant.",
    )
    require(
        shape.attention_dir == "causal" or not task.causal_only,
        where,
        expected=f"causal subjects, for prompts of {cell.family} hold their answers",
        got=f"bidirectional ones of size {size_name}",
        do="Choose another size or family.",
    )


def check_fit(program: Program, shape: SubjectConfig, origin: MadeOrigin) -> None:
    """Raises: InputError if subjects of this shape and origin cannot hold a program."""
    # What makes subjects trains them by the specs of this file.
    from data_gen.compiler.compile import compile_program
    from data_gen.planted_weights import arrange
    from data_gen.siit_placement import place

    match origin:
        case "compiled":
            compile_program(program, shape)
        case "siit":
            place(program, shape, torch.Generator())
        case "planted":
            arrange(program, shape, torch.Generator())


def _subjects(
    config: ZooConfig, cell: CellConfig, size_name: str, shape: SubjectConfig
) -> tuple[SubjectSpec, ...]:
    """Specs of one cell's subjects at one size."""
    found = []
    # trained subjects came first, and keep the seeds that they had before there were other origins
    origin = {} if cell.origin == "trained" else {"origin": cell.origin}
    made = "" if cell.origin == "trained" else f"-{cell.origin}"
    for number in range(cell.n_subjects):
        digest = fingerprint(
            {
                "zoo_seed": config.seed,
                "task": [cell.family, cell.variant],
                "shape": shape.to_dict(),
                "recipe": dataclasses.asdict(config.recipes[cell.recipe]),
                "index": number,
                **origin,
            }
        )
        name = f"{cell.family}-{cell.variant}{made}-{size_name}-{cell.recipe}-{number:04d}"
        lineage = digest
        if cell.origin in ("compiled", "planted"):
            own = lineage_number(cell.family, number) if cell.origin == "compiled" else 0
            lineage = _program(config.seed, cell.family, cell.variant, own, cell.origin)
        found.append(SubjectSpec(id=name, seed=int(digest[:13], 16), lineage=lineage[:16]))
    return tuple(found)


DISGUISES = 2
"""Disguises of one compiled network; the next subject of the program is a disguise of another."""


def lineage_number(family: str, number: int) -> int:
    """Which of a program's compiled networks the subject of this number is a disguise of."""
    return number if family == RANDOM else number // DISGUISES


def network_seed(zoo_seed: int, family: str, variant: str) -> int:
    """From it derive a program's compiled networks, or the programs of all random ones."""
    return int(_program(zoo_seed, family, variant, 0, "compiled")[:13], 16)


def _program(zoo_seed: int, family: str, variant: str, network: int, origin: str) -> str:
    """Fingerprint of a compiled network, or of the circuit that all planted subjects of a program hold."""
    program = [family, variant, origin]
    return fingerprint({"zoo_seed": zoo_seed, "program": program, "index": network})
