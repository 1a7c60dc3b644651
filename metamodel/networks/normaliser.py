"""What a reader does to its inputs first: centre, scale, squash, and hide what was not seen."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.features.batch import SeenBatch
from metamodel.subjects.config import KINDS

SOFT_LIMIT = 3.0
"""Normalised features are squashed smoothly beyond this many deviations, so that no outlier rules."""


class Normaliser(nn.Module):
    """Centre and scale of every column, for the kind it belongs to, and of every edge channel."""

    centre: Float[Tensor, "kind feature"]
    scale: Float[Tensor, "kind feature"]
    used: Bool[Tensor, "kind feature"]
    of_activations: Bool[Tensor, " feature"]
    of_prompts: Bool[Tensor, " feature"]
    edge_centre: Float[Tensor, " channel"]
    edge_scale: Float[Tensor, " channel"]
    edge_of_activations: Bool[Tensor, " channel"]
    edge_of_prompts: Bool[Tensor, " channel"]

    def __init__(self, n_features: int, n_channels: int):
        super().__init__()
        shape = (len(KINDS), n_features)
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("used", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("edge_centre", torch.zeros(n_channels))
        self.register_buffer("edge_scale", torch.ones(n_channels))
        for where, n in (("", n_features), ("edge_", n_channels)):
            for what in ("of_activations", "of_prompts"):
                self.register_buffer(f"{where}{what}", torch.zeros(n, dtype=torch.bool))

    def deviations(self, batch: SeenBatch) -> Float[Tensor, "subject node feature"]:
        """Features in robust deviations from the training median; zero where a column does not apply."""
        z = (batch.nodes - self.centre[batch.kinds]) / self.scale[batch.kinds]
        z = z * self.used[batch.kinds]
        z = without(z, self.of_prompts, ~batch.prompts_seen)
        z = without(z, self.of_activations, ~batch.activations_seen)
        return z * batch.node_mask[..., None]

    def relations(self, batch: SeenBatch) -> Float[Tensor, "subject node node channel"]:
        """Edge channels, centred and scaled where there is an edge."""
        exists = batch.edges[..., :1]
        z = soft_limited((batch.edges - self.edge_centre) / self.edge_scale) * exists
        z = without(z, self.edge_of_prompts, ~batch.prompts_seen)
        z = without(z, self.edge_of_activations, ~batch.activations_seen)
        return torch.cat([exists, z[..., 1:]], dim=-1)


def without(z: Tensor, columns: Bool[Tensor, " column"], lost: Bool[Tensor, " subject"]) -> Tensor:
    """`z [subject, ..., column]` with some columns zero for some subjects."""
    return z.masked_fill(lost.view(-1, *([1] * (z.ndim - 1))) & columns, 0.0)


def soft_limited(z: Tensor) -> Tensor:
    """Identity near zero, `SOFT_LIMIT` far out."""
    return z / (1 + (z / SOFT_LIMIT).pow(2)).sqrt()
