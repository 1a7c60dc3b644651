"""What subjects with a circuit to learn are trained on: prompts, and the program's answers before and after
one of its variables is exchanged."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from data_gen.programs.inputs import random_inputs
from data_gen.programs.interpreter import interchange, output
from data_gen.programs.language import UNDEFINED, Program
from data_gen.programs.placement import Placement, carried
from data_gen.programs.task import HEADER, ProgramTask
from data_gen.siit_exchange import partner
from data_gen.tasks.base import UNSUPERVISED
from metamodel.subjects.config import SubjectConfig, components


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExchangeData:
    """Data of one subject for some steps."""

    tokens: Int[Tensor, "step batch pos"]
    targets: Int[Tensor, "step batch pos"]
    """The program's answers, UNSUPERVISED where none is asked for."""
    node: Int[Tensor, "step batch"]
    """A component that carries variables, drawn for each prompt."""
    exchanged: Int[Tensor, "step batch pos"]
    """The program's answers when that component's variables have the values of the prompt's partner."""


def circuit_nodes(placement: Placement, config: SubjectConfig) -> dict[int, tuple[str, ...]]:
    """Index of each head or MLP that carries variables, and which."""
    names, nodes = carried(placement, config), components(config)
    return {i: names[i] for i, node in enumerate(nodes) if node.layer >= 0 and names[i]}


def host_nodes(placement: Placement, config: SubjectConfig) -> list[int]:
    """Indices of the heads and MLPs that carry nothing."""
    names, nodes = carried(placement, config), components(config)
    return [i for i, node in enumerate(nodes) if node.layer >= 0 and not names[i]]


def draw(
    task: ProgramTask,
    placement: Placement,
    config: SubjectConfig,
    generator: torch.Generator,
    n_steps: int,
    batch_size: int,
) -> ExchangeData:
    """Fresh prompts for `n_steps`."""
    program = task.program
    base = random_inputs(program, generator, n_steps * batch_size, "training")
    source = partner(base.view(n_steps, batch_size, -1), 1).flatten(0, 1)
    circuit = circuit_nodes(placement, config)
    which = torch.randint(len(circuit), (len(base),), generator=generator)
    answers = output(program, base)
    exchanged = torch.empty_like(answers)
    for i, names in enumerate(circuit.values()):
        mine = which == i
        exchanged[mine] = interchange(program, base[mine], source[mine], names)

    def shaped(values: Tensor) -> Tensor:
        return values.view(n_steps, batch_size, *values.shape[1:])

    return ExchangeData(
        tokens=shaped(task.tokens(base)),
        targets=shaped(_targets(task, program, answers)),
        node=shaped(torch.tensor(list(circuit))[which]),
        exchanged=shaped(_targets(task, program, exchanged)),
    )


def _targets(
    task: ProgramTask, program: Program, answers: Int[Tensor, "batch place"]
) -> Int[Tensor, "batch pos"]:
    asked = answers[:, program.first :]
    found = answers.new_full((len(answers), task.n_pos), UNSUPERVISED)
    found[:, HEADER + program.first :] = asked.where(asked == UNDEFINED, asked + task.first_answer)
    return found.where(found != UNDEFINED, UNSUPERVISED)
