"""Which answer becomes which: a map from old to new answers, inferred from a few pairs and the answers' Gram.

If a rule carries answers to answers and the subject has learnt their order, it is an isometry of the answers'
similarities: G ≈ M G Mᵀ. The map begins at the match of profiles, sum_i (G[a, y_i] - G[b, y'_i])^2, goes on
with softened graph matching (Gold and Rangarajan 1996), and a network that is equivariant to the order of
answers (Maron et al. 2019: products of matrices beside row and column means) corrects it. It sees the map
that is inferred without training as well.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.networks.editing.profiles import matched_maps, profile_cost

N_GRAMS = 3
SAID = 0
"""Index of the Gram matrix of what is said of one answer where another is right."""
N_ROUNDS, N_BALANCINGS = 8, 3
"""Rounds of matching, and how often rows and columns are balanced in each."""
START = 2.0
HIDDEN = -1e4
TINY = 1e-9


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
    """Logits `[old, new]` of the map: graph matching with learned weights, and what a network adds to it."""

    def __init__(self, width: int, n_layers: int):
        super().__init__()
        self.matching = nn.Parameter(torch.tensor([4.0, 6.0, 4.0]))
        """Weights of G X Gᵀ, of the profiles, and of the pairs themselves."""
        self.trust = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))
        """Logits of each Gram matrix's share."""
        self.pin = nn.Parameter(torch.tensor(2.0))
        """Logit of how far the pairs themselves have the last word on the answers that they show."""
        self.embed = nn.Linear(3 * N_GRAMS + 5, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(n_layers))
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        self.out = nn.Sequential(nn.LayerNorm(width), last)

    def forward(
        self,
        grams: Float[Tensor, "subject 3 answer answer2"],
        seen: Float[Tensor, "subject answer answer2"],
        mask: Bool[Tensor, "subject answer"],
    ) -> Float[Tensor, "subject answer answer2"]:
        both = (mask[:, :, None] & mask[:, None]).to(grams.dtype)
        near = [_near(gram, seen, both) for gram in grams.unbind(1)]
        share = seen / seen.sum(2, keepdim=True).clamp_min(1)
        trust = self.trust.softmax(0)
        whole = torch.einsum("skab,k->sab", grams, trust)
        profile = torch.einsum("skab,k->sab", torch.stack(near, dim=1), trust)
        matched = self._matched(whole, profile, share, both)
        n = both.sum(2, keepdim=True).clamp_min(1).sqrt()
        same = torch.eye(grams.shape[2], device=grams.device, dtype=grams.dtype).expand_as(seen)
        features = [*grams.unbind(1), *(g @ g / n for g in grams.unbind(1)), *near]
        closed = matched_maps(grams[:, SAID], seen, mask)
        features += [matched.exp() * both, closed, share, seen.clamp(max=1), same]
        x = self.embed(torch.stack(features, dim=-1)) * both[..., None]
        for layer in self.layers:
            x = layer(x, both[..., None])
        corrected = (matched + self.out(x).squeeze(-1)).masked_fill(both == 0, HIDDEN)
        shown = self.pin.sigmoid() * share.square().sum(2, keepdim=True)  # 0 where pairs say nothing, or much
        mixed = (1 - shown) * corrected.softmax(-1) + shown * share
        return mixed.clamp_min(TINY).log().masked_fill(both == 0, HIDDEN)

    def _matched(self, gram: Tensor, profile: Tensor, share: Tensor, both: Tensor) -> Tensor:
        """Logarithm of a nearly doubly stochastic map."""
        structure, near, pairs = self.matching
        logits = (START * profile).masked_fill(both == 0, HIDDEN)
        x = logits.softmax(-1) * both
        for _ in range(N_ROUNDS):
            logits = structure * (gram @ x @ gram.mT) + near * profile + pairs * share
            logits = logits.masked_fill(both == 0, HIDDEN)
            for _ in range(N_BALANCINGS):
                for axis in (2, 1):
                    logits = logits - logits.logsumexp(axis, keepdim=True)
                    logits = logits.masked_fill(both == 0, HIDDEN)
            x = logits.exp() * both
        return logits


def _near(gram: Tensor, seen: Tensor, both: Tensor) -> Float[Tensor, "subject answer answer2"]:
    """Minus the cost of profiles, relative to its mean."""
    cost = profile_cost(gram, seen) * both
    typical = cost.sum((1, 2), keepdim=True) / both.sum((1, 2), keepdim=True)
    return -cost / typical.clamp_min(TINY)
