"""Two circuits in, an embedding of every node of either, which knows the other circuit.

A siamese relational transformer: both circuits go through the same layers, attend to their own nodes with
scores that know the edges, then to the other's (Li et al. 2019, Graph Matching Networks; Sarlin et al. 2020).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.analogy.graph import CHANNELS, CircuitBatch
from metamodel.networks.matching.alike import N_LOCAL, local_edges
from metamodel.networks.normaliser import soft_limited
from metamodel.networks.trunk import RelationalLayer
from metamodel.subjects.config import KINDS

_FAINT = 0.003
"""Edge size from which logarithms tell sizes apart; edges of a circuit have norm 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """What is known of two circuits before they are matched."""

    first: Float[Tensor, "pair node width"]
    second: Float[Tensor, "pair theirs width"]
    features: tuple[Float[Tensor, "pair node feature"], Float[Tensor, "pair theirs feature"]]
    """Standardised, as they were seen."""


class CircuitEncoder(nn.Module):
    """Embeddings of the nodes of two circuits."""

    centre: Float[Tensor, "kind feature"]
    inverse_scale: Float[Tensor, "kind feature"]

    def __init__(
        self,
        *,
        n_features: int,
        width: int,
        n_layers: int,
        n_heads: int,
        edge_width: int,
        dropout: float = 0.0,
        feature_dropout: float = 0.0,
        column_dropout: float = 0.0,
        cross_attention: bool = True,
        centred_by_circuit: bool = False,
    ):
        super().__init__()
        self.register_buffer("centre", torch.zeros(len(KINDS), n_features))
        self.register_buffer("inverse_scale", torch.ones(len(KINDS), n_features))
        self.feature_dropout, self.column_dropout = feature_dropout, column_dropout
        self.centred_by_circuit = centred_by_circuit
        self.features = nn.Linear(n_features, width)
        self.local = nn.Linear(N_LOCAL, width)
        self.kind = nn.Embedding(len(KINDS), width)
        self.depth = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.relation = nn.Sequential(
            nn.Linear(4 * len(CHANNELS), 2 * edge_width), nn.GELU(), nn.Linear(2 * edge_width, edge_width)
        )
        self.own = nn.ModuleList(
            RelationalLayer(width, n_heads, edge_width, dropout) for _ in range(n_layers)
        )
        self.across = nn.ModuleList(CrossLayer(width, n_heads) for _ in range(n_layers * cross_attention))
        self.norm = nn.LayerNorm(width)

    def forward(self, first: CircuitBatch, second: CircuitBatch, *, blind: bool = False) -> "Encoded":
        """Args:
        blind: whether no feature of nodes is to be seen.
        """
        z = self._seen(first, second)
        if blind:
            z = (torch.zeros_like(z[0]), torch.zeros_like(z[1]))
        x, in_first = self._entered(first, z[0])
        y, in_second = self._entered(second, z[1])
        for layer, own in enumerate(self.own):
            x, y = own(x, in_first, first.mask), own(y, in_second, second.mask)
            for across in self.across[layer : layer + 1]:  # none without cross-attention
                x, y = across(x, y, second.mask), across(y, x, first.mask)
        return Encoded(first=self.norm(x), second=self.norm(y), features=z)

    def standardised(self, batch: CircuitBatch) -> Float[Tensor, "pair node feature"]:
        """Features in robust deviations from the median of training nodes of their kind, or from the mean of
        the circuit's own nodes of that kind."""
        kinds = batch.kinds.clamp_min(0)
        z = (batch.features - self.centre[kinds]) * self.inverse_scale[kinds]
        if self.centred_by_circuit:
            member = nn.functional.one_hot(kinds, len(KINDS)).to(z) * batch.mask[..., None]
            mean = (member.mT @ z) / member.sum(1).clamp_min(1)[..., None]
            z = z - member @ mean
        return soft_limited(z) * batch.mask[..., None]

    def _seen(
        self, first: CircuitBatch, second: CircuitBatch
    ) -> tuple[Float[Tensor, "pair node feature"], Float[Tensor, "pair theirs feature"]]:
        """Standardised features; training hides those of some pairs, for edges alone must do, too."""
        z, w = self.standardised(first), self.standardised(second)
        if self.training and self.feature_dropout > 0:
            shown = torch.rand(len(z), 1, 1, device=z.device) >= self.feature_dropout
            z, w = z * shown, w * shown
        if self.training and self.column_dropout > 0:
            shown = torch.rand(len(z), 1, z.shape[2], device=z.device) >= self.column_dropout
            z, w = z * shown, w * shown
        return z, w

    def _entered(
        self, batch: CircuitBatch, z: Float[Tensor, "pair node feature"]
    ) -> tuple[Float[Tensor, "pair node width"], Float[Tensor, "pair node node2 edge_width"]]:
        edges = batch.edges
        logs = (edges / _FAINT).log1p() / 4
        both = torch.cat([edges, logs], 1).permute(0, 2, 3, 1)
        relation = self.relation(torch.cat([both, both.transpose(1, 2)], -1))
        local = torch.cat(local_edges(batch), -1)
        depth = torch.stack([batch.depth, batch.depth.pow(2)], -1)
        x = self.features(z) + self.local(local) + self.kind(batch.kinds.clamp_min(0)) + self.depth(depth)
        return x * batch.mask[..., None], relation


class CrossLayer(nn.Module):
    """Pre-norm attention to the nodes of the other circuit."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        assert width % n_heads == 0
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(
        self,
        x: Float[Tensor, "pair node width"],
        y: Float[Tensor, "pair theirs width"],
        mask: Bool[Tensor, "pair theirs"],
    ) -> Float[Tensor, "pair node width"]:
        """What `x` becomes; a message stands beside the difference to it, as in graph matching networks."""
        n_pair, n_node, width = x.shape
        z = self.norm(x)
        q = self.qkv(z)[..., :width].view(n_pair, n_node, self.n_heads, -1)
        k, v = self.qkv(self.norm(y))[..., width:].view(n_pair, y.shape[1], 2, self.n_heads, -1).unbind(2)
        scores = torch.einsum("pnhd,pmhd->phnm", q, k) / q.shape[-1] ** 0.5
        attention = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        message = torch.einsum("phnm,pmhd->pnhd", attention, v).reshape(n_pair, n_node, width)
        return x + self.out(torch.cat([message, z - message], -1))
