"""Named patterns: mechanisms that recur in many networks, as roles and the edges between them.

What a role asks of a component are numbers that no change of basis moves, computed from weights alone
(`metamodel.features`), never a function label: a pattern is found in a subject that nobody has labelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.graph import CHANNELS, CircuitGraph
from metamodel.analogy.simulation import (
    Contradiction,
    Required,
    Template,
    contradiction,
    embeddings,
    strength,
)
from metamodel.config.errors import require, require_one_of
from metamodel.features.registry import feature_names
from metamodel.subjects.config import KINDS, Kind

COLUMNS = feature_names("weights")
"""Of the features of a circuit in which patterns are looked for: those of `graph_of(subject, "weights")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a component must show to play a role: a feature of at least this level."""

    feature: str
    """One of `COLUMNS`."""
    level: float
    """Above 0."""

    def __post_init__(self):
        require_one_of(self.feature, COLUMNS, "feature")
        require(self.level > 0, self.feature, expected="a level above 0", got=self.level, do="Raise it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A part in a pattern."""

    name: str
    kinds: tuple[Kind, ...]
    """Of components that may play it."""
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A mechanism as roles and required edges."""

    name: str
    says: str
    """One sentence."""
    roles: tuple[Role, ...]
    edges: tuple[Required, ...]
    edge_level: float
    """Least strength of each required edge, as a share of the norm of the whole circuit. Only edges that help
    the answer count."""

    @property
    def template(self) -> Template:
        return Template(roles=tuple(role.name for role in self.roles), edges=self.edges)

    def at(self, edge_level: float, levels: Sequence[float]) -> "Pattern":
        """The same pattern with other levels: of edges, and of all conditions in their order."""
        given = iter(levels)
        roles = tuple(
            replace(
                role, conditions=tuple(replace(condition, level=next(given)) for condition in role.conditions)
            )
            for role in self.roles
        )
        return replace(self, edge_level=edge_level, roles=roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Whether a pattern is in a circuit, where, and what it lacks if it is not."""

    pattern: str
    present: bool
    strength: float
    """The weakest edge or condition of the best embedding, as a multiple of what is asked for; 0 for none.
    The pattern is present from 1."""
    embeddings: tuple[dict[str, str], ...]
    """Role to component, the best one first; empty if it is absent."""
    missing_role: str | None
    """The role that loses its last candidate."""
    missing_edge: str | None
    """Such as `k: previous-token head -> induction head`."""
    rest: float
    """How strongly the pattern holds without the missing edge; below 1, more than that is missing."""

    def describe(self) -> str:
        """In words."""
        if self.present:
            where = "; ".join(f"{role} {component}" for role, component in self.embeddings[0].items())
            more = len(self.embeddings) - 1
            return f"{self.pattern} is present: {where}" + (f" (and {more} more)" if more else "")
        if self.missing_edge is None:
            return f"{self.pattern} is absent: nothing can be the {self.missing_role}"
        also = "" if self.rest >= 1 else ", and more than that is missing"
        return f"{self.pattern} is absent: no edge {self.missing_edge} (no {self.missing_role} is left){also}"


def _head(name: str, *conditions: Condition) -> Role:
    return Role(name=name, kinds=("head",), conditions=conditions)


_TOKENS = Role(name="tokens", kinds=("token_embedding",))
_LOGITS = Role(name="logits", kinds=("unembedding",))

INDUCTION = Pattern(
    name="induction",
    says="A head finds, by what a previous-token head wrote there, the token after an earlier occurrence of "
    "the current one, and answers with it (Olsson et al. 2022).",
    roles=(
        _TOKENS,
        _head("previous-token head", Condition(feature="head.first_order_softmax_offset_1", level=0.13)),
        _head("induction head", Condition(feature="head.k_composed_match", level=0.019)),
        _LOGITS,
    ),
    edges=(
        Required(source="tokens", reader="previous-token head", channel="v"),
        Required(source="previous-token head", reader="induction head", channel="k"),
        Required(source="induction head", reader="logits", channel="in"),
    ),
    edge_level=0.0063,
)
MOVER_WITH_INHIBITION = Pattern(
    name="mover_with_inhibition",
    says="A head tells a mover by its query which name not to attend to, and the mover answers with another "
    "one (Wang et al. 2022, indirect object identification).",
    roles=(_TOKENS, _head("inhibition head"), _head("mover head"), _LOGITS),
    edges=(
        Required(source="inhibition head", reader="mover head", channel="q"),
        Required(source="tokens", reader="mover head", channel="v"),
        Required(source="mover head", reader="logits", channel="in"),
    ),
    edge_level=0.09,
)
COPYING = Pattern(
    name="copying",
    says="A head attends to a token and answers with the same one (Elhage et al. 2021).",
    roles=(
        _TOKENS,
        _head("copying head", Condition(feature="head.ov_token_softmax_own", level=0.9)),
        _LOGITS,
    ),
    edges=(
        Required(source="tokens", reader="copying head", channel="v"),
        Required(source="copying head", reader="logits", channel="in"),
    ),
    edge_level=0.022,
)
LOOKUP = Pattern(
    name="lookup",
    says="An MLP reads the token and answers from a table.",
    roles=(_TOKENS, Role(name="lookup MLP", kinds=("mlp",)), _LOGITS),
    edges=(
        Required(source="tokens", reader="lookup MLP", channel="in"),
        Required(source="lookup MLP", reader="logits", channel="in"),
    ),
    edge_level=0.32,
)
PATTERNS = {pattern.name: pattern for pattern in (INDUCTION, MOVER_WITH_INHIBITION, COPYING, LOOKUP)}
"""Every named pattern. Levels: chosen on training lineages by `benchmarks/patterns.py`."""


def pattern_named(name: str) -> Pattern:
    """Raises: InputError, with the nearest name, if there is none."""
    require_one_of(name, PATTERNS, "pattern")
    return PATTERNS[name]


def strengths(
    pattern: Pattern, graph: CircuitGraph
) -> tuple[Float[Tensor, "role node"], Float[Tensor, "required node node2"]]:
    """How well each component fits each role, and how strong each required edge is between any two.

    Both as multiples of what is asked for; a role without conditions is fitted infinitely well by components
    of its kind.

    Raises: InputError for a circuit without the features that the conditions look at.
    """
    asks = any(role.conditions for role in pattern.roles)
    require(
        not asks or graph.features.shape[1] == len(COLUMNS),
        "features of the circuit",
        expected=f"{len(COLUMNS)} columns, those of graph_of(subject, 'weights')",
        got=graph.features.shape[1],
        do="Build the circuit with them, not standardised.",
    )
    scores = []
    for role in pattern.roles:
        fits = torch.stack([graph.kinds == KINDS.index(kind) for kind in role.kinds]).any(0)
        score = torch.where(fits, torch.inf, 0.0)
        for condition in role.conditions:
            column = graph.features[:, COLUMNS.index(condition.feature)]
            score = torch.minimum(score, column.to(score) / condition.level)
        scores.append(score.clamp_min(0))
    edges = [graph.edges[CHANNELS.index(f"{edge.channel}+")] / pattern.edge_level for edge in pattern.edges]
    return torch.stack(scores), torch.stack(edges)


def find(pattern: Pattern, graph: CircuitGraph, *, most: int = 100) -> Found:
    """Looks for a pattern in a circuit.

    Args:
        graph: with `least_share=0`, so that no component is left out beforehand, and with the features of
            `graph_of(subject, "weights")` as they are.
        most: embeddings that are listed, at most.

    Raises: InputError for a circuit without those features.
    """
    scores, edges = strengths(pattern, graph)
    template = pattern.template
    why: Contradiction | None = contradiction(template, scores, edges)
    value, best = strength(template, scores, edges)
    listed: list[list[int]] = []
    if why is None:
        assert best is not None
        others = embeddings(template, scores >= 1, edges >= 1, most=most).tolist()
        listed = [best.tolist(), *(row for row in others if row != best.tolist())][:most]
    return Found(
        pattern=pattern.name,
        present=why is None,
        strength=value,
        embeddings=tuple(
            {role.name: graph.names[node] for role, node in zip(pattern.roles, row, strict=True)}
            for row in listed
        ),
        missing_role=None if why is None else why.role,
        missing_edge=None if why is None or why.edge is None else why.edge.name,
        rest=value if why is None else why.rest,
    )
