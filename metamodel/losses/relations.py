"""How the nodes of one circuit relate to each other: what a Gromov-Wasserstein cost compares.

Edges are left to the energy, which is `2(1 − τ)⟨A, P B Pᵀ⟩ − τ GW(P)` of them already.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.graph import CircuitBatch


def node_relations(
    batch: CircuitBatch, features: Float[Tensor, "pair node feature"]
) -> Float[Tensor, "pair channel node node2"]:
    """Distances of features, root of the mean square, and signed differences of depth.

    Args:
        features: standardised; there may be none. Padding counts as any node: no map gives it mass.
    """
    apart = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / max(features.shape[2], 1) ** 0.5
    return torch.stack([apart, batch.depth[:, :, None] - batch.depth[:, None]], 1)
