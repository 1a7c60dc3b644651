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
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from data_gen.certificate import N_PAIRS, exactness, known_truth, rejection
from data_gen.compiler.make import LEARNING_RATE, LEAST_EXACT, RATES, fine_tuned
from data_gen.config import RecipeConfig
from data_gen.made import Made, MadeShard
from data_gen.planted_weights import Arrangement, arrange, compose
from data_gen.population import ShardSpec
from data_gen.programs.inputs import all_inputs
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask, make_program_task
from data_gen.seeds import derived_seed, generator_for
from data_gen.stacked_training import train_stack
from data_gen.tasks import make_task
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.subjects.config import Component, SubjectConfig, components
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject, initial_weights, unstack
from metamodel.triples.schema import ROLES, Truth

CONDITION = 3.0
"""Largest condition number of the change of any basis."""
HOST_FAMILIES = ("facts", "brackets", "sorting")
"""What hosts have learnt, in turn; every other host is random."""


def make_planted(spec: ShardSpec, report: Callable[[int, int], None] | None = None) -> MadeShard:
    """Plants the program of a shard's family into hosts, one for each subject.

    Args:
        report: called with (subjects done, subjects in all).
    """
    accepted, rejected = [], {}
    for i, subject in enumerate(spec.subjects):
        task = make_program_task(spec.family, spec.variant, subject.seed)
        try:
            made, truth, why = plant(
                task,
                spec.subject_config,
                subject.seed,
                host_family=host_family(spec.first + i),
                recipe=spec.recipe,
            )
        except InputError as error:
            rejected[subject.id] = str(error)
            continue
        if why:
            rejected[subject.id] = why
        else:
            network = made.named(subject.id)
            accepted.append(
                Made(subject=network, task=task, seed=subject.seed, lineage=subject.lineage, truth=truth)
            )
        if report is not None:
            report(i + 1, len(spec.subjects))
    return MadeShard(accepted=tuple(accepted), rejected=rejected)


def host_family(number: int) -> str | None:
    """What the host of the subject of this number in its cell has learnt; None for a random host."""
    return HOST_FAMILIES[number // 2 % len(HOST_FAMILIES)] if number % 2 else None


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
    arrangement = arrange(task.program, size, draw)
    host = _host(arrangement.host, host_family, recipe, seed)
    element = gauge_element(compose(size, arrangement, host, draw), draw, condition=CONDITION)
    nodes = components(size)
    new = {nodes[int(old)]: nodes[i] for i, old in enumerate(element.node_order)}
    inputs = all_inputs(task.program, generator_for("exact", task.program.name))
    tried: list[tuple[Subject, Truth, str]] = []
    for rate in RATES:
        tune = generator_for(seed, "fine-tune")
        subject = fine_tuned(element.subject, task, tune, steps=steps, learning_rate=rate * LEARNING_RATE)
        truth = _truth(subject, task, arrangement, new, seed)
        exact, why = exactness(subject, task, inputs), rejection(truth, subject)
        if exact < LEAST_EXACT:
            why = f"answers as the program in {exact:.3f} of places, below {LEAST_EXACT}"
        tried.append((subject, truth, why))
        if not why:
            break
    return tried[-1]


def _host(config: SubjectConfig, family: str | None, recipe: RecipeConfig, seed: int) -> dict[str, Tensor]:
    """Weights of a host: as initialised, or after training on its family, however well it learnt that."""
    weights = initial_weights(config, [generator_for(seed, "host")])
    if family is not None:
        task = make_task(family, "base", derived_seed(seed, "host"))
        weights = train_stack(config, recipe, weights, [task], [generator_for(seed, "host data")]).weights
    return unstack(weights, 0)


def _truth(
    subject: Subject,
    task: ProgramTask,
    arrangement: Arrangement,
    new: Mapping[Component, Component],
    seed: int,
) -> Truth:
    """The program's truth, with copies beside their originals."""
    draft, placed = arrangement.draft, arrangement.renamed(new)
    placement: Placement = {name: tuple(new[c] for c in nodes) for name, nodes in draft.placement.items()}
    known = known_truth(
        subject,
        task,
        placement,
        prompts=task.prompts(generator_for("truth", task.program.name), N_PAIRS),
        generator=generator_for(seed, "certificate"),
        constants=[replace(c, component=new[c.component]) for c in draft.constants],
        copies=placed.copies,
        others="host",
    )
    role, variables = known.role.clone(), known.variables.clone()
    nodes = components(subject.config)
    for copy, original in placed.copies.items():
        role[nodes.index(copy)] = ROLES.index("negative" if copy in placed.negative else "redundant")
        variables[nodes.index(copy)] = variables[nodes.index(original)]
    for decoy in placed.decoys:
        role[nodes.index(decoy)] = ROLES.index("decoy")
    return replace(
        known,
        structural=_with_copies(known.structural, placed, subject.config),
        visible=known.visible & ~_halved(placed, subject.config),
        role=role,
        variables=variables,
    )


def _with_copies(
    edges: Bool[Tensor, " edge"], placed: Arrangement, config: SubjectConfig
) -> Bool[Tensor, " edge"]:
    """An edge of a copy is one of the circuit where that of its original is."""
    index = {(edge.source, edge.destination): i for i, edge in enumerate(component_edges(config).edges)}
    found = edges.clone()
    for (source, destination), i in index.items():
        reader = placed.copies.get(destination.component, destination.component)
        original = replace(destination, component=reader)
        found[i] |= edges[index[placed.copies.get(source, source), original]]
    return found


def _halved(placed: Arrangement, config: SubjectConfig) -> Bool[Tensor, " edge"]:
    """Edges of heads that write only half of what is needed: exchanged alone, they turn no answer."""
    half = {of for copy, of in placed.copies.items() if copy not in placed.negative}
    return torch.tensor(
        [edge.source in half or edge.destination.component in half for edge in component_edges(config).edges]
    )
