"""A circuit as matchers see it: typed edges and basis-free numbers of nodes, no weights and no coordinates.

Edge `[c, i, k]` is the size of the causal effect of what component i writes on what component k reads at
input c, told apart by sign: `k+` helps the answer through keys, `k-` hurts it. All of one circuit are divided
by their Frobenius norm, so that circuits of subjects with other margins can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.graph import component_edges
from metamodel.config.errors import require
from metamodel.subjects.config import KINDS, SubjectConfig, components, depth_fraction, kind_indices

CHANNELS = ("q+", "q-", "k+", "k-", "v+", "v-", "in+", "in-")
"""Input that reads, and whether the edge helps; MLPs and the unembedding read at `in`."""
INPUTS = ("q", "k", "v", "in")
"""Inputs at which a component reads: those of a head, and that of an MLP or of the unembedding."""
ANCHORS = tuple(kind for kind in KINDS if kind not in ("head", "mlp"))
"""Kinds of which a subject has one each: they match themselves, and no metric counts them."""
LEAST_SHARE = 0.02
"""Share of a circuit's edge mass that a head or MLP touches at least, to be a node of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CircuitGraph:
    """The circuit of one subject on one task."""

    edges: Float[Tensor, "channel node node2"]
    """At least 0; the first node writes, the second reads. Frobenius norm 1, or 0 where there are none."""
    features: Float[Tensor, "node feature"]
    """Numbers that no change of basis moves; there may be none."""
    kinds: Int[Tensor, " node"]
    """Index into `KINDS`."""
    depth: Float[Tensor, " node"]
    """0 for embeddings to 1 for the unembedding."""
    names: tuple[str, ...]
    """Of components, such as `L0H1`."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_anchor(self) -> Bool[Tensor, " node"]:
        """Embeddings and unembedding."""
        return is_anchor(self.kinds)

    def taken(self, nodes: Int[Tensor, " node"]) -> "CircuitGraph":
        """The nodes of these indices, in this order; edges are normalised anew."""
        return replace(
            self,
            edges=normalised(self.edges[:, nodes][:, :, nodes]),
            features=self.features[nodes],
            kinds=self.kinds[nodes],
            depth=self.depth[nodes],
            names=tuple(self.names[i] for i in nodes.tolist()),
        )


def is_anchor(kinds: Int[Tensor, "*rest node"]) -> Bool[Tensor, "*rest node"]:
    return torch.stack([kinds == KINDS.index(kind) for kind in ANCHORS]).any(0)


def normalised(edges: Float[Tensor, "*rest channel node node2"]) -> Float[Tensor, "*rest channel node node2"]:
    """Divided by the Frobenius norm over channels and nodes, where that is not 0."""
    norm = edges.pow(2).sum((-3, -2, -1), keepdim=True).sqrt()
    return edges / torch.where(norm > 0, norm, torch.ones_like(norm))


def edge_matrix(
    config: SubjectConfig, values: Float[Tensor, "*rest edge"], *, helps: int = -1
) -> Float[Tensor, "*rest channel node node2"]:
    """Signed scores of all edges in canonical order as typed, nonnegative edges between all components.

    Differentiable in `values`, and not normalised.

    Args:
        helps: sign of the score of an edge that helps: -1 for a margin under noising, mean or zero ablation.

    Raises: InputError for another number of edges.
    """
    graph = component_edges(config)
    require(
        values.shape[-1] == len(graph),
        "edge scores",
        expected=f"{len(graph)} edges of a subject of this size",
        got=values.shape[-1],
        do="Score the edges of this very subject.",
    )
    inputs = torch.tensor(
        [
            INPUTS.index(channel) if (channel := edge.destination.channel) in "qkv" else 3
            for edge in graph.edges
        ],
        device=values.device,
    )
    source = torch.tensor(graph.source_node, device=values.device)
    reader = torch.tensor(graph.destination_node, device=values.device)
    found = values.new_zeros(*values.shape[:-1], len(CHANNELS), len(graph.nodes), len(graph.nodes))
    found[..., 2 * inputs, source, reader] = (helps * values).clamp_min(0)
    found[..., 2 * inputs + 1, source, reader] = (-helps * values).clamp_min(0)
    return found


def mass(edges: Float[Tensor, "channel node node2"]) -> Float[Tensor, " node"]:
    """Share of all edge mass that each node touches; two shares of an edge, one at either end."""
    total = edges.sum()
    touched = edges.sum((0, 2)) + edges.sum((0, 1))
    return touched / total if total > 0 else touched


def circuit_graph(
    config: SubjectConfig,
    values: Float[Tensor, " edge"],
    features: Float[Tensor, "node feature"] | None = None,
    *,
    least_share: float = LEAST_SHARE,
    helps: int = -1,
) -> tuple[CircuitGraph, Int[Tensor, " kept"]]:
    """The circuit of a subject from the scores of all its edges, and which components are its nodes.

    Args:
        values: in the order of `component_edges(config)`.
        features: of all components; None for none.
        least_share: heads and MLPs that touch less of the edge mass are left out.
        helps: as in `edge_matrix`.
    """
    nodes = components(config)
    edges = edge_matrix(config, values, helps=helps)
    everything = CircuitGraph(
        edges=edges,
        features=edges.new_zeros(len(nodes), 0) if features is None else features,
        kinds=torch.tensor(kind_indices(config), device=edges.device),
        depth=torch.tensor([depth_fraction(node, config) for node in nodes], device=edges.device),
        names=tuple(node.name for node in nodes),
    )
    kept = ((mass(edges) >= least_share) | everything.is_anchor).nonzero().squeeze(1)
    return everything.taken(kept), kept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CircuitBatch:
    """Circuits padded to one number of nodes; padding has no edges, and kind -1."""

    edges: Float[Tensor, "pair channel node node2"]
    features: Float[Tensor, "pair node feature"]
    kinds: Int[Tensor, "pair node"]
    depth: Float[Tensor, "pair node"]
    mask: Bool[Tensor, "pair node"]

    def __len__(self) -> int:
        return len(self.mask)

    def begin(self, n: int) -> "CircuitBatch":
        """The first `n` circuits."""
        return CircuitBatch(**{name: getattr(self, name)[:n] for name in self.__slots__})

    def to(self, device: torch.device | str) -> "CircuitBatch":
        return CircuitBatch(**{name: getattr(self, name).to(device) for name in self.__slots__})


def stacked(graphs: Sequence[CircuitGraph], *, size: int = 0) -> CircuitBatch:
    """One batch of circuits.

    Args:
        size: nodes to which all are padded, at least; 0 for those of the largest.
    """
    n, like = max(size, *map(len, graphs)), graphs[0]
    edges = like.edges.new_zeros(len(graphs), len(CHANNELS), n, n)
    features = like.features.new_zeros(len(graphs), n, like.features.shape[1])
    kinds = like.kinds.new_full((len(graphs), n), -1)
    depth = like.depth.new_zeros(len(graphs), n)
    mask = torch.zeros(len(graphs), n, dtype=torch.bool, device=like.edges.device)
    for i, graph in enumerate(graphs):
        m = len(graph)
        edges[i, :, :m, :m] = graph.edges
        features[i, :m], kinds[i, :m], depth[i, :m], mask[i, :m] = (
            graph.features,
            graph.kinds,
            graph.depth,
            True,
        )
    return CircuitBatch(edges=edges, features=features, kinds=kinds, depth=depth, mask=mask)


def compatible(first: CircuitBatch, second: CircuitBatch) -> Bool[Tensor, "pair node theirs"]:
    """Which nodes may correspond: those of one kind."""
    same = first.kinds[:, :, None] == second.kinds[:, None, :]
    return same & first.mask[:, :, None] & second.mask[:, None, :]
