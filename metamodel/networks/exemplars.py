"""Names functions that no training subject was labelled for, from k labelled components of other subjects.

A readout in the spirit of prototypical networks (Snell et al. 2017): components are compared in a learned
space with the mean of the positive exemplars and with the mean of the negative ones. Without exemplars the
answer is what is known of functions in general: how much a component stands out. Training draws functions
among the labels, and makes up others, so that it is the comparing that is learned, not the labels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

MADE_UP_SHARE = 0.15
"""Share of components that a made-up function holds for."""


class ExemplarReadout(nn.Module):
    """Logits of functions that are given by exemplars."""

    def __init__(self, width: int, n_features: int, dropout: float):
        super().__init__()
        self.of_node = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout))
        self.of_features = nn.Sequential(nn.Linear(n_features, width), nn.GELU(), nn.Dropout(dropout))
        self.join = nn.Linear(2 * width, width)
        self.stands_out = nn.Linear(width, 1)
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def places(
        self, x: Float[Tensor, "subject node width"], features: Float[Tensor, "subject node feature"]
    ) -> Float[Tensor, "subject node width"]:
        """Where components lie in the space in which they are compared."""
        return self.join(torch.cat([self.of_node(x), self.of_features(features)], dim=-1))

    def forward(
        self,
        places: Float[Tensor, "item width"],
        exemplars: Float[Tensor, "label exemplar width"],
        holds: Float[Tensor, "label exemplar"],
    ) -> Float[Tensor, "item label"]:
        """Logit of each function for each component.

        Args:
            holds: 1 where the function holds for the exemplar, 0 where it does not, NaN for no exemplar.
        """
        anyhow = self.stands_out(places)
        positive, negative = (holds == 1).to(places), (holds == 0).to(places)
        toward = _closeness(places, _mean(exemplars, positive)) - _closeness(
            places, _mean(exemplars, negative)
        )
        told = ((positive.sum(1) > 0) & (negative.sum(1) > 0)).to(places)
        return torch.where(told > 0, toward * self.log_scale.exp() + self.bias, anyhow + self.bias)


def _mean(
    exemplars: Float[Tensor, "label exemplar width"], weight: Float[Tensor, "label exemplar"]
) -> Float[Tensor, "label width"]:
    total = torch.einsum("lew,le->lw", exemplars, weight)
    return total / weight.sum(1, keepdim=True).clamp_min(1.0)


def _closeness(
    places: Float[Tensor, "item width"], prototype: Float[Tensor, "label width"]
) -> Float[Tensor, "item label"]:
    """Minus the mean squared distance."""
    square = places.pow(2).sum(-1)[:, None] - 2 * places @ prototype.T + prototype.pow(2).sum(-1)
    return -square / places.shape[-1]


def drawn_exemplars(
    positive: Float[Tensor, "item label"],
    candidates: Bool[Tensor, " item"],
    k: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Float[Tensor, "label exemplar"]]:
    """For each function indices `[label, exemplar]` of `k` components, half of them positive, and what holds.

    Args:
        positive: 1, 0 or NaN.
        candidates: components that may be drawn. Where one class has fewer than k / 2 the rest is NaN.
        k: even; 0 for none.
    """
    half = k // 2
    order = torch.rand(positive.shape, generator=generator).to(positive.device)
    chosen, holds = [], []
    for wanted in (1.0, 0.0):
        fits = (positive == wanted) & candidates[:, None]
        score = torch.where(fits, order, torch.full_like(order, -1.0))
        n = min(half, len(score))
        best = score.topk(n, dim=0)
        chosen.append(best.indices.T)
        holds.append(torch.where(best.values.T >= 0, wanted, float("nan")))
    return torch.cat(chosen, dim=1), torch.cat(holds, dim=1)


def made_up_functions(
    features: Float[Tensor, "item feature"], known: Bool[Tensor, " item"], n: int
) -> Float[Tensor, "item label"]:
    """Functions that hold where a random mixture of a few features is large; NaN where not `known`."""
    n_features = features.shape[-1]
    weights = torch.randn(n_features, n, device=features.device)
    few = torch.rand(n_features, n, device=features.device) < 4.0 / n_features
    score = features @ (weights * few)
    threshold = torch.quantile(score[known], 1 - MADE_UP_SHARE, dim=0)
    holds = (score > threshold).to(features)
    return torch.where(known[:, None], holds, torch.full_like(holds, float("nan")))
