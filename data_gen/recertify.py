"""Measures the certificate of a stored subject again, by the weights and claims that the zoo holds."""

from collections.abc import Iterator

from data_gen.certificate import N_PAIRS, certify
from data_gen.compiled import program_for
from data_gen.population import network_seed
from data_gen.programs.language import POSITIONS, TOKENS, Program
from data_gen.programs.placement import Placement
from data_gen.programs.task import RANDOM, ProgramTask
from data_gen.seeds import generator_for
from metamodel.subjects.config import Component, SubjectConfig, components
from metamodel.triples.schema import ROLES, Triple, Truth

TOLERANCE = 0.06
"""Largest change of a component's accuracy on other pairs of inputs that may be chance: three standard errors
of the difference of two accuracies of 0.97, each on the 150 places that the rarest exchange changes."""


def certificate_problems(triple: Triple, zoo_seed: int) -> Iterator[str]:
    """A line for each component that holds less on fresh pairs of inputs than its certificate says."""
    info, truth = triple.info, triple.truth
    if truth is None:
        return
    number = int(info.subject.rsplit("-", 1)[1])
    family = RANDOM if info.family.startswith(RANDOM) else info.family
    program = program_for(family, info.variant, network_seed(zoo_seed, family, info.variant), number)
    config = triple.subject.config
    copies = copies_of(truth, config)
    placement = {
        name: tuple(node for node in places if node not in copies)
        for name, places in placement_of(program, truth, config).items()
    }
    generator = generator_for("certificate again", info.id)
    found = certify(
        triple.subject, ProgramTask(program=program), placement, generator, N_PAIRS, copies=copies
    )
    for i, node in enumerate(components(triple.subject.config)):
        stored, again = float(truth.node_accuracy[i]), float(found[i])
        if again < stored - TOLERANCE:
            yield (
                f"{info.id}: {node.name} ({ROLES[int(truth.role[i])]}) holds on {again:.3f} of fresh pairs, "
                f"its certificate says {stored:.3f}"
            )


def copies_of(truth: Truth, config: SubjectConfig) -> dict[Component, Component]:
    """The head of the circuit that each redundant or negative copy stands beside: of the same variables."""
    found = zip(components(config), truth.role.tolist(), truth.variables.tolist(), strict=True)
    held = [(node, ROLES[role], bits) for node, role, bits in found if bits and node.kind == "head"]
    originals = {(node.layer, bits): node for node, role, bits in held if role == "circuit"}
    return {
        node: originals[node.layer, bits] for node, role, bits in held if role in ("redundant", "negative")
    }


def placement_of(program: Program, truth: Truth, config: SubjectConfig) -> Placement:
    """Which components carry which variables, from the bits that are stored."""
    nodes, bits = components(config), truth.variables.tolist()
    names = (TOKENS, POSITIONS, *(step.name for step in program.steps))
    found = {
        name: tuple(node for node, held in zip(nodes, bits, strict=True) if held >> i & 1)
        for i, name in enumerate(names)
    }
    return {name: places for name, places in found.items() if places}
