"""The graph a circuit lives on: which source can feed which destination, and the index of its edges."""

from dataclasses import dataclass
from functools import lru_cache

from metamodel.subjects.config import Component, SubjectConfig, components


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An input that reads the residual stream: q, k or v of a head, an MLP, or the logits."""

    component: Component
    """The head, MLP or unembedding that reads."""
    channel: str
    """`q`, `k`, `v` for a head; `in` for an MLP; `logits` for the unembedding."""

    @property
    def site(self) -> str:
        """Name under which `forward` takes an addend for this destination."""
        match self.channel:
            case "q" | "k" | "v":
                return f"blocks.{self.component.layer}.hook_{self.channel}_input"
            case "in":
                return f"blocks.{self.component.layer}.hook_mlp_in"
        return "hook_unembed_in"

    @property
    def name(self) -> str:
        return (
            f"{self.component.name}.{self.channel}" if self.component.kind == "head" else self.component.name
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A source, and a destination that reads what it writes."""

    source: Component
    destination: Destination

    @property
    def name(self) -> str:
        return f"{self.source.name}->{self.destination.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentEdges:
    """All edges of subjects of one shape, in canonical order: by destination, then by source."""

    config: SubjectConfig
    nodes: tuple[Component, ...]
    sources: tuple[Component, ...]
    destinations: tuple[Destination, ...]
    edges: tuple[Edge, ...]
    source_node: tuple[int, ...]
    """For each edge, index of its source among `nodes`."""
    destination_node: tuple[int, ...]
    """For each edge, index of its destination's component among `nodes`."""

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def source_stages(self) -> tuple[int, ...]:
        """When each source has been computed, in ascending order; see `stage_of`."""
        return tuple(map(stage_of, self.sources))


def stage_of(component: Component) -> int:
    """When it has been computed: 0 for embeddings, 2l + 1 behind the attention of block l, 2l + 2 its MLP."""
    match component.kind:
        case "head":
            return 2 * component.layer + 1
        case "mlp":
            return 2 * component.layer + 2
    return 0


def reading_stage(destination: Destination, config: SubjectConfig) -> int:
    """When a destination reads all that has been computed until then: 2l attention l, 2l + 1 its MLP."""
    if destination.channel == "logits":
        return 2 * config.n_layers
    return 2 * destination.component.layer + (destination.channel == "in")


@lru_cache(maxsize=64)
def component_edges(config: SubjectConfig) -> ComponentEdges:
    """Sources x destinations of a subject. 2 layers x 4 heads with MLP have 137 edges, without it 106."""
    nodes = components(config)
    sources = nodes[:-1]
    found: list[Destination] = []
    for layer in range(config.n_layers):
        heads = [n for n in nodes if n.kind == "head" and n.layer == layer]
        found += [Destination(component=head, channel=channel) for channel in "qkv" for head in heads]
        found += [
            Destination(component=n, channel="in") for n in nodes if n.kind == "mlp" and n.layer == layer
        ]
    found.append(Destination(component=nodes[-1], channel="logits"))
    edges = tuple(
        Edge(source=source, destination=destination)
        for destination in found
        for source in sources
        if stage_of(source) <= reading_stage(destination, config)
    )
    index = {node: i for i, node in enumerate(nodes)}
    return ComponentEdges(
        config=config,
        nodes=nodes,
        sources=sources,
        destinations=tuple(found),
        edges=edges,
        source_node=tuple(index[edge.source] for edge in edges),
        destination_node=tuple(index[edge.destination.component] for edge in edges),
    )
