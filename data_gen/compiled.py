"""Subjects that are compiled from programs: one shard holds disguises of one network, or random programs."""

from collections.abc import Callable

from data_gen.compiler.make import make_compiled
from data_gen.made import Made, MadeShard
from data_gen.population import ShardSpec, lineage_number
from data_gen.programs.language import Program
from data_gen.programs.sampling import LONGEST, random_programs
from data_gen.programs.task import HEADER, RANDOM, ProgramTask, program_of
from data_gen.seeds import derived_seed
from data_gen.tasks.base import Task
from data_gen.tasks.mixture import Padded
from metamodel.config import InputError


def make_compiled_shard(spec: ShardSpec, report: Callable[[int, int], None] | None = None) -> MadeShard:
    """Compiles, disguises, fine-tunes and certifies the subjects of one shard.

    Of a named program each pair of subjects, by their number in the cell, is two disguises of one network. Of
    `rasp-random` each has a program of its own, unlike the others of its cell.

    Args:
        report: called with (subjects done, subjects in all).
    """
    accepted, rejected = [], {}
    for i, subject in enumerate(spec.subjects):
        number = spec.first + i
        try:
            made = make_compiled(
                program_for(spec.family, spec.variant, spec.network_seed, number),
                spec.subject_config,
                network_of(spec.family, spec.network_seed, number),
                disguise_number=number,
            )
        except InputError as error:
            if spec.family != RANDOM:
                raise
            rejected[subject.id] = str(error)  # programs are drawn without a look at the size
            continue
        if made.report.rejected:
            rejected[subject.id] = made.report.rejected
        else:
            network = made.subject.named(subject.id)
            accepted.append(
                Made(
                    subject=network,
                    task=one_length(made.task),
                    seed=subject.seed,
                    lineage=subject.lineage,
                    truth=made.truth,
                )
            )
        if report is not None:
            report(i + 1, len(spec.subjects))
    return MadeShard(accepted=tuple(accepted), rejected=rejected)


def network_of(family: str, network_seed: int, number: int) -> int:
    """Seed of the network that a subject is a disguise of."""
    return derived_seed(network_seed, "network", lineage_number(family, number))


def one_length(task: ProgramTask) -> Task:
    """The task of a compiled subject: random programs differ in length, and a shard's prompts do not."""
    if task.name != RANDOM:
        return task
    return Padded(inside=task, length=HEADER + LONGEST)


def program_for(family: str, variant: str, network_seed: int, number: int) -> Program:
    """The program that the compiled subject of this number in its cell runs."""
    if family == RANDOM:
        return random_programs(network_seed, number + 1)[number]
    return program_of(family, network_seed, variant)
