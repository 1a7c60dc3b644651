"""Local conditions, then global consistency: where a small typed pattern occurs in a graph, or what it lacks.

A node is a candidate for a role while, for every edge that the pattern requires there, some candidate of the
role at the other end is its successor or predecessor (dual simulation; Wu, Theodoratos, Skoutas & Lan 2020,
double simulation). Candidates are then joined into one-to-one embeddings. The first step never drops a node
of an embedding, so that nothing is lost by it.

Nodes and edges carry numbers, not yes or no: strengths as multiples of what is asked for. A pattern holds as
strongly as the weakest node or edge of its best embedding, and where that is below 1, what is missing is the
edge without which the rest holds most strongly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.analogy.graph import INPUTS
from metamodel.config.errors import InputError, require, require_one_of, suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Required:
    """An edge that a pattern requires."""

    source: str
    """Role that writes."""
    reader: str
    """Role that reads."""
    channel: str
    """Input at which it reads, one of `INPUTS`."""

    @property
    def name(self) -> str:
        """Such as `k: previous-token head -> induction head`."""
        return f"{self.channel}: {self.source} -> {self.reader}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Roles, and the edges that are required between them.

    Raises: InputError for roles that repeat, edges between unknown roles or from a role to itself, and
        unknown inputs.
    """

    roles: tuple[str, ...]
    edges: tuple[Required, ...]

    def __post_init__(self):
        require(
            len(self.roles) > 0 and len(set(self.roles)) == len(self.roles),
            "roles",
            expected="at least one, each once",
            got=", ".join(self.roles) or "none",
            do="Give every role a name of its own.",
        )
        for edge in self.edges:
            for role in (edge.source, edge.reader):
                if role not in self.roles:
                    do = f"Add the role.{suggestion(role, self.roles)}"
                    raise InputError(edge.name, expected="roles of the pattern", got=repr(role), do=do)
            require(edge.source != edge.reader, edge.name, expected="two roles", got="one", do="Split it.")
            require_one_of(edge.channel, INPUTS, edge.name)

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """For each edge the indices of its source and its reader among the roles."""
        return tuple((self.roles.index(edge.source), self.roles.index(edge.reader)) for edge in self.edges)

    def without(self, index: int) -> "Template":
        """The same roles, and all edges but one."""
        return replace(self, edges=self.edges[:index] + self.edges[index + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Why a pattern is absent."""

    role: str
    """The role that loses its last candidate."""
    edge: Required | None
    """The edge that is missing; None for a pattern without edges."""
    rest: float
    """How strongly the pattern holds without that edge; below 1, more than it is missing."""


def simulated(
    template: Template,
    allowed: Bool[Tensor, "role node"],
    edges: Bool[Tensor, "required node node2"],
) -> Bool[Tensor, "role node"]:
    """The greatest sets of candidates in which each has the successors and predecessors that it needs.

    Args:
        allowed: nodes that may play each role.
        edges: for each required edge, the edges of the graph that would do.

    Returns: candidates; if one role has none, no role of the same connected part has any.
    """
    _check(template, allowed, edges)
    left = _simulated(template, allowed.cpu().numpy(), edges.cpu().numpy())
    return torch.from_numpy(left).to(allowed.device)


def embeddings(
    template: Template,
    allowed: Bool[Tensor, "role node"],
    edges: Bool[Tensor, "required node node2"],
    *,
    most: int = 1000,
) -> Int[Tensor, "embedding role"]:
    """Every one-to-one way to give each role a node so that all required edges are there.

    Args:
        most: embeddings after which the search stops.
    """
    _check(template, allowed, edges)
    found = list(islice(_joined(template, allowed.cpu().numpy(), edges.cpu().numpy()), most))
    return torch.tensor(found, dtype=torch.long, device=allowed.device).view(-1, len(template.roles))


def strength(
    template: Template,
    scores: Float[Tensor, "role node"],
    edges: Float[Tensor, "required node node2"],
) -> tuple[float, Int[Tensor, " role"] | None]:
    """How strongly a pattern holds: the largest weakest part of an embedding, and that embedding.

    Found by bisection over the numbers that occur, each step one search for any embedding.

    Args:
        scores: how well each node fits each role; 0 where it cannot play it, infinity where nothing is asked.
        edges: strength of what the graph has of each required edge.

    Returns: 0 and None where there is no embedding at all.
    """
    _check(template, scores, edges)
    fits, strong = scores.detach().cpu().double().numpy(), edges.detach().cpu().double().numpy()
    value, nodes = _strength(template, fits, strong)
    return value, None if nodes is None else torch.tensor(nodes, device=scores.device)


def contradiction(
    template: Template,
    scores: Float[Tensor, "role node"],
    edges: Float[Tensor, "required node node2"],
) -> Contradiction | None:
    """What a pattern that does not hold with strength 1 lacks; None where it holds.

    A role that no node can play is named first, with the first edge that needs it. Otherwise, of the edges
    without which the rest holds, it is the one of which there is least where the rest is; if no such edge
    would do, more is missing, and it is the first edge, in the order of the pattern, that those before it
    cannot be joined with.
    """
    _check(template, scores, edges)
    fits, strong = scores.detach().cpu().double().numpy(), edges.detach().cpu().double().numpy()
    if _strength(template, fits, strong)[0] >= 1:
        return None
    best = fits.max(1, initial=0)
    if best.min() < 1:
        role = template.roles[int(best.argmin())]
        touching = [i for i, edge in enumerate(template.edges) if role in (edge.source, edge.reader)]
        if not touching:
            return Contradiction(role=role, edge=None, rest=0.0)
        rest = _strength(template.without(touching[0]), fits, np.delete(strong, touching[0], 0))[0]
        return Contradiction(role=role, edge=template.edges[touching[0]], rest=rest)
    rests = [
        _strength(template.without(i), fits, np.delete(strong, i, 0))[0] for i in range(len(template.edges))
    ]
    if not rests:
        return Contradiction(role=template.roles[-1], edge=None, rest=0.0)
    would_do = [i for i, rest in enumerate(rests) if rest >= 1]
    if would_do:
        missing = min(would_do, key=lambda i: (_there_is(template, fits, strong, i), -rests[i]))
    else:
        missing = next(
            i
            for i in range(len(template.edges))
            if next(
                _joined(replace(template, edges=template.edges[: i + 1]), fits >= 1, strong[: i + 1] >= 1),
                None,
            )
            is None
        )
    edge = template.edges[missing]
    return Contradiction(role=edge.source, edge=edge, rest=rests[missing])


def _there_is(template: Template, scores: np.ndarray, edges: np.ndarray, index: int) -> float:
    """The most that there is of one edge, in embeddings in which all else holds with strength 1."""
    fits = np.where(scores >= 1, np.inf, 0.0)
    strong = np.where(edges >= 1, np.inf, 0.0)
    strong[index] = edges[index]
    return _strength(template, fits, strong)[0]


def _check(template: Template, nodes: Tensor, edges: Tensor) -> None:
    expected = (len(template.roles), len(template.edges))
    assert (nodes.shape[0], edges.shape[0]) == expected, "roles or edges of another pattern"


def _simulated(template: Template, allowed: np.ndarray, edges: np.ndarray) -> np.ndarray:
    left = allowed.copy()
    while True:
        n_left = left.sum()
        for (source, reader), there in zip(template.ends, edges, strict=True):
            left[source] &= (there & left[reader]).any(1)
            left[reader] &= (there & left[source][:, None]).any(0)
        if left.sum() == n_left:
            return left


def _joined(template: Template, allowed: np.ndarray, edges: np.ndarray) -> Iterator[list[int]]:
    """Embeddings, depth first: the role with fewest candidates next, and the others narrowed at once."""
    ends = template.ends

    def extended(left: np.ndarray, placed: dict[int, int]) -> Iterator[list[int]]:
        waiting = [role for role in range(len(left)) if role not in placed]
        if not waiting:
            yield [placed[role] for role in range(len(left))]
            return
        role = min(waiting, key=lambda r: int(left[r].sum()))
        for node in np.flatnonzero(left[role]):
            narrowed = left.copy()
            narrowed[:, node] = False
            for (source, reader), there in zip(ends, edges, strict=True):
                if source == role:
                    narrowed[reader] &= there[node]
                elif reader == role:
                    narrowed[source] &= there[:, node]
            if all(narrowed[r].any() for r in waiting if r != role):
                yield from extended(narrowed, placed | {role: int(node)})

    left = _simulated(template, allowed, edges)
    if left.any(1).all():
        yield from extended(left, {})


def _strength(template: Template, scores: np.ndarray, edges: np.ndarray) -> tuple[float, list[int] | None]:
    values = np.unique(np.concatenate([scores.ravel(), edges.ravel()]))
    values = values[values > 0]
    low, high, best = 0, len(values), None
    while low < high:  # values below `low` hold, those from `high` on do not
        middle = (low + high) // 2
        level = values[middle]
        found = next(_joined(template, scores >= level, edges >= level), None)
        if found is None:
            high = middle
        else:
            low, best = middle + 1, found
    return (float(values[low - 1]) if low else 0.0), best
