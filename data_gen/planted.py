"""Subjects with a planted circuit: a compiled one composed into a host, beside copies and decoys of heads.

The host is another network, random or trained on a family of its own. Circuit and host share the residual
stream, each in directions of its own until a random change of basis mixes them. Beside the heads that carry
variables of the program stand, where there is room: a redundant copy (it and the original write half each), a
negative copy (it writes the opposite of half, the original half as much again), and decoys, which attend like
the original and write as much, into directions that nothing reads.

No exchange of one copy alone says anything, so the certificate exchanges a head with its copies. Host and
decoys must leave every answer as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from data_gen.certificate import N_PAIRS, certify, exactness, known_truth, rejection
from data_gen.compiler.compile import Draft, compile_program, minimal_size
from data_gen.compiler.make import LEARNING_RATE, LEAST_EXACT, RATES, fine_tuned
from data_gen.config import RecipeConfig
from data_gen.made import Made, MadeShard
from data_gen.population import ShardSpec
from data_gen.programs.inputs import all_inputs
from data_gen.programs.language import Program
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask, make_program_task
from data_gen.seeds import derived_seed, generator_for
from data_gen.stacked_training import train_stack
from data_gen.tasks import make_task
from metamodel.circuits.graph import component_edges
from metamodel.config import require
from metamodel.subjects.config import Component, SubjectConfig, components, weight_shapes
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject, initial_weights, unstack
from metamodel.triples.schema import ROLES, Truth

N_SINK = 4
"""Directions that decoys write to, and nothing reads."""
FEWEST_HOST = 8
"""Directions that a host needs."""
LOUDNESS = 2.0
"""How much louder than a compiled circuit's the planted one's answers are, to be heard over the host's."""
CONDITION = 3.0
"""Largest condition number of the change of any basis."""
HOST_FAMILIES = ("facts", "brackets", "sorting")
"""What those hosts have learnt that are trained; every other host is at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Where circuit, copies and decoys lie among a subject's heads, before any disguise."""

    circuit: SubjectConfig
    """Size of the compiled circuit."""
    host: SubjectConfig
    copies: Mapping[Component, Component]
    """Copy -> the head that it copies."""
    negative: frozenset[Component]
    """Those copies that write the opposite."""
    decoys: Mapping[Component, Component]
    """Decoy -> the head whose attention it shows."""


def make_planted(spec: ShardSpec, report: Callable[[int, int], None] | None = None) -> MadeShard:
    """Plants the program of a shard's family into hosts, one for each subject.

    Args:
        report: called with (subjects done, subjects in all).

    Raises: InputError if the program leaves too little of the shape to a host.
    """
    accepted, rejected = [], {}
    for i, subject in enumerate(spec.subjects):
        task = make_program_task(spec.family, spec.variant, subject.seed)
        trained = HOST_FAMILIES[i // 2 % len(HOST_FAMILIES)] if (spec.first + i) % 2 else None
        made, truth, why = plant(
            task, spec.subject_config, subject.seed, host_family=trained, recipe=spec.recipe
        )
        if why:
            rejected[subject.id] = why
        else:
            made = made.named(subject.id)
            accepted.append(
                Made(subject=made, task=task, seed=subject.seed, lineage=subject.lineage, truth=truth)
            )
        if report is not None:
            report(i + 1, len(spec.subjects))
    return MadeShard(accepted=tuple(accepted), rejected=rejected)


def plant(
    task: ProgramTask,
    size: SubjectConfig,
    seed: int,
    *,
    host_family: str | None,
    recipe: RecipeConfig,
    steps: int = 100,
) -> tuple[Subject, Truth, str]:
    """One subject with a planted circuit, what is known of it, and why it must not enter a zoo, if so.

    Args:
        host_family: what the host learns before, by `recipe`; None for a random one.
        steps: of the fine-tune at the end.

    Raises: InputError if the program leaves too little of the size to a host.
    """
    draw = generator_for(seed, "planted")
    plot, draft = _plot(task.program, size, draw)
    host = _host(plot.host, host_family, recipe, seed)
    whole = _compose(size, plot, draft, host, draw)
    element = gauge_element(whole, draw, condition=CONDITION)
    nodes = components(size)
    new = {nodes[int(old)]: nodes[i] for i, old in enumerate(element.node_order)}
    placement = {name: tuple(new[c] for c in places) for name, places in draft.placement.items()}
    plot = replace(
        plot,
        copies={new[copy]: new[of] for copy, of in plot.copies.items()},
        negative=frozenset(new[copy] for copy in plot.negative),
        decoys={new[decoy]: new[of] for decoy, of in plot.decoys.items()},
    )
    inputs = all_inputs(task.program, generator_for("exact", task.program.name))
    tried: list[tuple[Subject, Truth, str]] = []
    for rate in RATES:
        tune = generator_for(seed, "fine-tune")
        subject = fine_tuned(element.subject, task, tune, steps=steps, learning_rate=rate * LEARNING_RATE)
        truth = _truth(subject, task, placement, plot, draft, new, seed)
        exact, why = exactness(subject, task, inputs), rejection(truth, subject)
        if exact < LEAST_EXACT:
            why = f"answers as the program in {exact:.3f} of places, below {LEAST_EXACT}"
        tried.append((subject, truth, why))
        if not why:
            break
    return tried[-1]


def _plot(program: Program, size: SubjectConfig, generator: torch.Generator) -> tuple[Plot, Draft]:
    """Chooses which heads are copied, and how, and gives the rest of the subject to the host."""
    least = minimal_size(program, n_free=0)
    circuit = replace(
        size, n_heads=least.n_heads, d_model=least.d_model, d_mlp=least.d_mlp if size.has_mlp else 0
    )
    draft = compile_program(program, circuit, generator=generator)
    left = size.d_model - circuit.d_model - N_SINK
    require(
        left >= FEWEST_HOST and size.n_heads >= circuit.n_heads + 2,
        f"program {program.name}: planted",
        expected=f"a size with {FEWEST_HOST} directions and 2 heads left for a host",
        got=f"{left} and {size.n_heads - circuit.n_heads}",
        do="Take a larger size.",
    )
    copies: dict[Component, Component] = {}
    decoys: dict[Component, Component] = {}
    negative, most = set(), 0
    kinds = torch.randperm(2, generator=generator).tolist()
    for layer in range(size.n_layers):
        carriers = [head for head, _ in draft.layout.heads(layer)]
        room = list(range(circuit.n_heads, size.n_heads - 1))
        for head in carriers:
            original = Component(kind="head", layer=layer, head=head)
            if room and len(copies) < 2:
                copy = Component(kind="head", layer=layer, head=room.pop(0))
                copies[copy] = original
                if kinds[len(copies) - 1]:
                    negative.add(copy)
            if room:
                decoys[Component(kind="head", layer=layer, head=room.pop(0))] = original
        most = max(most, len([c for c in (*copies, *decoys) if c.layer == layer]))
    host = replace(
        size,
        n_heads=size.n_heads - circuit.n_heads - most,
        d_model=left,
        d_mlp=size.d_mlp - circuit.d_mlp,
    )
    plot = Plot(circuit=circuit, host=host, copies=copies, negative=frozenset(negative), decoys=decoys)
    return plot, draft


def _host(config: SubjectConfig, family: str | None, recipe: RecipeConfig, seed: int) -> dict[str, Tensor]:
    """Weights of a host: as initialised, or after training on its family."""
    weights = initial_weights(config, [generator_for(seed, "host")])
    if family is not None:
        task = make_task(family, "base", derived_seed(seed, "host"))
        weights = train_stack(config, recipe, weights, [task], [generator_for(seed, "host data")]).weights
    return unstack(weights, 0)


def _compose(
    size: SubjectConfig, plot: Plot, draft: Draft, host: dict[str, Tensor], generator: torch.Generator
) -> Subject:
    """Circuit, copies, decoys and host side by side: directions and heads of their own."""
    n, d = plot.circuit.n_heads, plot.circuit.d_model
    inside = slice(d + N_SINK, None)
    circuit = draft.subject.weights
    weights = {key: torch.zeros(shape) for key, shape in weight_shapes(size).items()}
    for key, value in weights.items():
        leaf = key.rsplit(".", 1)[1]
        match leaf:
            case "W_E" | "W_pos":
                value[:, :d], value[:, inside] = circuit[key], host[key]
            case "W_U":
                value[:d], value[inside] = LOUDNESS * circuit[key], host[key]
            case "b_U":
                value += LOUDNESS * circuit[key] + host[key]
            case "W_Q" | "W_K" | "W_V":
                value[:n, :d] = circuit[key]
                value[-plot.host.n_heads :, inside] = host[key]
            case "W_O":
                value[:n, :, :d] = circuit[key]
                value[-plot.host.n_heads :, :, inside] = host[key]
            case "b_Q" | "b_K" | "b_V":
                value[:n], value[-plot.host.n_heads :] = circuit[key], host[key]
            case "b_O" | "b_out":
                value[:d], value[inside] = circuit.get(key, 0.0), host[key]
            case "W_in":
                value[:d, : plot.circuit.d_mlp] = circuit.get(key, 0.0)
                value[inside, plot.circuit.d_mlp :] = host[key]
            case "b_in":
                value[: plot.circuit.d_mlp] = circuit.get(key, 0.0)
                value[plot.circuit.d_mlp :] = host[key]
            case "W_out":
                value[: plot.circuit.d_mlp, :d] = circuit.get(key, 0.0)
                value[plot.circuit.d_mlp :, inside] = host[key]
    for copy, original in (*plot.copies.items(), *plot.decoys.items()):
        attn = f"blocks.{copy.layer}.attn"
        for name in ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V"):
            weights[f"{attn}.{name}"][copy.head] = weights[f"{attn}.{name}"][original.head]
    for decoy, original in plot.decoys.items():
        _write_to_sink(weights, decoy, original, d, generator)
    for copy, original in plot.copies.items():
        out = weights[f"blocks.{copy.layer}.attn.W_O"]
        share = -0.5 if copy in plot.negative else 0.5
        out[copy.head] = share * out[original.head]
        out[original.head] = (1 - share) * out[original.head]
    return Subject(config=size, weights=weights, name="planted")


def _write_to_sink(
    weights: dict[str, Tensor], decoy: Component, original: Component, d: int, generator: torch.Generator
) -> None:
    """A decoy reads like the original and writes as much, where nothing reads."""
    attn = f"blocks.{decoy.layer}.attn"
    value, out = weights[f"{attn}.W_V"][original.head], weights[f"{attn}.W_O"]
    drawn = torch.zeros_like(out[decoy.head])
    drawn[:, d : d + N_SINK] = torch.randn(drawn.shape[0], N_SINK, generator=generator)
    norm = (value @ out[original.head]).norm() / (value @ drawn).norm().clamp(min=1e-9)
    out[decoy.head] = norm * drawn


def _truth(
    subject: Subject,
    task: ProgramTask,
    placement: Placement,
    plot: Plot,
    draft: Draft,
    new: Mapping[Component, Component],
    seed: int,
) -> Truth:
    """The program's truth, with the copies' edges beside those of their originals."""
    constants = [replace(c, component=new[c.component]) for c in draft.constants]
    known = known_truth(
        subject,
        task,
        placement,
        prompts=task.prompts(generator_for("truth", task.program.name), N_PAIRS),
        generator=generator_for(seed, "certificate"),
        n_pairs=2,
        constants=constants,
        others="host",
    )
    role, variables = known.role.clone(), known.variables.clone()
    nodes = components(subject.config)
    for copy, original in plot.copies.items():
        role[nodes.index(copy)] = ROLES.index("negative" if copy in plot.negative else "redundant")
        variables[nodes.index(copy)] = variables[nodes.index(original)]
    for decoy in plot.decoys:
        role[nodes.index(decoy)] = ROLES.index("decoy")
    return replace(
        known,
        structural=_with_copies(known.structural, plot, subject.config),
        visible=_with_copies(known.visible, plot, subject.config),
        role=role,
        variables=variables,
        node_accuracy=certify(
            subject, task, placement, generator_for(seed, "certificate"), copies=plot.copies
        ),
    )


def _with_copies(edges: Bool[Tensor, " edge"], plot: Plot, config: SubjectConfig) -> Bool[Tensor, " edge"]:
    """An edge of a copy is one of the circuit where that of its original is."""
    index = {(edge.source, edge.destination): i for i, edge in enumerate(component_edges(config).edges)}
    found = edges.clone()
    for (source, destination), i in index.items():
        original = replace(
            destination, component=plot.copies.get(destination.component, destination.component)
        )
        found[i] |= edges[index[plot.copies.get(source, source), original]]
    return found
