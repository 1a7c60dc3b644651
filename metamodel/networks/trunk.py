"""A relational transformer over components: attention whose scores and messages know how two nodes relate.

After Diao & Loynd 2023, "Relational Attention", and Kofinas et al. 2024, "Graph Neural Networks for Learning
Equivariant Representations of Neural Networks". Nodes have no order: depth fraction is the only position, so
permuting nodes permutes outputs.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.features.batch import SeenBatch
from metamodel.networks.exchangeable import Encoded
from metamodel.subjects.config import KINDS


class RelationalLayer(nn.Module):
    """Pre-norm attention over all nodes, both directions of every edge at once, then an MLP."""

    def __init__(self, width: int, n_heads: int, edge_width: int, dropout: float):
        super().__init__()
        assert width % n_heads == 0
        self.n_heads = n_heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(edge_width, n_heads)
        self.message = nn.Linear(edge_width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "subject node width"],
        relation: Float[Tensor, "subject node node edge_width"],
        mask: Bool[Tensor, "subject node"],
    ) -> Float[Tensor, "subject node width"]:
        n_subject, n_node, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n_subject, n_node, 3, self.n_heads, -1).unbind(2)
        scores = torch.einsum("snhd,smhd->shnm", q, k) / q.shape[-1] ** 0.5
        scores = scores + self.bias(relation).permute(0, 3, 1, 2)
        attention = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        related = torch.einsum("shnm,snme->snhe", attention, relation)
        own = self.message.weight.view(self.n_heads, -1, relation.shape[-1])
        message = torch.einsum("shnm,smhd->snhd", attention, v) + torch.einsum("snhe,hde->snhd", related, own)
        x = x + self.dropout(self.out(message.reshape(n_subject, n_node, width)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Trunk(nn.Module):
    """From normalised features to an embedding of every node and of every pair."""

    def __init__(
        self,
        *,
        n_features: int,
        n_channels: int,
        width: int,
        n_layers: int,
        n_heads: int,
        edge_width: int,
        n_encoded: int,
        n_pair: int,
        dropout: float,
        input_dropout: float,
    ):
        super().__init__()
        # Columns belong to one kind each and are zero elsewhere: one matrix is a projection for each kind.
        self.project = nn.Linear(2 * n_features, width)
        self.encoded = nn.Linear(n_encoded, width) if n_encoded else None
        self.kind = nn.Embedding(len(KINDS), width)
        self.depth = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.relation = nn.Sequential(
            nn.Linear(2 * (n_channels + n_pair), 2 * edge_width),
            nn.GELU(),
            nn.Linear(2 * edge_width, edge_width),
        )
        self.input_dropout = nn.Dropout(input_dropout)
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.layers = nn.ModuleList(
            RelationalLayer(width, n_heads, edge_width, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        features: Float[Tensor, "subject node feature"],
        channels: Float[Tensor, "subject node node channel"],
        encoded: Encoded | None,
        batch: SeenBatch,
    ) -> tuple[Float[Tensor, "subject node width"], Float[Tensor, "subject node node edge_width"]]:
        """Args:
        features: normalised, zero where a column does not belong to the node's kind.
        channels: normalised, zero where there is no edge.
        encoded: what an encoder makes of circuits, if there is one.
        """
        relative = features - _mean_of_kind(features, batch.kinds, batch.node_mask)
        x = self.project(self.input_dropout(torch.cat([features, relative], dim=-1)))
        if encoded is not None:
            assert self.encoded is not None
            x = x + self.encoded(encoded[0])
            channels = torch.cat([channels, encoded[1]], dim=-1)
        depth = torch.stack([batch.depth, batch.depth.pow(2)], dim=-1)
        x = self.enter(x + self.kind(batch.kinds) + self.depth(depth))
        relation = self.relation(torch.cat([channels, channels.transpose(1, 2)], dim=-1))
        for layer in self.layers:
            x = layer(x, relation, batch.node_mask)
        return self.norm(x), relation


def _mean_of_kind(
    features: Float[Tensor, "subject node feature"],
    kinds: Int[Tensor, "subject node"],
    mask: Bool[Tensor, "subject node"],
) -> Float[Tensor, "subject node feature"]:
    """For each node the mean over its subject's nodes of the same kind."""
    member = nn.functional.one_hot(kinds, len(KINDS)).to(features) * mask[..., None]
    mean = torch.einsum("snk,snf->skf", member, features) / member.sum(1).clamp_min(1.0)[..., None]
    return torch.einsum("snk,skf->snf", member, mean)
