"""Log-domain Sinkhorn with a dustbin on either side: partial soft maps (Sarlin et al. 2020, SuperGlue)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def log_sinkhorn(
    scores: Float[Tensor, "*rest node theirs"],
    allowed: Bool[Tensor, "*rest node theirs"],
    dustbin: Float[Tensor, "*rest"],
    *,
    n_steps: int = 40,
    temperature: float | Float[Tensor, ""] = 1.0,
) -> Float[Tensor, "*rest row column"]:
    """Log of the augmented coupling `[node + 1, theirs + 1]`: the last row and column are the dustbins.

    Rows of nodes sum to 1, and so do columns; a dustbin takes as many nodes as it likes. Nodes without any
    allowed partner lie in the dustbin whole, and rows and columns of padding are -inf but there.

    Args:
        scores: what each pair is worth.
        allowed: pairs that may match; all others get no mass.
        dustbin: what leaving a node unmatched is worth.
        n_steps: of scaling both sides; the last one scales rows.
        temperature: scores are divided by it; towards 0 the coupling becomes a map.
    """
    n, m = scores.shape[-2:]
    low = torch.finfo(scores.dtype).min / 8
    z = scores.new_full((*scores.shape[:-2], n + 1, m + 1), low)
    z[..., :n, :m] = torch.where(allowed, scores / temperature, scores.new_full((), low))
    edge = (dustbin / temperature)[..., None]
    z[..., :n, m], z[..., n, :m] = edge.expand(*z.shape[:-2], n), edge.expand(*z.shape[:-2], m)
    u, v = z.new_zeros(z.shape[:-1]), z.new_zeros(*z.shape[:-2], m + 1)
    for _ in range(n_steps):
        v = torch.cat([-(z[..., :m] + u[..., :, None]).logsumexp(-2), v.new_zeros(*v.shape[:-1], 1)], -1)
        u = torch.cat([-(z[..., :n, :] + v[..., None, :]).logsumexp(-1), u.new_zeros(*u.shape[:-1], 1)], -1)
    return z + u[..., :, None] + v[..., None, :]


def coupling(
    log_augmented: Float[Tensor, "*rest row column"], allowed: Bool[Tensor, "*rest node theirs"]
) -> Float[Tensor, "*rest node theirs"]:
    """The map without dustbins: nonnegative, and both marginals at most 1, exactly.

    Columns may exceed 1 by what the last scaling left; they are divided by their sum where they do.
    """
    p = log_augmented[..., :-1, :-1].exp() * allowed
    return p / p.sum(-2, keepdim=True).clamp_min(1.0)
