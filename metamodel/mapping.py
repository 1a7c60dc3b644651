"""What `match` answers: pairs of components with reasons, what is left over, where an analogy breaks."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from metamodel.analogy.graph import CHANNELS, CircuitGraph
from metamodel.analogy.local_conditions import local_conditions
from metamodel.analogy.mapping import Match, edge_score, grown, matched_edges
from metamodel.analogy.pairs import NONE

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

TAU = 0.5
"""Analogy threshold at which maps are explained."""
REASONS = 3
"""Matched edges that an explanation names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two components that correspond."""

    first: str
    second: str
    confidence: float
    """0 to 1."""
    gain: float
    """What the pair adds to the edge-gain energy of those above it, as a share of the best possible; not
    positive where features alone speak for it."""
    why: str
    """The edges that speak for the pair, and its closest rival."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedEdge:
    """An edge of the first circuit that the map carries onto one of the second."""

    channel: str
    first: tuple[str, str]
    """Source and reader."""
    second: tuple[str, str]
    size_first: float
    """Share of its circuit's Frobenius norm; so is the next."""
    size_second: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mapping:
    """A partial one-to-one map of the components of one circuit to those of another."""

    first: CircuitGraph
    second: CircuitGraph
    match: Match
    pairs: tuple[Pair, ...]
    """In the order in which the map grows: the pair that gains most first. Anchors are left out."""
    unmatched_first: tuple[str, ...]
    """Components of the first circuit that have no counterpart."""
    unmatched_second: tuple[str, ...]
    edges: tuple[MatchedEdge, ...]
    """Largest first."""
    score: float
    """Logit that the circuit is there at all; 0 is even."""
    null_share: float
    """Share of pairs of circuits that have nothing in common, set aside in training, with a lower score. NaN
    where none were."""
    edge_share: float
    """Share of the edge-gain energy of a complete match at τ = 0.5: one minus the circuit loss of the map."""
    breakdown: int
    """How many pairs the map takes, surest first, before one whose confidence is too low."""
    broken_by: str
    """That pair, at which the analogy breaks down; empty where no component is left to be matched."""
    contradiction: str
    """The first edge, as the map grows, that one circuit has between matched components and the other has
    not; empty where every strong edge has its counterpart."""
    transplants: tuple[float, ...] | None = None
    """For each k, how far the first k pairs, transplanted together, do each other's work: 1 for all of it, 0
    for no more than random components do, NaN where no answer can tell. None where it was not asked for."""

    @classmethod
    def of(
        cls,
        first: CircuitGraph,
        second: CircuitGraph,
        match: Match,
        *,
        null_share: float,
        keep_above: float,
    ) -> "Mapping":
        """Grows the map and explains it."""
        growth = grown(first, second, match.pairs, TAU)
        lacking = local_conditions(first, second, match.pairs, tau=TAU).first
        pairs = tuple(
            Pair(
                first=first.names[i],
                second=second.names[int(match.pairs[i])],
                confidence=float(match.p[i, match.pairs[i]]),
                gain=gain,
                why=_why(first, second, match, i),
            )
            for i, gain in zip(growth.nodes, growth.gains, strict=True)
        )
        taken = set(match.pairs.tolist())
        return cls(
            first=first,
            second=second,
            match=match,
            pairs=pairs,
            unmatched_first=tuple(name for i, name in enumerate(first.names) if int(match.pairs[i]) == NONE),
            unmatched_second=tuple(name for j, name in enumerate(second.names) if j not in taken),
            edges=tuple(
                MatchedEdge(
                    channel=CHANNELS[c],
                    first=(first.names[i], first.names[k]),
                    second=(second.names[int(match.pairs[i])], second.names[int(match.pairs[k])]),
                    size_first=a,
                    size_second=b,
                )
                for c, i, k, a, b in matched_edges(first, second, match.pairs)
            ),
            score=match.score,
            null_share=null_share,
            edge_share=edge_score(first, second, match.pairs, TAU),
            breakdown=len(pairs),
            broken_by=_next(match, first, second, keep_above),
            contradiction=lacking.name if lacking is not None else "",
        )

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a component of either circuit: pairs first, then what has no counterpart.

        `transplant`, where it was asked for, is of each pair together with those above it.
        """
        import pandas

        rows: list[dict[str, Any]] = [asdict(pair) for pair in self.pairs]
        columns = ["first", "second", "confidence", "gain", "why"]
        if self.transplants is not None:
            columns.insert(4, "transplant")
            for row, together in zip(rows, self.transplants, strict=True):
                row["transplant"] = together
        rows += [{"first": name} for name in self.unmatched_first]
        rows += [{"second": name} for name in self.unmatched_second]
        return pandas.DataFrame(rows, columns=columns)

    def to_json(self) -> str:
        """Everything but the graphs, as one object."""
        held = {
            "pairs": [asdict(pair) for pair in self.pairs],
            "unmatched_first": list(self.unmatched_first),
            "unmatched_second": list(self.unmatched_second),
            "edges": [asdict(edge) for edge in self.edges],
            "score": self.score,
            "null_share": None if self.null_share != self.null_share else self.null_share,
            "edge_share": self.edge_share,
            "breakdown": self.breakdown,
            "broken_by": self.broken_by,
            "contradiction": self.contradiction,
            "transplants": self.transplants and [None if one != one else one for one in self.transplants],
        }
        return json.dumps(held, indent=1)

    def plot(self) -> "Figure":
        """Both circuits side by side; what corresponds has one colour."""
        from metamodel.mapping_picture import draw

        return draw(self)


def _next(match: Match, first: CircuitGraph, second: CircuitGraph, keep_above: float) -> str:
    """The surest pair of components that are both left over, in words; empty where there is none."""
    taken = torch.zeros(len(second), dtype=torch.bool)
    taken[match.pairs[match.pairs != NONE]] = True
    free = (first.kinds[:, None] == second.kinds) & (match.pairs == NONE)[:, None] & ~taken
    free &= ~first.is_anchor[:, None]
    if not bool(free.any()):
        return ""
    i, j = divmod(int(match.p.masked_fill(~free, -1.0).argmax()), len(second))
    sure = float(match.p[i, j])
    return f"{first.names[i]} ~ {second.names[j]} (confidence {sure:.2f}, below {keep_above:.2f})"


def _why(first: CircuitGraph, second: CircuitGraph, match: Match, i: int) -> str:
    """The strongest matched edges at a pair, and the likeliest other counterpart."""
    at = [edge for edge in matched_edges(first, second, match.pairs) if i in edge[1:3]]
    words = []
    for c, source, reader, a, b in at[:REASONS]:
        other = first.names[source] if reader == i else first.names[reader]
        verb = "reads" if reader == i else "is read by"
        words.append(f"{verb} {other} at {CHANNELS[c]} ({a:.2f} and {b:.2f})")
    if not words:
        words.append("no matched edge: by its features alone")
    rivals = match.p[i].clone()
    rivals[match.pairs[i]] = 0
    j = int(rivals.argmax())
    if float(rivals[j]) >= 0.01:
        words.append(f"rival {second.names[j]} ({float(rivals[j]):.2f})")
    return "; ".join(words)
