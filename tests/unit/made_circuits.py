"""Random circuits with a known counterpart, for the losses that compare circuits."""

import torch

from metamodel.analogy.graph import ANCHORS, CHANNELS
from metamodel.subjects.config import KINDS

HEAD = KINDS.index("head")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def circuit(seed: int, n: int = 7, *, density: float = 0.4) -> torch.Tensor:
    """Edges `[channel, node, node]` of a random acyclic circuit, of sizes around 1."""
    g = generator(seed)
    sizes = (0.7 * torch.randn(len(CHANNELS), n, n, generator=g)).exp()
    there = torch.rand(len(CHANNELS), n, n, generator=g) < density / 2
    return (sizes * there).triu(1)


def noisy(edges: torch.Tensor, seed: int, noise: float) -> torch.Tensor:
    """Each edge times a lognormal number."""
    return edges * (noise * torch.randn(edges.shape, generator=generator(seed))).exp()


def permuted(edges: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same circuit with its nodes in another order, and where each node went."""
    order = torch.randperm(edges.shape[-1], generator=generator(seed))
    return edges[:, order][:, :, order], order.argsort()


def without(edges: torch.Tensor, n_dropped: int) -> torch.Tensor:
    """The circuit without the edges of its first nodes."""
    kept = torch.ones(edges.shape[-1])
    kept[:n_dropped] = 0
    return edges * kept[:, None] * kept


def anchored(n: int) -> torch.Tensor:
    """Kinds of a circuit whose first two and last nodes are embeddings and the unembedding."""
    kinds = torch.full((n,), HEAD)
    kinds[0], kinds[1], kinds[-1] = (KINDS.index(kind) for kind in ANCHORS)
    return kinds
