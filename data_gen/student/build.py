"""Builds a zoo of students: pairs of one size after the other, arm by arm, and nothing is measured here."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from data_gen.population import subject_config
from data_gen.seeds import generator_for
from data_gen.student.config import PairsConfig, StudentConfig
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
    size = subject_config(config.sizes[pairs.size], n_ctx=some[0].subject.config.n_ctx)
    students: dict[str, list[Subject]] = {}
    for arm in config.arms:
        where = f"{pairs.family} {pairs.teacher_size} to {pairs.size}, {arm}"

        def report(done: int, whole: int, where: str = where) -> None:
            if progress is not None:
                progress(where, done, whole)

        weights = train_students(config, size, config.recipes[pairs.recipe], some, arm, progress=report)
        students[arm] = [_subject(size, weights, i, arm) for i in range(len(some))]
    return [
        StudentPair(
            name=f"{teacher.id}-to-{pairs.size}",
            family=pairs.family,
            lineage=teacher.lineage,
            teacher=teacher.subject,
            students={arm: of[i] for arm, of in students.items()},
            prompts=teacher.task.prompts(
                generator_for(config.seed, "student", "held out", teacher.id), config.n_held_out
            ),
            probes=teacher.task.prompts(
                generator_for(config.seed, "student", "probes", teacher.id), N_PROBES
            ).clean,
        )
        for i, teacher in enumerate(some)
    ]


def _subject(size: SubjectConfig, weights: dict[str, torch.Tensor], i: int, arm: str) -> Subject:
    return Subject(config=size, weights=unstack(weights, i), name=arm)


def show(where: str, done: int, whole: int) -> None:
    """Progress on stderr."""
    end = "\n" if done == whole else ""
    sys.stderr.write(f"\r{where}: {done}/{whole} steps{end}")
    sys.stderr.flush()
