"""The task of a subject of a zoo, made again from what the zoo says of it."""

from data_gen.compiled import one_length, program_for
from data_gen.population import network_seed
from data_gen.programs.task import RANDOM, ProgramTask
from data_gen.tasks import make_task
from data_gen.tasks.base import Task
from data_gen.tasks.mixture import part_family, parts_of
from metamodel.config import require
from metamodel.triples.schema import SubjectInfo


def task_of(info: SubjectInfo, zoo_seed: int) -> Task:
    """The task that a triple is about, its private truth included.

    Raises: InputError for an imported subject, whose prompts are in the file that was brought with it.
    """
    require(
        info.origin != "imported",
        info.id,
        expected="a subject that was made here",
        got="an imported one",
        do="Take the file of prompts that it was harvested with.",
    )
    if info.family.startswith(RANDOM):
        seed = network_seed(zoo_seed, RANDOM, info.variant)
        number = int(info.subject.rsplit("-", 1)[1])
        return one_length(ProgramTask(program=program_for(RANDOM, info.variant, seed, number)))
    families = info.subject.partition(f"-{info.variant}-")[0]
    parts = list(parts_of(make_task(families, info.variant, info.seed)))
    if len(parts) == 1:
        return parts[0]
    return parts[[part_family(part) for part in parts].index(info.family)]
