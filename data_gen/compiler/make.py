"""Makes one subject of a zoo from a program: compiled, disguised, fine-tuned, and certified again."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.certificate import N_PAIRS, exactness, known_truth, rejection
from data_gen.compiler.compile import Draft, compile_program
from data_gen.compiler.disguise import NOISE, Disguised, disguised
from data_gen.programs.inputs import all_inputs
from data_gen.programs.language import Program
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask
from data_gen.seeds import generator_for
from data_gen.stacked_training import StackedTrainer
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import Truth

SHARPEST, BLUNTEST = 20.0, 10.0
"""Range of the sharpness that is drawn for a subject, in nats."""
STEPS, BATCH, LEARNING_RATE = 100, 64, 5e-5
"""The fine-tune that smears what the compiler wrote."""
LEAST_EXACT = 1.0
"""Share of answers that must be the program's after the fine-tune: on every input where they are few."""
RATES = (1.0, 0.25, 0.0625, 0.0)
"""Learning rates that are tried, relative to LEARNING_RATE, until a subject is accepted."""
_FEW = 2000
"""Inputs on which a noise is tried."""
_NOISES = (1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015)
"""Noise that is tried, relative to NOISE: the largest that leaves every answer right is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Numbers about the making of a compiled subject. Shares are in [0, 1]."""

    sharpness: float
    exact_compiled: float
    """Share of answers that are the program's, before the disguise."""
    exact_disguised: float
    """After the disguise, before the fine-tune."""
    exact: float
    """At the end."""
    noise: float
    """Of the disguise."""
    learning_rate: float
    """Of the fine-tune: the largest that was tried and left a subject to accept, or the smallest."""
    worst: float
    """Accuracy of the worst component: the certificate."""
    rejected: str
    """Why the subject must not enter a zoo; empty if it may."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compiled:
    """A subject with a known circuit, and what is known of it."""

    subject: Subject
    truth: Truth
    task: ProgramTask
    placement: Placement
    report: Report


def make_compiled(
    program: Program, size: SubjectConfig, seed: int, *, disguise_number: int = 0, steps: int = STEPS
) -> Compiled:
    """A certified subject of exactly this size that runs a program; `report.rejected` says if it failed.

    Subjects of one program, size and seed are relatives: they run the same compiled network, with layers and
    sharpness drawn from `seed`, in disguises (and fine-tunes) of their own.

    Raises: InputError if the program does not fit the size.
    """
    task, name = ProgramTask(program=program), program.name
    draw = generator_for("compile", name, seed)
    sharpness = BLUNTEST + (SHARPEST - BLUNTEST) * float(torch.rand((), generator=draw))
    draft = compile_program(program, size, sharpness=sharpness, generator=draw)
    inputs = all_inputs(program, generator_for("exact", name))
    exact_compiled = exactness(draft.subject, task, inputs)
    hidden, noise, exact_disguised = _disguised(draft, task, inputs, seed, disguise_number)
    share, tuned = 0.0, None
    for share in RATES:
        tuned = _tuned(hidden, task, inputs, seed, disguise_number, steps, share * LEARNING_RATE)
        if not tuned.why:
            break
    assert tuned is not None
    report = Report(
        sharpness=sharpness,
        exact_compiled=exact_compiled,
        exact_disguised=exact_disguised,
        exact=tuned.exact,
        noise=noise,
        learning_rate=share * LEARNING_RATE,
        worst=tuned.truth.worst,
        rejected=tuned.why,
    )
    return Compiled(
        subject=tuned.subject, truth=tuned.truth, task=task, placement=hidden.placement, report=report
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tuned:
    subject: Subject
    truth: Truth
    exact: float
    why: str
    """Why it must not enter a zoo."""


def _tuned(
    hidden: Disguised,
    task: ProgramTask,
    inputs: Int[Tensor, "batch place"],
    seed: int,
    number: int,
    steps: int,
    learning_rate: float,
) -> _Tuned:
    """A disguised subject after its fine-tune, certified again."""
    name = task.program.name
    tune = generator_for("fine-tune", name, seed, number)
    subject = fine_tuned(hidden.subject, task, tune, steps=steps, learning_rate=learning_rate)
    truth = known_truth(
        subject,
        task,
        hidden.placement,
        prompts=task.prompts(generator_for("truth", name), N_PAIRS),
        generator=generator_for("certificate", name, seed, number),
        constants=hidden.constants,
    )
    exact, why = exactness(subject, task, inputs), rejection(truth, subject)
    if exact < LEAST_EXACT:
        why = f"answers as the program in {exact:.3f} of places, below {LEAST_EXACT}"
    return _Tuned(subject=subject, truth=truth, exact=exact, why=why)


def fine_tuned(
    subject: Subject, task: ProgramTask, generator: torch.Generator, *, steps: int, learning_rate: float
) -> Subject:
    """A subject after a few steps on its task, with a learning rate that falls to zero."""
    if steps == 0:
        return subject
    trainer = StackedTrainer(subject.config, subject.stacked, learning_rate=learning_rate, weight_decay=0.0)
    batch = task.sample(generator, steps * BATCH)
    tokens, targets = (x.view(steps, 1, BATCH, -1) for x in (batch.tokens, batch.targets))
    for step in range(steps):
        trainer.set_learning_rate(learning_rate * (1 - step / steps))
        trainer.step(tokens[step], targets[step])
    return subject.with_weights({key: value[0] for key, value in trainer.weights().items()})


def _disguised(
    draft: Draft, task: ProgramTask, inputs: Int[Tensor, "batch place"], seed: int, number: int
) -> tuple[Disguised, float, float]:
    """The noisiest disguise under which every answer stays right, or the quietest one."""
    hidden, noise = None, 0.0
    few = inputs[:: 1 + len(inputs) // _FEW]
    for share in _NOISES:
        noise = share * NOISE
        generator = generator_for("disguise", task.program.name, seed, number)
        hidden = disguised(draft, generator, noise=noise)
        if exactness(hidden.subject, task, few) == 1.0:
            break
    assert hidden is not None
    return hidden, noise, exactness(hidden.subject, task, inputs)
