"""Causal transplant: whether a component of one subject does the work of its counterpart in another.

For i ↔ j, what i writes in the first subject is carried into the second in place of what j writes there
(`analogy/exchange.py`), and

    TR = (IIA_match − IIA_null) / (IIA_within − IIA_null)

where `null` is the same with other components of i's kind and depth band in its place, for the right one may
be among them the median, and `within` is j's own write, passed through the map.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jaxtyping import Int
from torch import Tensor

from metamodel.analogy.exchange import LEAST_ROOM, Exchange, Shares, StreamMap
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Transplanted(Shares):
    """How well one component stands in for another."""

    first: str
    second: str


def transplant(
    first: Subject,
    second: Subject,
    pairs: Int[Tensor, "item 2"],
    prompts: Int[Tensor, "batch pos"],
    sources: Int[Tensor, "batch pos"],
    position: Int[Tensor, " batch"],
    *,
    probes: Int[Tensor, "probe pos"],
    stream_map: StreamMap | None = None,
) -> tuple[Transplanted, ...]:
    """The score of each pair of components. Prompts, probes and map as of `Exchange`.

    Args:
        pairs: indices into `components` of the first and of the second subject; heads or MLPs.

    Raises: InputError for tokens that a subject does not embed, or pairs of embeddings or of other kinds.
    """
    exchange = Exchange(first, second, prompts, sources, position, probes=probes, stream_map=stream_map)
    exchange.check(pairs)
    found = []
    for i, j in pairs.tolist():
        shares = exchange.shares([(i, j)], [[k] for k in exchange.alike(i)])
        names = {"first": exchange.names[i].name, "second": exchange.theirs[j].name}
        found.append(Transplanted(**names, **asdict(shares)))
    return tuple(found)


def pooled(found: Sequence[Transplanted]) -> float:
    """TR of all pairs together, each counting by its places: one pair's small room weighs little.

    0 where there is no pair with places: nothing was transplanted.
    """
    known = [one for one in found if one.within == one.within and one.null == one.null]
    gained = sum(one.n_places * (one.match - one.null) for one in known)
    room = sum(one.n_places * (one.within - one.null) for one in known)
    places = sum(one.n_places for one in known)
    return gained / room if room >= LEAST_ROOM * places and places else 0.0
