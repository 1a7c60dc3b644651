"""Which components of a subject carry which variables of a program: the claim that a certificate tests."""

from collections.abc import Mapping

from data_gen.programs.language import POSITIONS, TOKENS, Program
from metamodel.subjects.config import Component, SubjectConfig, components

Placement = Mapping[str, tuple[Component, ...]]
"""Variable -> the components that carry it, in the order in which they compute. The first of them reads what
the step reads, each hands on to the next, and the last holds what others read."""


def carried(placement: Placement, config: SubjectConfig) -> tuple[tuple[str, ...], ...]:
    """Variables that each component carries, in the order of `components`."""
    return tuple(
        tuple(name for name, places in placement.items() if component in places)
        for component in components(config)
    )


def embeddings(program: Program) -> dict[str, tuple[Component, ...]]:
    """Placement of those inputs that a program reads."""
    kinds = {
        TOKENS: Component(kind="token_embedding"),
        POSITIONS: Component(kind="position_embedding"),
    }
    return {name: (kinds[name],) for name in program.inputs}
