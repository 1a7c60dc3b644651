"""How alike the examples of a specification are as prompts, before anything is said of the subject's states.

Prompts are compared as bags of tokens, once as they are and once with those tokens taken for one that the
subject itself does not tell apart: if answers stay wherever one word stands for another, the two prompts
ask the same. So an order of words or another opener is no other question, in domains never seen as well.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RBF_WIDTH = 0.35
"""Width of the sharp kernels, as a share of the median distance between examples."""
TINY = 1e-8
LEAST_CONTEXTS, LEAST_AGREEMENT = 8, 0.95
"""In how many different contexts two tokens must have been seen, and how often answered alike, to be one."""


def token_ids(
    tokens: Int[Tensor, "subject example pos"], position: Int[Tensor, "subject example"]
) -> Int[Tensor, "subject example pos"]:
    """Tokens counted from 1, only those that occur; 0 behind the token at which the answer is asked for."""
    ids = tokens.unique(return_inverse=True)[1] + 1
    behind = torch.arange(ids.shape[2], device=ids.device) > position[:, :, None]
    return ids.masked_fill(behind, 0)


def bag_kernels(
    ids: Int[Tensor, "subject example pos"],
    n_known: int,
    mask: Bool[Tensor, "subject known"],
    mask2: Bool[Tensor, "subject example"],
    dtype: torch.dtype,
) -> Float[Tensor, "subject kernel known example"]:
    """The share of tokens that two prompts have in common, wherever they stand, and a sharp kernel of it.

    Args:
        n_known: how many examples are compared with all.
    """
    count = _counted(ids, dtype)
    shared = count[:, :n_known] @ count.mT / ids.shape[2]
    both = (mask[:, :, None] & mask2[:, None]).to(dtype)
    typical = ((1 - shared) * both).sum((1, 2)) / both.sum((1, 2)).clamp_min(1)
    return torch.stack([shared, sharp(1 - shared, typical)], dim=1) * both[:, None]


def sharp(
    square: Float[Tensor, "subject known example"], typical: Float[Tensor, " subject"]
) -> Float[Tensor, "subject known example"]:
    """exp(-d^2 / 2w^2), with a width relative to the typical square distance."""
    return torch.exp(-square / (2 * RBF_WIDTH**2 * typical.clamp_min(TINY))[:, None, None])


@torch.no_grad()
def merged(
    ids: Int[Tensor, "subject example pos"],
    answer: Int[Tensor, "subject example"],
    mask: Bool[Tensor, "subject example"],
) -> Int[Tensor, "subject example pos"]:
    """The same ids, with one id for all tokens that the subject answers alike wherever one replaces another.

    Args:
        answer: what the subject says, before any edit.
        mask: examples that are no padding.
    """
    return torch.stack([_merged(*one) for one in zip(ids, answer, mask, strict=True)])


def _merged(ids: Tensor, answer: Tensor, mask: Tensor) -> Int[Tensor, "example pos"]:
    size = int(ids.max()) + 1
    count = torch.nn.functional.one_hot(ids[mask], size).sum(1)[:, 1:]
    bags, which = count.unique(dim=0, return_inverse=True)
    said = answer[mask]
    # of each bag the answer of most prompts, and whether all of them are answered so
    share = torch.zeros(len(bags), int(said.max()) + 1, device=ids.device)
    share.index_put_((which, said), share.new_ones(len(said)), accumulate=True)
    common = share.argmax(1)
    pure = share.amax(1) == share.sum(1)
    near = (bags[:, None] - bags).abs().sum(-1) == 2
    first, second = near.triu().nonzero().unbind(1)
    if len(first) == 0:
        return ids
    step = bags[first] - bags[second]
    one, other = step.argmax(1), step.argmin(1)
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    alike = ((common[first] == common[second]) & pure[first] & pure[second]).float()
    # every pair of bags is a context of its own: the tokens that both have
    pair, index = (low * size + high).unique(return_inverse=True)
    n = torch.zeros(len(pair), device=ids.device).index_add_(0, index, torch.ones_like(alike))
    agreed = torch.zeros(len(pair), device=ids.device).index_add_(0, index, alike) / n
    same = (n >= LEAST_CONTEXTS) & (agreed >= LEAST_AGREEMENT)
    joined = torch.eye(size, dtype=torch.bool, device=ids.device)
    a, b = pair[same] // size + 1, pair[same] % size + 1
    joined[a, b] = joined[b, a] = True
    for _ in range(size.bit_length()):
        joined = (joined.float() @ joined.float()) > 0
    return joined.float().argmax(1)[ids]


def _counted(ids: Int[Tensor, "subject example pos"], dtype: torch.dtype) -> Tensor:
    """`[subject, example, occurrence * token]`: whether a token comes at least so often.

    A token that comes a second time counts as another one, so that the minimum of counts is a product.
    """
    count = torch.nn.functional.one_hot(ids, int(ids.max()) + 1).sum(2)[:, :, 1:]
    levels = torch.arange(1, ids.shape[2] + 1, device=ids.device)
    return (count[:, :, None] >= levels[:, None]).to(dtype).flatten(2)
