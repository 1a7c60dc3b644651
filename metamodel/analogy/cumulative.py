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

from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.transplant import (
    FEWEST_PLACES,
    StreamMap,
    alike,
    answers,
    check_pairs,
    fitted,
    ratio_of,
    writes_of,
)
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject

N_NULL = 7
"""Times that other components are drawn; the null is the median over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """How well the first pairs of a map stand in for each other, all at once, as shares of places."""

    n_pairs: int
    n_places: int
    """Prompts whose answer the second's own interchange of all of them changes."""
    match: float
    """Share of these where the transplant gives the answer of the interchange. NaN for too few places."""
    null: float
    """The same, median over draws of other components."""
    within: float
    """The same, of the second's own writes through the map."""

    @property
    def ratio(self) -> float:
        """TR: 1 where they do all of the work, 0 where no more than random ones; NaN where undefined."""
        return ratio_of(self.match, self.null, self.within)


@torch.no_grad()
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
    check_pairs(first, second, pairs, {"prompts": prompts, "sources": sources, "probes": probes})
    one, other = canonical(first), canonical(second)
    names, theirs = components(one.config), components(other.config)
    through = fitted(one, other, probes) if stream_map is None else stream_map
    mine, mean = writes_of(one, sources), writes_of(one, probes).mean((1, 2))
    own, own_mean = writes_of(other, sources), writes_of(other, probes).mean((1, 2))
    base = answers(other, prompts, position, {})
    generator = torch.Generator().manual_seed(seed)

    def stand_in(k: int | None, j: int) -> Float[Tensor, "batch pos d_model"]:
        if k is None:
            return own_mean[j].expand_as(own[j])
        return own_mean[j] + through.carried(mine[k] - mean[k])

    def drawn(i: int) -> int | None:
        rest = alike(one, names, i)
        return rest[int(torch.randint(len(rest), (), generator=generator))] if rest else None

    taken = pairs.tolist()
    nulls = [[drawn(i) for i, _ in taken] for _ in range(N_NULL)]
    found = []
    for n in range(1, len(taken) + 1):
        readers = [j for _, j in taken[:n]]
        wanted = answers(other, prompts, position, {theirs[j]: own[j] for j in readers})
        places = wanted != base

        def share(
            writes: list[Tensor],
            readers: list[int] = readers,
            wanted: Tensor = wanted,
            places: Tensor = places,
        ) -> float:
            held = {theirs[j]: write[places] for j, write in zip(readers, writes, strict=True)}
            got = answers(other, prompts[places], position[places], held)
            return float((got == wanted[places]).float().mean())

        if int(places.sum()) < FEWEST_PLACES:
            match = null = within = float("nan")
        else:
            match = share([stand_in(i, j) for i, j in taken[:n]])
            null = median(
                share([stand_in(k, j) for k, j in zip(drawn_ones, readers, strict=False)])
                for drawn_ones in nulls
            )
            within = share([own_mean[j] + through.reached(own[j] - own_mean[j]) for j in readers])
        found.append(Together(n_pairs=n, n_places=int(places.sum()), match=match, null=null, within=within))
    return tuple(found)
