"""Where an edit holds: a classifier of examples that is fitted anew for each specification, in closed form.

For every kernel between examples a kernel ridge regression tells pairs (+1) from inputs to keep (-1). What it
says of the others, and how well it does on the examples that it knows when each is left out, are all that the
network sees: it chooses among kernels, and so serves any subject, task and length of prompt.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.networks.editing.demand import N_DEMAND

RIDGE = 0.02
"""Ridge of the regressions, relative to a kernel's diagonal of one."""
N_BEST = 4
"""Kernels whose scores are shown one by one, the best first."""
NAMED = (-1, -3, -5, 0, 1, 2)
"""Kernels whose nearest examples are shown as they are: sharp ones of what the last matrix reads, of how sure
the subject is and of the last stream, and those of prompts."""
N_STATISTICS = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """Kernel ridge regressions of a batch of specifications."""

    score: Float[Tensor, "subject kernel example"]
    """About +1 in scope and -1 out of it; of examples that are labelled, as if they were not."""
    nearest: Float[Tensor, "subject kernel role example"]
    """Highest similarity to a pair, and to an input to keep, other than the example itself."""
    statistics: Float[Tensor, "subject kernel statistic"]


@torch.no_grad()
def fitted(
    kernels: Float[Tensor, "subject kernel known example"], role: Int[Tensor, "subject example"]
) -> Fitted:
    """Fits all kernels, pairs and inputs to keep weighing the same in sum.

    Args:
        kernels: of the known examples, which come first, to all.
    """
    n = kernels.shape[2]
    pair, keep = ((role[:, :n] == one)[:, None].to(kernels.dtype) for one in (PAIR, KEEP))
    known = pair + keep
    n_pair, n_keep = pair.sum(-1, keepdim=True).clamp_min(1), keep.sum(-1, keepdim=True).clamp_min(1)
    y = (pair - keep).double()
    # weights act as ridges: an example of a rarer class is fitted more closely
    share = pair * n_pair + keep * n_keep
    ridge = RIDGE * torch.where(known > 0, 2 * share / (n_pair + n_keep), 1.0)
    inside = known[..., :, None] * known[..., None, :]
    among = kernels[..., :n].double() * inside
    solve = torch.linalg.inv(among + torch.diag_embed(ridge.double())) * inside
    dual = (solve @ y.unsqueeze(-1)).squeeze(-1)
    everywhere = torch.einsum("sknm,skn->skm", kernels.double(), dual)
    left_out = y - dual / solve.diagonal(dim1=-2, dim2=-1).clamp_min(1e-9)
    said = torch.where(known > 0, left_out, everywhere[..., :n])
    score = torch.cat([said, everywhere[..., n:]], dim=-1).to(kernels.dtype).clamp(-3, 3)
    itself = torch.eye(n, kernels.shape[3], device=kernels.device, dtype=torch.bool)
    others = kernels.masked_fill(itself, -1.0)
    parts = [others.masked_fill(part[..., None] == 0, -1.0).amax(2) for part in (pair, keep)]
    nearest = torch.stack(parts, dim=2)
    return Fitted(
        score=score,
        nearest=nearest,
        statistics=_statistics(kernels[..., :n], score, nearest, pair, keep, role),
    )


def _statistics(
    among: Float[Tensor, "subject kernel known known2"],
    score: Float[Tensor, "subject kernel example"],
    nearest: Float[Tensor, "subject kernel role example"],
    pair: Float[Tensor, "subject 1 known"],
    keep: Float[Tensor, "subject 1 known"],
    role: Int[Tensor, "subject example"],
) -> Float[Tensor, "subject kernel statistic"]:
    """How well each kernel tells what is known, and how alike pairs and inputs to keep are under it."""
    known = score[..., : pair.shape[-1]]

    def mean(x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight).sum(-1) / weight.sum(-1).clamp_min(1)

    def between(first: Tensor, second: Tensor) -> Tensor:
        found = torch.einsum("skij,si,sj->sk", among, first[:, 0], second[:, 0])
        return found / (first.sum(-1) * second.sum(-1)).clamp_min(1)

    other = (role == UNLABELLED)[:, None].to(score.dtype)
    return torch.stack(
        [
            mean((known - 1).abs(), pair),
            mean((known + 1).abs(), keep),
            mean((known > 0).to(known.dtype), pair),
            mean((known < 0).to(known.dtype), keep),
            between(pair, pair),
            between(pair, keep),
            between(keep, keep),
            mean(score.abs().clamp(max=1), other),
            mean(nearest[:, :, 0, : pair.shape[-1]], pair),
            mean(nearest[:, :, 1, : pair.shape[-1]], pair),
            mean(nearest[:, :, 1, : pair.shape[-1]], keep),
            mean(nearest[:, :, 0], other),
        ],
        dim=-1,
    )


class Scope(nn.Module):
    """Probability of each example to be in scope."""

    def __init__(self, width: int):
        super().__init__()
        self.choose = nn.Sequential(nn.Linear(N_STATISTICS + N_DEMAND, width), nn.GELU(), nn.Linear(width, 2))
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.decide = nn.Sequential(
            nn.Linear(2 * N_BEST + 5 + N_DEMAND + 2 * len(NAMED) + N_STATISTICS, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            last,
        )

    def forward(
        self,
        found: Fitted,
        role: Int[Tensor, "subject example"],
        asked: Float[Tensor, "subject look"],
    ) -> tuple[Float[Tensor, "subject example"], Float[Tensor, "subject kernel"]]:
        """Logits of being in scope, and the weight of each kernel.

        One weighting of the kernels is for the regressions, and one for the nearest known examples: facts are
        no class of their own, and only what asks for the very same fact is in scope.

        Args:
            asked: as of `demand`.
        """
        each = asked[:, None].expand(-1, found.statistics.shape[1], -1)
        weight, near = self.choose(torch.cat([found.statistics, each], dim=-1)).softmax(1).unbind(-1)
        mixed = torch.einsum("sk,skn->sn", weight, found.score)
        nearest = torch.einsum("sk,skrn->snr", near, found.nearest)
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
                asked[:, None].expand(-1, mixed.shape[1], -1),
                found.score.mean(1)[:, :, None],
                nearest,
                (nearest[..., :1] - nearest[..., 1:]),
                found.nearest[:, list(NAMED)].flatten(1, 2).mT,
                statistic[:, None].expand(*mixed.shape, -1),
            ],
            dim=-1,
        )
        return 3 * mixed + self.decide(seen).squeeze(-1), weight


def placed(gate: Tensor, role: Int[Tensor, "subject example"]) -> Float[Tensor, "subject example"]:
    """Probabilities of being in scope; of pairs and inputs to keep they are known."""
    known = (role == PAIR).to(gate.dtype)
    inferred: Bool[Tensor, "subject example"] = role == UNLABELLED
    return torch.where(inferred, gate.sigmoid(), known) * (role != PADDING)
