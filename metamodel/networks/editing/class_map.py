"""Which answer becomes which: a map from old to new answers, inferred from a few pairs and the answers' Gram.

If a rule carries answers to answers and the subject has learnt their order, it is an isometry of the answers'
columns in the unembedding: G ≈ M G Mᵀ. Equivariant to the order of answers (Maron et al. 2019: products of
matrices beside row and column means), it begins at the match of profiles, sum_i (G[a, y_i] - G[b, y'_i])^2.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

N_FEATURES = 7


def profile_cost(
    gram: Float[Tensor, "subject answer answer2"], seen: Float[Tensor, "subject answer answer2"]
) -> Float[Tensor, "subject answer answer2"]:
    """`cost[a, b]`: mean over the pairs (y, y') of (G[a, y] - G[b, y'])^2.

    Args:
        seen: `seen[y, y']` counts the pairs whose old answer is y and whose wanted one is y'.
    """
    n = seen.sum((1, 2))[:, None, None].clamp_min(TINY)
    old, new = seen.sum(2), seen.sum(1)
    first = torch.einsum("saj,sj->sa", gram.square(), old)[:, :, None]
    second = torch.einsum("sbj,sj->sb", gram.square(), new)[:, None]
    cross = gram @ seen @ gram.mT
    return (first + second - 2 * cross).clamp_min(0) / n


TINY = 1e-6


class _Layer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(6 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "subject answer answer2 width"],
        mask: Float[Tensor, "subject answer answer2 1"],
    ) -> Float[Tensor, "subject answer answer2 width"]:
        normed = self.norm(x) * mask
        n = mask[:, :, :1].sum(1, keepdim=True).clamp_min(1)
        product = torch.einsum("sabw,sbcw->sacw", self.left(normed) * mask, self.right(normed) * mask)
        rows, columns = normed.sum(2, keepdim=True) / n, normed.sum(1, keepdim=True) / n
        whole = rows.sum(1, keepdim=True) / n
        parts = [normed, normed.transpose(1, 2), product / n.sqrt()]
        parts += [rows.expand_as(x), columns.expand_as(x), whole.expand_as(x)]
        return x + self.mix(torch.cat(parts, dim=-1)) * mask


class ClassMap(nn.Module):
    """Logits `[old, new]` of the map."""

    def __init__(self, width: int, n_layers: int):
        super().__init__()
        self.embed = nn.Linear(N_FEATURES, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(n_layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def forward(
        self,
        gram: Float[Tensor, "subject answer answer2"],
        seen: Float[Tensor, "subject answer answer2"],
        mask: Bool[Tensor, "subject answer"],
    ) -> Float[Tensor, "subject answer answer2"]:
        both = (mask[:, :, None] & mask[:, None]).float()
        cost = profile_cost(gram, seen)
        typical = (cost * both).sum((1, 2), keepdim=True) / both.sum((1, 2), keepdim=True)
        near = (-cost / typical.clamp_min(TINY)).masked_fill(both == 0, -1e4)
        n = both.sum(2, keepdim=True).clamp_min(1).sqrt()
        share = seen / seen.sum((1, 2), keepdim=True).clamp_min(1)
        same = torch.eye(gram.shape[1], device=gram.device).expand_as(gram)
        features = [gram, gram @ gram / n, near, near.softmax(-1), share, seen.clamp(max=1), same]
        x = self.embed(torch.stack(features, dim=-1)) * both[..., None]
        for layer in self.layers:
            x = layer(x, both[..., None])
        logits = self.sharpness * near + self.out(x).squeeze(-1)
        return logits.masked_fill(both == 0, -1e4)
