"""Synthetic circuits of any number of components, to see how matching grows with it."""

import torch

from metamodel.analogy.graph import CHANNELS, CircuitGraph, normalised
from metamodel.subjects.config import KINDS

GROWTH_SIZES = (64, 128, 256, 512)
PER_LAYER, SOURCES = 9, 4
"""Components of a block, eight heads and an MLP; and how many each reads from, on average."""


def layered(n: int, generator: torch.Generator, *, n_features: int = 0) -> CircuitGraph:
    """Two embeddings, blocks of heads and an MLP, an unembedding; sparse lognormal edges forward."""
    inner = n - 3
    kinds = torch.full((n,), KINDS.index("head"))
    kinds[0], kinds[1], kinds[-1] = (
        KINDS.index(kind) for kind in ("token_embedding", "position_embedding", "unembedding")
    )
    block = torch.arange(inner) // PER_LAYER
    is_mlp = torch.arange(inner) % PER_LAYER == PER_LAYER - 1
    kinds[2:-1][is_mlp] = KINDS.index("mlp")
    depth = torch.zeros(n)
    depth[2:-1] = (block + 0.5 * is_mlp + 0.5) / (int(block.max()) + 1.5)
    depth[-1] = 1.0
    before = depth[:, None] < depth[None, :]
    earlier = before.sum(0).clamp_min(1)
    linked = before & (torch.rand(n, n, generator=generator) < SOURCES / earlier)
    size = torch.randn(len(CHANNELS), n, n, generator=generator).exp() * linked
    # heads read at q, k and v, all else at its one input; one channel each keeps edges sparse
    channel = torch.randint(6, (n, n), generator=generator)
    head = (kinds == KINDS.index("head"))[None, :].expand(n, n)
    channel = torch.where(head, channel, 6 + channel % 2)
    size = size * (torch.arange(len(CHANNELS))[:, None, None] == channel)
    return CircuitGraph(
        edges=normalised(size),
        features=torch.randn(n, n_features, generator=generator),
        kinds=kinds,
        depth=depth,
        names=tuple(f"node{i}" for i in range(n)),
    )
