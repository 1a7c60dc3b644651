"""Certificates: that a subject's components carry the variables they are said to carry, and nothing else.

Each component in turn writes what it writes on another prompt (an interchange, Geiger et al. 2021). The
subject must then answer as the program does with the component's variables exchanged; a component that
carries none must leave the answer as it was.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.programs.inputs import random_inputs
from data_gen.programs.interpreter import interchange, output
from data_gen.programs.language import POSITIONS, TOKENS, UNDEFINED, Program
from data_gen.programs.placement import Placement, carried
from data_gen.programs.task import HEADER, ProgramTask
from data_gen.programs.truth import truths
from metamodel.circuits.graph import Destination
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import Component, SubjectConfig, components
from metamodel.subjects.forward import forward
from metamodel.subjects.sites import Replacement
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import ROLES, Truth

WORST_ACCURACY = 0.95
"""Least accuracy of the worst component of a subject that enters a zoo as one with a known circuit."""
_NO_COPIES: Mapping[Component, Component] = {}
N_PAIRS = 512
"""Pairs of held-out inputs on which components are exchanged."""


@torch.no_grad()
def certify(
    subject: Subject,
    task: ProgramTask,
    placement: Placement,
    generator: torch.Generator,
    n: int = N_PAIRS,
    *,
    copies: Mapping[Component, Component] = _NO_COPIES,
) -> Float[Tensor, " node"]:
    """Accuracy of every component under interchange, NaN where no exchange can tell: for the unembedding, and
    for variables that are the same on all prompts, as positions are.

    Args:
        generator: draws `n` pairs of inputs, of those that nothing is trained on.
        copies: copy -> original, a head of the same layer: they are exchanged together.

    All places that are asked count. Those whose answer the exchange changes weigh as much as those whose
    answer it leaves: a component that carries nothing would otherwise pass for one that matters rarely.
    Places where the program has no answer after the exchange do not count.
    """
    program = task.program
    base, source = (random_inputs(program, generator, n, "held_out") for _ in range(2))
    tokens, before = task.tokens(base), output(program, base)
    written = subject.run(task.tokens(source), taps=_sites(subject)).taps
    nodes = components(subject.config)
    found = torch.full((len(nodes),), torch.nan)
    held = dict(zip(nodes, carried(placement, subject.config), strict=True))
    for i, node in enumerate(nodes[:-1]):
        original = copies.get(node, node)
        names = held[original]
        alike = (original, *(copy for copy, of in copies.items() if of == original))
        expected = interchange(program, base, source, names) if names else before
        answers = _answers(subject, task, tokens, alike, written)
        place = torch.arange(program.length, device=base.device) >= program.first
        asked = place & (expected != UNDEFINED)
        right, changed = answers == expected, expected != before
        if not names or bool((asked & changed).any()):
            found[i] = _balanced(right, asked & changed, asked & ~changed)
    return found


@torch.no_grad()
def exactness(subject: Subject, task: ProgramTask, symbols: Int[Tensor, "batch place"]) -> float:
    """Share of places that are asked at which a subject answers as the program does, on these inputs."""
    given = subject.run(task.tokens(symbols)).logits[0, :, HEADER:].argmax(-1) - task.first_answer
    right = given == output(task.program, symbols)
    return float(right[:, task.program.first :].double().mean())


def known_truth(
    subject: Subject,
    task: ProgramTask,
    placement: Placement,
    *,
    prompts: Prompts,
    generator: torch.Generator,
    n_pairs: int = N_PAIRS,
    constants: Collection[Destination] = (),
    copies: Mapping[Component, Component] = _NO_COPIES,
    others: str = "distractor",
) -> Truth:
    """Both truths, roles and certificate of a subject that is said to run a program.

    Args:
        prompts: on which an edge is visible or not.
        constants: destinations that read which token is BOS, see `truths`.
        copies: copy -> original, see `certify`.
        others: role of components that carry no variable.
    """
    structural, visible = truths(task, placement, subject.config, prompts, constants)
    names = carried(placement, subject.config)
    role = [ROLES.index("circuit") if carries else ROLES.index(others) for carries in names]
    role[-1] = ROLES.index("circuit")
    return Truth(
        structural=structural,
        visible=visible,
        role=torch.tensor(role),
        variables=variable_bits(task.program, placement, subject.config),
        node_accuracy=certify(subject, task, placement, generator, n_pairs, copies=copies),
    )


def variable_bits(program: Program, placement: Placement, config: SubjectConfig) -> Int[Tensor, " node"]:
    """Which variables each component carries: bit i for the i-th of the inputs and steps of the program."""
    order = (TOKENS, POSITIONS, *(step.name for step in program.steps))
    return torch.tensor(
        [sum(1 << order.index(name) for name in names) for names in carried(placement, config)]
    )


def rejection(truth: Truth, subject: Subject) -> str:
    """Why a subject must not claim its circuit, naming the worst component; empty if it may."""
    if truth.worst >= WORST_ACCURACY:
        return ""
    worst = int(truth.node_accuracy.nan_to_num(2.0).argmin())
    name = components(subject.config)[worst].name
    return f"certificate: {name} answers as the program on {truth.worst:.3f} of pairs, below {WORST_ACCURACY}"


def _sites(subject: Subject) -> list[str]:
    return sorted({_site(node) for node in components(subject.config)[:-1]})


def _site(component: Component) -> str:
    match component.kind:
        case "token_embedding":
            return "hook_embed"
        case "position_embedding":
            return "hook_pos_embed"
        case "head":
            return f"blocks.{component.layer}.attn.hook_result"
        case "mlp":
            return f"blocks.{component.layer}.hook_mlp_out"
    raise AssertionError(component)


def _answers(
    subject: Subject,
    task: ProgramTask,
    tokens: Int[Tensor, "batch pos"],
    alike: Sequence[Component],
    written: dict[str, Tensor],
) -> Int[Tensor, "batch place"]:
    """What a subject answers when components of one layer write what they wrote on the other prompts."""
    site = _site(alike[0])
    exchange: Replacement = lambda value: _exchanged(value, written[site], alike)  # noqa: E731
    logits = forward(subject.stacked, subject.config, tokens, replace={site: exchange}).logits
    return logits[0, :, HEADER:].argmax(-1) - task.first_answer


def _exchanged(value: Tensor, other: Tensor, alike: Sequence[Component]) -> Tensor:
    if alike[0].kind != "head":
        return other
    value = value.clone()
    for component in alike:
        value[..., component.head, :] = other[..., component.head, :]
    return value


def _balanced(
    right: Bool[Tensor, "batch place"],
    changed: Bool[Tensor, "batch place"],
    kept: Bool[Tensor, "batch place"],
) -> Float[Tensor, ""]:
    """Mean of the shares that are right where the answer changes and where it stays."""
    shares = [right[where].float().mean() for where in (changed, kept) if bool(where.any())]
    return torch.stack(shares).mean() if shares else torch.tensor(torch.nan)
