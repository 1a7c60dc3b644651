"""Circuits from no subject: typed, layered, sparse graphs, as many as training wants."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.analogy.graph import CHANNELS, CircuitGraph, normalised
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.pairs import MatchedPair
from metamodel.analogy.planted import planted_pair
from metamodel.analogy.strangers import deck_of
from metamodel.subjects.config import KINDS, SubjectConfig, components, depth_fraction, kind_indices

N_DONORS = 2
"""Synthetic circuits from which a pair's strangers are taken."""
_FEWEST, _MOST = 15, 40
"""Components of a subject."""
_FEWEST_ACTIVE, _MOST_ACTIVE = 7, 14
_BACKGROUND = 0.02
"""Size of edges of components that do nothing, relative to those that do."""
_SPREAD = 0.7
"""Standard deviation of the logarithm of edges."""
_HELPS = 0.75
"""Share of edges that help."""


def synthetic_pair(generator: torch.Generator, level: PlantedLevel, *, n_features: int = 0) -> MatchedPair:
    """A synthetic circuit and a changed copy of it, as `planted_pair` makes them of real ones.

    Args:
        n_features: columns of features, standard normal and the same in a node and its counterpart, up to
            the noise of the level.
    """
    graph = synthetic_graph(generator, n_features=n_features)
    donors = [synthetic_graph(generator, n_features=n_features) for _ in range(N_DONORS)]
    spread = torch.ones(len(KINDS), n_features)
    pair = planted_pair(graph, deck_of(donors, generator), generator, level, spread=spread)
    return replace(pair, kind="synthetic")


def synthetic_graph(generator: torch.Generator, *, n_features: int = 0) -> CircuitGraph:
    """A subject of 15 to 40 components, of which 7 to 14 do something: each of those reads from one to three
    that come before it and, unless it is the last, is read by one that comes after it.

    All components are nodes; those that do nothing have weak edges, and a circuit loses most of them where
    its least share is applied.
    """
    config = _shape(generator)
    nodes = components(config)
    kinds = torch.tensor(kind_indices(config))
    depth = torch.tensor([depth_fraction(node, config) for node in nodes])
    inner = [i for i, node in enumerate(nodes) if node.kind in ("head", "mlp")]
    n_active = _between(generator, _FEWEST_ACTIVE, min(_MOST_ACTIVE, len(inner)))
    chosen = torch.tensor(inner)[torch.randperm(len(inner), generator=generator)[:n_active]].sort().values
    edges = _BACKGROUND * _drawn(generator, kinds, _before(depth), share=0.3)
    return CircuitGraph(
        edges=normalised(edges + _wired(generator, kinds, depth, chosen)),
        features=torch.randn(len(nodes), n_features, generator=generator),
        kinds=kinds,
        depth=depth,
        names=tuple(node.name for node in nodes),
    )


def _shape(generator: torch.Generator) -> SubjectConfig:
    while True:
        n_layers, n_heads = _between(generator, 2, 6), _between(generator, 2, 8)
        d_mlp = 4 * _between(generator, 0, 1)
        n = 3 + n_layers * (n_heads + (d_mlp > 0))
        if _FEWEST <= n <= _MOST:
            return SubjectConfig(
                n_layers=n_layers, n_heads=n_heads, d_model=8, d_head=4, d_mlp=d_mlp, d_vocab=8, n_ctx=8
            )


def _wired(
    generator: torch.Generator,
    kinds: Int[Tensor, " node"],
    depth: Float[Tensor, " node"],
    chosen: Int[Tensor, " kept"],
) -> Float[Tensor, "channel node node2"]:
    """Edges among the chosen nodes, embeddings and unembedding."""
    last = len(kinds) - 1
    linked = torch.zeros(len(kinds), len(kinds), dtype=torch.bool)
    for node in chosen.tolist():
        sources = torch.tensor([i for i in (0, 1, *chosen.tolist()) if depth[i] < depth[node]])
        order = torch.randperm(len(sources), generator=generator)[: _between(generator, 1, 3)]
        linked[sources[order], node] = True
    for node in chosen.tolist():
        if not bool(linked[node].any()):
            readers = torch.tensor([i for i in (*chosen.tolist(), last) if depth[i] > depth[node]])
            linked[node, readers[int(torch.randint(len(readers), (), generator=generator))]] = True
    linked[chosen[-1], last] = True
    return _drawn(generator, kinds, linked, share=1.0)


def _drawn(
    generator: torch.Generator,
    kinds: Int[Tensor, " node"],
    linked: Bool[Tensor, "node node2"],
    *,
    share: float,
) -> Float[Tensor, "channel node node2"]:
    """Lognormal edges between some of the linked nodes; heads read at one or two of q, k and v."""
    n, n_inputs = len(kinds), len(CHANNELS) // 2
    reads = torch.rand(n_inputs, n, n, generator=generator)
    head = (kinds == KINDS.index("head"))[None, None, :].expand(1, n, n)
    first = reads[:3] == reads[:3].amax(0)
    heads = (first | (reads[:3] > 0.8)) & head
    present = torch.cat([heads, ~head]) & linked
    present &= torch.rand(n, n, generator=generator) < share
    size = (_SPREAD * torch.randn(n_inputs, n, n, generator=generator)).exp() * present
    helps = torch.rand(n_inputs, n, n, generator=generator) < _HELPS
    return torch.stack([size * helps, size * ~helps], dim=1).flatten(0, 1)


def _before(depth: Float[Tensor, " node"]) -> Bool[Tensor, "node node2"]:
    return depth[:, None] < depth


def _between(generator: torch.Generator, least: int, most: int) -> int:
    return int(torch.randint(least, most + 1, (), generator=generator))
