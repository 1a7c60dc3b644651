"""What a family states about itself: which algorithms solve it, as graphs of abstract variables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from metamodel.config import require

INPUTS = ("token", "position")
"""Variables that every algorithm may start from."""
OUTPUT = "output"
"""Variable that every algorithm ends in."""
CHANNELS = ("q", "k", "v")
"""How a variable enters an attention step: who asks, who is found, what is moved."""


def described(**names: str) -> Mapping[str, str]:
    """Names and what each means: how a family states its corruptions and its battery. Read-only."""
    return MappingProxyType(names)


@dataclass(frozen=True, slots=True)
class Edge:
    """`source->destination`, with the channel of `destination` that `source` enters, if it attends."""

    source: str
    destination: str
    channel: str | None


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to solve a family: a graph of variables, whatever heads and MLPs a subject computes them with.

    Raises: InputError unless the graph is acyclic, starts from `token` or `position` and ends in `output`.
    """

    name: str
    edges: tuple[str, ...]
    """Each `"source->destination"` or, into an attention step, `"source->destination.q"`, `.k` or `.v`."""

    def __post_init__(self):
        where = f"algorithm {self.name!r}"
        sources = {edge.source for edge in self.graph}
        destinations = {edge.destination for edge in self.graph}
        self._require(sources - destinations <= {*INPUTS}, f"starts in {' or '.join(INPUTS)}", sources)
        self._require(not destinations & {*INPUTS}, f"no edge into {' or '.join(INPUTS)}", destinations)
        self._require(destinations - sources == {OUTPUT}, f"one end, {OUTPUT!r}", destinations - sources)
        open_edges = set(self.graph)
        while open_edges:
            # An edge is done once nothing that is still open leads into its source.
            waiting = {edge.destination for edge in open_edges}
            done = {edge for edge in open_edges if edge.source not in waiting}
            require(bool(done), where, expected="no cycle", got=sorted(waiting), do="Remove an edge.")
            open_edges -= done

    def _require(self, ok: bool, expected: str, got: Iterable[str]) -> None:
        require(
            ok,
            f"algorithm {self.name!r}",
            expected=expected,
            got=sorted(got),
            do="Check the edges for a misspelt variable.",
        )

    @property
    def graph(self) -> tuple[Edge, ...]:
        """The edges, parsed. Raises: InputError for one that cannot be read."""
        return tuple(self._edge(text) for text in self.edges)

    def _edge(self, text: str) -> Edge:
        source, arrow, rest = text.partition("->")
        destination, dot, channel = rest.partition(".")
        require(
            bool(source and arrow and destination) and (not dot or channel in CHANNELS),
            f"algorithm {self.name!r}",
            expected="'source->destination', with .q, .k or .v into an attention step",
            got=repr(text),
            do="Write the edge in that form.",
        )
        return Edge(source, destination, channel or None)


def solved_by(**algorithms: str) -> tuple[Algorithm, ...]:
    """Algorithms by name, each with its edges in one text: `"token->match.qk match->output"`."""
    found = []
    for name, text in algorithms.items():
        edges = []
        for edge in text.split():
            ends, dot, channels = edge.partition(".")
            edges += [f"{ends}.{channel}" for channel in channels] if dot else [ends]
        found.append(Algorithm(name.replace("_", " "), tuple(edges)))
    return tuple(found)
