"""Certificates: that a subject's components carry the variables they are said to carry, and nothing else.

Each component in turn writes what it writes on another prompt (an interchange, Geiger et al. 2021). The
subject must then answer as the program does with the component's variables exchanged; a component that
carries none must leave the answer as it was.
"""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.programs.inputs import random_inputs
from data_gen.programs.interpreter import interchange, output
from data_gen.programs.language import UNDEFINED
from data_gen.programs.placement import Placement, carried
from data_gen.programs.task import HEADER, ProgramTask
from data_gen.programs.truth import truths
from metamodel.circuits.graph import Destination
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import Component, components
from metamodel.subjects.forward import forward
from metamodel.subjects.sites import Replacement
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import ROLES, Truth

WORST_ACCURACY = 0.95
"""Least accuracy of the worst component of a subject that enters a zoo as one with a known circuit."""
N_PAIRS = 512
"""Pairs of held-out inputs on which components are exchanged."""


@torch.no_grad()
def certify(
    subject: Subject, task: ProgramTask, placement: Placement, generator: torch.Generator, n: int = N_PAIRS
) -> Float[Tensor, " node"]:
    """Accuracy of every component under interchange, NaN for the unembedding.

    Args:
        generator: draws `n` pairs of inputs; a stream of its own keeps them apart from training's.

    All places that are asked count. Those whose answer the exchange changes weigh as much as those whose
    answer it leaves: a component that carries nothing would otherwise pass for one that matters rarely.
    Places where the program has no answer after the exchange do not count.
    """
    program = task.program
    base, source = (random_inputs(program, generator, n) for _ in range(2))
    tokens, before = task.tokens(base), output(program, base)
    written = subject.run(task.tokens(source), taps=_sites(subject)).taps
    nodes = components(subject.config)
    found = torch.full((len(nodes),), torch.nan)
    for i, names in enumerate(carried(placement, subject.config)[:-1]):
        expected = interchange(program, base, source, names) if names else before
        answers = _answers(subject, task, tokens, nodes[i], written)
        place = torch.arange(program.length, device=base.device) >= program.first
        asked = place & (expected != UNDEFINED)
        right, changed = answers == expected, expected != before
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
    others: str = "distractor",
) -> Truth:
    """Both truths, roles and certificate of a subject that is said to run a program.

    Args:
        prompts: on which an edge is visible or not.
        constants: destinations that read which token is BOS, see `truths`.
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
        node_accuracy=certify(subject, task, placement, generator, n_pairs),
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
    component: Component,
    written: dict[str, Tensor],
) -> Int[Tensor, "batch place"]:
    """What a subject answers when one component writes what it wrote on the other prompts."""
    site = _site(component)
    exchange: Replacement = lambda value: _exchanged(value, written[site], component)  # noqa: E731
    logits = forward(subject.stacked, subject.config, tokens, replace={site: exchange}).logits
    return logits[0, :, HEADER:].argmax(-1) - task.first_answer


def _exchanged(value: Tensor, other: Tensor, component: Component) -> Tensor:
    if component.kind != "head":
        return other
    value = value.clone()
    value[..., component.head, :] = other[..., component.head, :]
    return value


def _balanced(
    right: Bool[Tensor, "batch place"],
    changed: Bool[Tensor, "batch place"],
    kept: Bool[Tensor, "batch place"],
) -> Float[Tensor, ""]:
    """Mean of the shares that are right where the answer changes and where it stays."""
    shares = [right[where].float().mean() for where in (changed, kept) if bool(where.any())]
    return torch.stack(shares).mean()
