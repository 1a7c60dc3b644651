"""How alike two nodes are by what can be said of each without a map.

Distances of features, of edges to anchors (which are matched before anything else is known), of edge mass by
channel, and of depth; each beside how much it exceeds the least of its row and of its column, for the nearest
node counts only by how much nearer it is than the next. To match by any of these alone is a special case.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.analogy.graph import CHANNELS, CircuitBatch, is_anchor
from metamodel.subjects.config import KINDS

BENT = 0.25
"""Power of edges before they are compared: sizes of circuits' edges span several orders of magnitude."""
N_DISTANCES = 5
_FAR = 4.0
"""Distances beyond which all are as far."""


class Alike(nn.Module):
    """Scores of pairs of nodes."""

    def __init__(self, n_features: int, hidden: int = 32):
        super().__init__()
        self.feature_weight = nn.Parameter(torch.zeros(n_features))
        self.mix = nn.Sequential(nn.Linear(3 * N_DISTANCES + 1, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(
        self,
        first: CircuitBatch,
        second: CircuitBatch,
        features: tuple[Float[Tensor, "pair node feature"], Float[Tensor, "pair theirs feature"]],
        similarity: Float[Tensor, "pair node theirs"],
        allowed: Bool[Tensor, "pair node theirs"],
    ) -> Float[Tensor, "pair node theirs"]:
        """Args:
        features: standardised.
        similarity: what an encoder makes of both.
        """
        weight = torch.nn.functional.softplus(self.feature_weight) / max(features[0].shape[2], 1)
        to_anchors, sums = tuple(zip(local_edges(first), local_edges(second), strict=True))
        distances = [
            _distance(*features),
            _distance(features[0] * weight.sqrt(), features[1] * weight.sqrt(), mean=False),
            _distance(*to_anchors),
            _distance(*sums),
            (first.depth[:, :, None] - second.depth[:, None]).abs(),
        ]
        told = [similarity / 8]
        for distance in distances:
            near = distance.clamp_max(_FAR)
            among = near.masked_fill(~allowed, _FAR)
            told += [near, near - among.amin(2, keepdim=True), near - among.amin(1, keepdim=True)]
        return self.mix(torch.stack(told, -1)).squeeze(-1)


def local_edges(
    batch: CircuitBatch,
) -> tuple[Float[Tensor, "pair node encoded"], Float[Tensor, "pair node out"]]:
    """Of each node, bent: edges from and to each anchor by channel, and edge mass in and out by channel."""
    edges = batch.edges
    inputs, outputs = [], []
    for kind in range(len(KINDS)):
        at = ((batch.kinds == kind) & is_anchor(batch.kinds)).to(edges)
        inputs.append(torch.einsum("pcnm,pn->pmc", edges, at))
        outputs.append(torch.einsum("pcnm,pm->pnc", edges, at))
    sums = torch.cat([edges.sum(2), edges.sum(3)], 1).transpose(1, 2)
    return torch.cat([*inputs, *outputs], -1).clamp_min(0) ** BENT, sums.clamp_min(0) ** BENT


def _distance(
    x: Float[Tensor, "pair node feature"], y: Float[Tensor, "pair theirs feature"], *, mean: bool = True
) -> Float[Tensor, "pair node theirs"]:
    """Root of the mean, or of the sum, of squared differences; exactly 0 between equal nodes."""
    found = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return found / max(x.shape[-1], 1) ** 0.5 if mean else found


N_LOCAL = 2 * len(KINDS) * len(CHANNELS) + 2 * len(CHANNELS)
"""Numbers that `local_edges` gives in all."""
