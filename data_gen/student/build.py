"""Builds a zoo of students: pairs of one size after the other, arm by arm, and nothing is measured here."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from data_gen.population import subject_config
from data_gen.seeds import generator_for
from data_gen.student.config import Arm, PairsConfig, StudentConfig
from data_gen.student.teachers import Teacher, teachers
from data_gen.student.training import train_students
from metamodel.config.parser import plain
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, unstack
from metamodel.triples.student_store import StudentPair, StudentZoo

N_PROBES = 96
"""Prompts on which streams are aligned."""
Progress = Callable[[str, int, int], None]
"""Called with what is trained, steps done and steps in all."""


def build_students(config: StudentConfig, out: Path, *, progress: Progress | None = None) -> StudentZoo:
    """Trains all students and writes them.

    Raises: InputError if the zoo of teachers is missing or has too few.
    """
    taken = [teachers(config, pairs) for pairs in config.pairs]  # all of them first: a lack shows at once
    made: list[StudentPair] = []
    for pairs, some in zip(config.pairs, taken, strict=True):
        made += _pairs(config, pairs, some, progress)
    zoo = StudentZoo(name=config.name, config=plain(config), pairs=tuple(made))
    zoo.save(out)
    return zoo


def _pairs(
    config: StudentConfig, pairs: PairsConfig, some: Sequence[Teacher], progress: Progress | None
) -> list[StudentPair]:
    students = {arm: students_of(config, pairs, some, arm, progress=progress) for arm in config.arms}
    return [
        pair_of(config, pairs, one, {a: of[i] for a, of in students.items()}) for i, one in enumerate(some)
    ]


def students_of(
    config: StudentConfig,
    pairs: PairsConfig,
    some: Sequence[Teacher],
    arm: Arm,
    *,
    progress: Progress | None = None,
) -> list[Subject]:
    """One trained student of each teacher, by one way of being like it."""
    where = f"{pairs.family} {pairs.teacher_size} to {pairs.size}, {arm}"

    def report(done: int, whole: int) -> None:
        if progress is not None:
            progress(where, done, whole)

    size = subject_config(config.sizes[pairs.size], n_ctx=some[0].subject.config.n_ctx)
    weights = train_students(config, size, config.recipes[pairs.recipe], some, arm, progress=report)
    return [_subject(size, weights, i, arm) for i in range(len(some))]


def pair_of(
    config: StudentConfig, pairs: PairsConfig, teacher: Teacher, students: Mapping[str, Subject]
) -> StudentPair:
    """A teacher and its students, with prompts that no student was trained on."""
    held_out, probes = (generator_for(config.seed, "student", s, teacher.id) for s in ("held out", "probes"))
    return StudentPair(
        name=f"{teacher.id}-to-{pairs.size}",
        family=pairs.family,
        lineage=teacher.lineage,
        teacher=teacher.subject,
        students=students,
        prompts=teacher.task.prompts(held_out, config.n_held_out),
        probes=teacher.task.prompts(probes, N_PROBES).clean,
    )


def _subject(size: SubjectConfig, weights: dict[str, torch.Tensor], i: int, arm: str) -> Subject:
    return Subject(config=size, weights=unstack(weights, i), name=arm)


def show(where: str, done: int, whole: int) -> None:
    """Progress on stderr."""
    end = "\n" if done == whole else ""
    sys.stderr.write(f"\r{where}: {done}/{whole} steps{end}")
    sys.stderr.flush()
