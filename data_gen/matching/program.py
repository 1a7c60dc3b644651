"""Truth between subjects that run one program: components that carry the same variables correspond."""

from collections import Counter

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.analogy.pairs import NONE
from metamodel.subjects.config import components
from metamodel.triples.schema import ROLES, Triple

Claim = tuple[str, bool, int]
"""Kind, whether the sign is turned, and variables of a component; 0 for embeddings and unembedding."""


def claims(triple: Triple) -> list[Claim | None]:
    """For each component what it carries; None for heads and MLPs that carry nothing.

    Copies that share the work of a component, or that stand by, carry the same: they make one orbit.
    """
    assert triple.truth is not None
    found: list[Claim | None] = []
    rows = zip(
        components(triple.subject.config),
        triple.truth.role.tolist(),
        triple.truth.variables.tolist(),
        strict=True,
    )
    for node, role, variables in rows:
        inner = node.kind in ("head", "mlp")
        turned = ROLES[role] == "negative"
        found.append((node.kind, turned, variables) if variables or not inner else None)
        if not inner:
            found[-1] = (node.kind, False, 0)
    return found


def counterpart_by_variables(first: list[Claim | None], second: list[Claim | None]) -> Int[Tensor, " node"]:
    """For each component of the first subject one of the second with the same claim, the n-th for the n-th;
    NONE for those that are too many, which their orbit still lets count."""
    met: Counter[Claim] = Counter()
    found = []
    for claim in first:
        places = [i for i, other in enumerate(second) if other == claim] if claim is not None else []
        number = met[claim] if claim is not None else 0
        found.append(places[number] if number < len(places) else NONE)
        if claim is not None:
            met[claim] += 1
    return torch.tensor(found)


def orbit_by_claims(found: list[Claim | None], kept: Int[Tensor, " kept"]) -> Int[Tensor, " kept"]:
    """For each node of a circuit the first that carries the same."""
    first: dict[Claim, int] = {}
    orbit = []
    for i, component in enumerate(kept.tolist()):
        claim = found[component]
        orbit.append(i if claim is None else first.setdefault(claim, i))
    return torch.tensor(orbit, dtype=torch.int64)
