"""Cumulative causal transplant: how far the pairs of a map, taken together, do each other's work.

Along the growth of a map (`analogy/mapping.py`) the first k pairs are transplanted at once: what i₁ … i_k
write in the first subject on a source prompt is carried by one orthogonal map into the second, in place of
what j₁ … j_k write there. The answer is held against the one under the second's own interchange of j₁ … j_k,
among prompts whose answer that changes, and normalised as for single pairs (`analogy/transplant.py`):

    TR_k = (IIA_match − IIA_null) / (IIA_within − IIA_null)

`null` transplants, for each of the k, another component of its kind and depth band, drawn a few times over;
where the first subject has no other one, what j writes on average. A map that holds stays near 1 as it grows;
the pair that breaks it pulls TR_k down. Two things it cannot see: a pair of components that do nothing, and
heads of one layer that are exchanged, once both are in, for they write the same sum into the stream.
"""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.analogy.exchange import Exchange, Shares, StreamMap
from metamodel.subjects.subject import Subject

N_NULL = 7
"""Times that other components are drawn; the null is the median over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together(Shares):
    """How well the first pairs of a map stand in for each other, all at once."""

    n_pairs: int


def cumulative_transplant(
    first: Subject,
    second: Subject,
    pairs: Int[Tensor, "item 2"],
    prompts: Int[Tensor, "batch pos"],
    sources: Int[Tensor, "batch pos"],
    position: Int[Tensor, " batch"],
    *,
    probes: Int[Tensor, "probe pos"],
    stream_map: StreamMap | None = None,
    seed: int = 0,
) -> tuple[Together, ...]:
    """One score for the first pair, one for the first two together, and so on. Arguments as of `transplant`.

    Args:
        pairs: in the order in which the map grows.
        seed: draws the other components of the null.

    Raises: InputError as `transplant`.
    """
    exchange = Exchange(first, second, prompts, sources, position, probes=probes, stream_map=stream_map)
    exchange.check(pairs)
    generator = torch.Generator().manual_seed(seed)

    def drawn(i: int) -> int | None:
        rest = exchange.alike(i)
        return rest[int(torch.randint(len(rest), (), generator=generator))] if rest else None

    taken = [(i, j) for i, j in pairs.tolist()]
    nulls = [[drawn(i) for i, _ in taken] for _ in range(N_NULL)]
    found = []
    for n in range(1, len(taken) + 1):
        shares = exchange.shares(taken[:n], [one[:n] for one in nulls])
        found.append(Together(n_pairs=n, **asdict(shares)))
    return tuple(found)
