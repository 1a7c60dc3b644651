"""Where an edit holds: a classifier of examples that is fitted anew for each specification, in closed form.

For every kernel between examples a kernel ridge regression tells pairs (+1) from inputs to keep (-1). What it
says of the others, and how well it does on the examples that it knows when each is left out, are all that the
network sees: it chooses among kernels, and so serves any subject, task and length of prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.triples.edits import KEEP, PADDING, PAIR, UNLABELLED

RIDGE = 0.02
"""Ridge of the regressions, relative to a kernel's diagonal of one."""
N_BEST = 4
"""Kernels whose scores are shown one by one, the best first."""
N_STATISTICS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """Kernel ridge regressions of a batch of specifications."""

    score: Float[Tensor, "subject kernel example"]
    """About +1 in scope and -1 out of it; of examples that are labelled, as if they were not."""
    statistics: Float[Tensor, "subject kernel statistic"]


@torch.no_grad()
def fitted(
    kernels: Float[Tensor, "subject kernel example example2"], role: Int[Tensor, "subject example"]
) -> Fitted:
    """Fits all kernels, pairs and inputs to keep weighing the same in sum."""
    pair, keep = (role == PAIR)[:, None].to(kernels.dtype), (role == KEEP)[:, None].to(kernels.dtype)
    known = pair + keep
    n_pair, n_keep = pair.sum(-1, keepdim=True).clamp_min(1), keep.sum(-1, keepdim=True).clamp_min(1)
    y = pair - keep
    # weights act as ridges: an example of a rarer class is fitted more closely
    share = pair * n_pair + keep * n_keep
    ridge = RIDGE * torch.where(known > 0, 2 * share / (n_pair + n_keep), 1.0)
    inside = known[..., :, None] * known[..., None, :]
    solve = torch.linalg.inv(kernels.double() * inside + torch.diag_embed(ridge.double())) * inside
    dual = solve @ y.double().unsqueeze(-1).expand(*kernels.shape[:2], -1, 1)
    everywhere = (kernels.double() @ dual).squeeze(-1)
    diagonal = solve.diagonal(dim1=-2, dim2=-1)
    left_out = y - dual.squeeze(-1) / diagonal.clamp_min(1e-9)
    score = torch.where(known.expand_as(everywhere) > 0, left_out, everywhere).to(kernels.dtype).clamp(-3, 3)
    return Fitted(score=score, statistics=_statistics(kernels, score, pair, keep, role))


def _statistics(kernels: Tensor, score: Tensor, pair: Tensor, keep: Tensor, role: Tensor) -> Tensor:
    """How well each kernel tells what is known, and how alike pairs and inputs to keep are under it."""

    def mean(x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight).sum(-1) / weight.sum(-1).clamp_min(1)

    def between(first: Tensor, second: Tensor) -> Tensor:
        return torch.einsum("skij,si,sj->sk", kernels, first[:, 0], second[:, 0]) / (
            first.sum(-1) * second.sum(-1)
        ).clamp_min(1)

    other = (role == UNLABELLED)[:, None].float()
    return torch.stack(
        [
            mean((score - 1).abs(), pair),
            mean((score + 1).abs(), keep),
            mean((score > 0).float(), pair),
            mean((score < 0).float(), keep),
            between(pair, pair),
            between(pair, keep),
            between(keep, keep),
            mean(score.abs().clamp(max=1), other),
        ],
        dim=-1,
    )


class Scope(nn.Module):
    """Probability of each example to be in scope."""

    def __init__(self, width: int):
        super().__init__()
        self.choose = nn.Sequential(nn.Linear(N_STATISTICS + 1, width), nn.GELU(), nn.Linear(width, 1))
        self.decide = nn.Sequential(
            nn.Linear(2 * N_BEST + 3 + N_STATISTICS, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(
        self, found: Fitted, role: Int[Tensor, "subject example"]
    ) -> tuple[Float[Tensor, "subject example"], Float[Tensor, "subject kernel"]]:
        """Logits of being in scope, and the weight of each kernel."""
        n_pairs = (role == PAIR).sum(-1).float().log1p()
        each = n_pairs[:, None, None].expand(*found.statistics.shape[:2], 1)
        logit = self.choose(torch.cat([found.statistics, each], dim=-1)).squeeze(-1)
        weight = logit.softmax(-1)
        mixed = torch.einsum("sk,skn->sn", weight, found.score)
        best = weight.topk(min(N_BEST, weight.shape[1]), dim=1)
        index = best.indices[:, :, None]
        score = found.score.gather(1, index.expand(-1, -1, found.score.shape[2])).mT
        share = best.values[:, None].expand(-1, score.shape[1], -1)
        statistic = torch.einsum("sk,skf->sf", weight, found.statistics)
        seen = torch.cat(
            [
                score,
                share,
                mixed[:, :, None],
                n_pairs[:, None, None].expand(*mixed.shape, 1),
                found.score.mean(1)[:, :, None],
                statistic[:, None].expand(*mixed.shape, -1),
            ],
            dim=-1,
        )
        return 3 * mixed + self.decide(seen).squeeze(-1), weight


def placed(gate: Tensor, role: Int[Tensor, "subject example"]) -> Float[Tensor, "subject example"]:
    """Probabilities of being in scope; of pairs and inputs to keep they are known."""
    known = torch.where(role == PAIR, 1.0, 0.0)
    inferred: Bool[Tensor, "subject example"] = role == UNLABELLED
    return torch.where(inferred, gate.sigmoid(), known) * (role != PADDING)
