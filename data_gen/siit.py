"""Subjects that are trained to run a program in a circuit that was drawn for them (SIIT), and certified.

Strict interchange training, after Geiger et al. 2022 and InterpBench (Gupta et al. 2024), with two changes:
each step trains on the worst of the components that must not matter, and a subject is accepted on its worst
component instead of on their mean. The exact sweep of edges is no filter: the circuits of these subjects are
what methods that search for circuits are compared on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_gen.acceptance import held_out_accuracy, rejections
from data_gen.certificate import N_PAIRS, known_truth, rejection
from data_gen.config import RecipeConfig
from data_gen.made import Made, MadeShard
from data_gen.population import ShardSpec
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask, make_program_task
from data_gen.seeds import DATA, WEIGHTS, generator_for, generator_of
from data_gen.siit_placement import place
from data_gen.siit_training import HostChoice, train_siit
from metamodel.config.errors import InputError
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights, unstack
from metamodel.triples.schema import Truth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """A subject that was taught a circuit, and whether it has learnt it."""

    task: ProgramTask
    placement: Placement
    subject: Subject | None
    """None if its training diverged."""
    truth: Truth | None
    rejected: str
    """Why it must not enter a zoo, naming the worst component; empty if it may."""


def make_siit(spec: ShardSpec, report: Callable[[int, int], None] | None = None) -> MadeShard:
    """Trains a shard's subjects, each on a circuit of its own, and keeps those that have learnt it.

    Args:
        spec: of a family of programs.
        report: called with (steps done, steps in all) now and then.

    Raises: InputError if the program of no subject fits the shard's shape.
    """
    rejected: dict[str, str] = {}
    placed, error = [], None
    for subject in spec.subjects:
        task = make_program_task(spec.family, spec.variant, subject.seed)
        try:
            placement_of(task, spec.subject_config, subject.seed)
            placed.append((subject, task))
        except InputError as found:
            # Programs that are drawn for each subject may fit or not; one that all have in common must.
            rejected[subject.id], error = str(found), found
    if not placed and error is not None:
        raise error
    accepted = {}
    # A stack has prompts of one length. What a subject learns does not depend on the stack.
    for n_pos in sorted({task.n_pos for _, task in placed}):
        alike = [(subject, task) for subject, task in placed if task.n_pos == n_pos]
        taught = teach(
            spec.subject_config,
            spec.recipe,
            [task for _, task in alike],
            [subject.seed for subject, _ in alike],
            names=[subject.id for subject, _ in alike],
            progress=report,
        )
        for (subject, task), one in zip(alike, taught, strict=True):
            if one.rejected or one.subject is None:
                rejected[subject.id] = one.rejected
                continue
            accepted[subject.id] = Made(
                subject=one.subject, task=task, seed=subject.seed, lineage=subject.lineage, truth=one.truth
            )
    order = [subject.id for subject in spec.subjects]
    return MadeShard(accepted=tuple(accepted[id] for id in order if id in accepted), rejected=rejected)


def placement_of(task: ProgramTask, config: SubjectConfig, seed: int) -> Placement:
    """The circuit that the subject of this seed is taught. Raises: InputError if the program does not fit."""
    return place(task.program, config, generator_for(seed, "siit", "placement"))


def teach(
    config: SubjectConfig,
    recipe: RecipeConfig,
    tasks: Sequence[ProgramTask],
    seeds: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    choice: HostChoice = "worst",
    n_pairs: int = N_PAIRS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Taught, ...]:
    """Trains and certifies subjects of one shape, one for each task and seed.

    Args:
        tasks: with prompts of one length.
        choice: how the component is chosen that must not matter; `uniform` is for comparison.
        n_pairs: pairs of held-out inputs of the certificate.
        progress: called with (steps done, steps in all) now and then.

    Raises: InputError if a program does not fit the shape.
    """
    names = names or [f"siit-{seed}" for seed in seeds]
    placements = [placement_of(task, config, seed) for task, seed in zip(tasks, seeds, strict=True)]
    trained = train_siit(
        config,
        recipe,
        initial_weights(config, [generator_of(seed, WEIGHTS) for seed in seeds]),
        tasks,
        placements,
        [generator_of(seed, DATA) for seed in seeds],
        choice=choice,
        progress=progress,
    )
    accuracy = held_out_accuracy(trained.weights, config, tasks, seeds)
    failed = rejections(names, tasks, accuracy, trained.diverged_at)
    taught = []
    for i, (name, task, seed) in enumerate(zip(names, tasks, seeds, strict=True)):
        if trained.diverged_at[i]:
            taught.append(
                Taught(task=task, placement=placements[i], subject=None, truth=None, rejected=failed[name])
            )
            continue
        subject = Subject(config=config, weights=unstack(trained.weights, i), name=name)
        truth = known_truth(
            subject,
            task,
            placements[i],
            prompts=task.prompts(generator_for(seed, "siit", "truth"), N_PAIRS),
            generator=generator_for(seed, "siit", "certificate"),
            n_pairs=n_pairs,
            others="host",
        )
        reasons = [reason for reason in (failed.get(name, ""), rejection(truth, subject)) if reason]
        taught.append(
            Taught(
                subject=subject,
                task=task,
                placement=placements[i],
                truth=truth,
                rejected="; ".join(reasons),
            )
        )
    return tuple(taught)
