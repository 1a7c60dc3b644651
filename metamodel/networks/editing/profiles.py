"""Rules without training: a map of answers by the profiles of their Gram matrix (Hungarian algorithm).

It is the editor's closed form, from which its network of answers starts, and an opponent's rule.
"""

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

TINY = 1e-6


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


def matched(
    gram: Float[Tensor, "answer answer2"], seen: Float[Tensor, "answer answer2"]
) -> Int[Tensor, " answer"]:
    """The one-to-one map of answers that explains most pairs and, among these, matches profiles best.

    Args:
        seen: `seen[y, y']` counts the pairs whose old answer is y and whose wanted one is y'.
    """
    return _assigned(profile_cost(gram[None], seen[None])[0], seen)


def _assigned(cost: Tensor, seen: Tensor) -> Int[Tensor, " answer"]:
    dearest = float(cost.max()) * len(cost) + 1
    _, column = linear_sum_assignment((cost - dearest * seen).detach().cpu().numpy())
    return torch.from_numpy(column).to(cost.device).long()


@torch.no_grad()
def matched_maps(
    gram: Float[Tensor, "subject answer answer2"],
    seen: Float[Tensor, "subject answer answer2"],
    mask: Bool[Tensor, "subject answer"],
) -> Float[Tensor, "subject answer answer2"]:
    """`matched` for each subject, as a permutation matrix of its own answers; zero where there is padding."""
    found = torch.zeros_like(seen)
    for i, (own, pairs, n) in enumerate(zip(gram, seen, mask.sum(1).tolist(), strict=True)):
        found[i, torch.arange(n), matched(own[:n, :n], pairs[:n, :n])] = 1.0
    return found


@torch.no_grad()
def left_out(
    gram: Float[Tensor, "subject answer answer2"],
    seen: Float[Tensor, "subject answer answer2"],
    mask: Bool[Tensor, "subject answer"],
) -> Float[Tensor, " subject"]:
    """Share of the pairs that the map predicts which is matched without them and all like them.

    0 where there is one kind of pair only. Whether answers are carried along with their order shows here.
    """
    found = []
    for own, pairs, n in zip(gram, seen, mask.sum(1).tolist(), strict=True):
        kinds = pairs[:n, :n].nonzero()
        if len(kinds) < 2 or len(kinds) > n:
            found.append(0.0)
            continue
        without = pairs[:n, :n].repeat(len(kinds), 1, 1)
        without[torch.arange(len(kinds)), kinds[:, 0], kinds[:, 1]] = 0.0
        costs = profile_cost(own[:n, :n].expand_as(without), without)
        each = zip(costs, without, kinds.tolist(), strict=True)
        right = [float(_assigned(cost, rest)[old] == new) for cost, rest, (old, new) in each]
        found.append(sum(right) / len(right))
    return gram.new_tensor(found)
