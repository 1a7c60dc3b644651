"""The two truths of a known circuit: which edges the algorithm uses, and which of them patching can see."""

import itertools
from collections.abc import Collection

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.programs.interpreter import Variables, run
from data_gen.programs.language import TOKENS, Program, uses
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask
from metamodel.circuits.graph import Destination, Edge, component_edges
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require
from metamodel.subjects.config import Component, SubjectConfig

Use = tuple[str, str, str]
"""(variable, step, argument). A component that hands a variable on reads it as `HANDED`."""
HANDED = "handed on"
_CHANNELS = {"query": "q", "key": "k", "value": "v", "first": "v", "second": "v", HANDED: "v"}
_TOKEN_EMBEDDING = Component(kind="token_embedding")


def edge_uses(program: Program, placement: Placement) -> dict[Edge, list[Use]]:
    """Every edge along which a program's variables move in a subject, and what moves along it."""
    found: dict[Edge, list[Use]] = {}

    def add(source: Component, destination: Destination, use: Use) -> None:
        if source != destination.component:
            found.setdefault(Edge(source=source, destination=destination), []).append(use)

    for name, step, argument in uses(program):
        add(placement[name][-1], _destination(placement[step][0], argument), (name, step, argument))
    for name, places in placement.items():
        for source, reader in itertools.pairwise(places):
            add(source, _destination(reader, HANDED), (name, name, HANDED))
    answer = Destination(component=Component(kind="unembedding"), channel="logits")
    add(placement[program.output][-1], answer, (program.output, program.output, HANDED))
    return found


def truths(
    task: ProgramTask,
    placement: Placement,
    config: SubjectConfig,
    prompts: Prompts,
    constants: Collection[Destination] = (),
) -> tuple[Bool[Tensor, " edge"], Bool[Tensor, " edge"]]:
    """Structural and visible truth, in the order of `component_edges(config)`.

    An edge is visible if, on some prompt, the program gives another defined answer when this edge alone
    carries what it carries on the corrupt prompt.

    Args:
        constants: destinations that also read from the token embedding where the prompt begins; such edges
            are structural, and visible only if a variable moves along them as well.

    Raises: InputError if a variable is placed after one that reads it.
    """
    program, edges = task.program, component_edges(config).edges
    moved = edge_uses(program, placement)
    for edge in moved:
        require(
            edge in set(edges),
            f"program {program.name}: placement",
            expected="every variable before those that read it",
            got=edge.name,
            do="Place it in an earlier layer.",
        )
    fixed = {Edge(source=_TOKEN_EMBEDDING, destination=destination) for destination in constants}
    clean, corrupt = run(program, task.symbols(prompts.clean)), run(program, task.symbols(prompts.corrupt))
    asked = (prompts.position - task.header)[:, None]
    seen = {edge for edge, along in moved.items() if _matters(program, along, clean, corrupt, asked)}
    return (
        torch.tensor([edge in moved or edge in fixed for edge in edges]),
        torch.tensor([edge in seen for edge in edges]),
    )


def _destination(component: Component, argument: str) -> Destination:
    return Destination(component=component, channel="in" if component.kind == "mlp" else _CHANNELS[argument])


def _matters(
    program: Program,
    along: list[Use],
    clean: Variables,
    corrupt: Variables,
    asked: Int[Tensor, "batch 1"],
) -> bool:
    """Whether some answer changes when these uses alone read the corrupt prompt's values."""
    held = {name: corrupt[name] for name, _, argument in along if argument == HANDED}
    read = {(step, argument): corrupt[name] for name, step, argument in along if argument != HANDED}
    patched = run(program, clean[TOKENS], fixed=held, read=read)[program.output].gather(1, asked)
    return bool(((patched != clean[program.output].gather(1, asked)) & (patched >= 0)).any())
