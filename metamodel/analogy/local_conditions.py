"""Which edges of a partial map have no counterpart, pair by pair, and the first of them that is met.

The soft form of simulation: a component without counterpart does not erase its neighbours. Edges that lead
to it are left out of account, and only edges between components that are matched on both sides can lack one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.graph import CHANNELS, CircuitGraph
from metamodel.config.errors import require

LEAST_EDGE = 0.05
"""Strength from which an edge of a circuit of norm 1 must have a counterpart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """An edge of one circuit whose ends are matched, and which the other circuit has not."""

    channel: str
    source: str
    reader: str
    """Names in the circuit that has it."""
    there: tuple[str, str]
    """Names of the counterparts of both, in the circuit that has it not."""
    in_first: bool
    """Whether it is the first circuit that has it."""
    strength: float
    """Of the edge, in its circuit of norm 1."""
    counterpart: float
    """Of what the other circuit has in its place."""

    @property
    def name(self) -> str:
        """Such as `k+: L0H1 -> L1H0, without L0H3 -> L1H2`."""
        return f"{self.channel}: {self.source} -> {self.reader}, without {self.there[0]} -> {self.there[1]}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalConditions:
    """What holds and what does not around each pair of a map."""

    lacking: tuple[tuple[Lacking, ...], ...]
    """For each node of the first circuit the edges at its pair without counterpart, the strongest first;
    nothing for nodes without a pair."""
    kept: Float[Tensor, " node"]
    """Share of the squared edge strength at each pair, on both sides and towards matched nodes, that has a
    counterpart; NaN for nodes without a pair or without such edges."""
    order: tuple[int, ...]
    """Nodes of the first circuit in the order in which the map grows: anchors, then the greatest gain."""
    first: Lacking | None
    """The first edge without counterpart that is met while it grows."""


def local_conditions(
    first: CircuitGraph,
    second: CircuitGraph,
    pairs: Int[Tensor, " node"],
    *,
    tau: float = 0.5,
    least: float = LEAST_EDGE,
) -> LocalConditions:
    """Judges every pair of a map by the edges between it and the other pairs.

    Edges of strengths a and b are counterparts where `2ab > tau (a² + b²)`, channel by channel.

    Args:
        pairs: for each node of the first circuit its counterpart's index, or -1.
        least: edges that are weaker in their circuit need no counterpart.

    Raises: InputError for indices that are no nodes, or occur twice.
    """
    matched = (pairs >= 0).nonzero().squeeze(1)
    theirs = pairs[matched]
    ok = (
        len(pairs) == len(first) and bool((pairs < len(second)).all()) and len(theirs.unique()) == len(theirs)
    )
    require(
        ok,
        "pairs",
        expected=f"for each of {len(first)} nodes another index below {len(second)}, or -1",
        got=pairs.tolist(),
        do="Give a partial one-to-one map.",
    )
    ours_sub = first.edges[:, matched][:, :, matched]
    theirs_sub = second.edges[:, theirs][:, :, theirs]
    gains = 2 * ours_sub * theirs_sub - tau * (ours_sub.pow(2) + theirs_sub.pow(2))
    alike = gains > 0
    lacking: list[list[Lacking]] = [[] for _ in range(len(first))]
    between: dict[tuple[int, int], list[Lacking]] = {}
    for in_first, own, other in ((True, ours_sub, theirs_sub), (False, theirs_sub, ours_sub)):
        for channel, a, b in ((own >= least) & ~alike).nonzero().tolist():
            i, k = int(matched[a]), int(matched[b])
            ours, others = (first.names[i], first.names[k]), (second.names[pairs[i]], second.names[pairs[k]])
            source, reader = ours if in_first else others
            edge = Lacking(
                channel=CHANNELS[channel],
                source=source,
                reader=reader,
                there=others if in_first else ours,
                in_first=in_first,
                strength=float(own[channel, a, b]),
                counterpart=float(other[channel, a, b]),
            )
            for node in {i, k}:
                lacking[node].append(edge)
            between.setdefault((min(i, k), max(i, k)), []).append(edge)
    order = _grown(gains.sum(0), first.is_anchor[matched])
    nodes = [int(matched[i]) for i in order]
    met: Lacking | None = None
    for at, node in enumerate(nodes):
        new = [edge for before in nodes[: at + 1] for edge in between.get(_sorted(before, node), [])]
        if new:
            met = max(new, key=lambda edge: edge.strength)
            break
    mass = ours_sub.pow(2) + theirs_sub.pow(2)
    held, whole = (x.sum((0, 1)) + x.sum((0, 2)) for x in (mass * alike, mass))
    kept = first.edges.new_full((len(first),), torch.nan)
    kept[matched] = torch.where(whole > 0, held / whole, torch.full_like(whole, torch.nan))
    return LocalConditions(
        lacking=tuple(tuple(sorted(edges, key=lambda edge: -edge.strength)) for edges in lacking),
        kept=kept,
        order=tuple(nodes),
        first=met,
    )


def _sorted(i: int, k: int) -> tuple[int, int]:
    return (min(i, k), max(i, k))


def _grown(gain: Float[Tensor, "node node2"], anchors: Tensor) -> list[int]:
    """Indices of pairs: anchors first, then at each step the pair that gains most with those before it."""
    both = gain + gain.mT
    order = anchors.nonzero().squeeze(1).tolist()
    waiting = [i for i in range(len(both)) if not bool(anchors[i])]
    while waiting:
        worth = [float(both[i, order].sum() + gain[i, i]) for i in waiting]
        order.append(waiting.pop(max(range(len(worth)), key=worth.__getitem__)))
    return order
