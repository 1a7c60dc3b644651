"""Changes of a circuit whose truth is known: the copy is permuted, noisy, incomplete and has strangers in it.

Both circuits then keep the components that their own edge mass lets them keep, and what corresponds is told
among those. All that is drawn comes from a generator, so that training draws fresh pairs at every step.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.graph import LEAST_SHARE, CircuitGraph, mass
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.pairs import NONE, MatchedPair, blank_side, reordered
from metamodel.analogy.strangers import Stranger, active, with_strangers
from metamodel.config.errors import require
from metamodel.subjects.config import KINDS


def feature_spread(graphs: Sequence[CircuitGraph]) -> Float[Tensor, "kind feature"]:
    """Standard deviation of each feature among nodes of each kind; 0 for kinds that have less than two."""
    features = torch.cat([graph.features for graph in graphs])
    kinds = torch.cat([graph.kinds for graph in graphs])
    found = features.new_zeros(len(KINDS), features.shape[1])
    for kind in range(len(KINDS)):
        of_kind = features[kinds == kind]
        if len(of_kind) > 1:
            found[kind] = of_kind.std(0)
    return found


def planted_pair(
    graph: CircuitGraph,
    deck: list[Stranger],
    generator: torch.Generator,
    level: PlantedLevel,
    *,
    spread: Float[Tensor, "kind feature"] | None = None,
    least_share: float = LEAST_SHARE,
) -> MatchedPair:
    """A circuit and a changed copy of it; both have their nodes in random order.

    Args:
        graph: circuit that is copied. Components that it does not keep by `least_share` are not dropped:
            nobody would miss them.
        deck: from which the strangers of both are taken, see `deck_of`; those that are taken leave it.
        spread: of each feature, for `feature_noise`; without it features stay.
        least_share: as of `circuit_graph`, applied to both after the changes.

    Raises: InputError if strangers are to be inserted and there is none.
    """
    do = "Give circuits of other lineages."
    require(bool(deck) or not level.inserted, "planted_pair", expected="strangers", got="none of them", do=do)
    second, truth = graph, torch.arange(len(graph))
    here = active(graph, least_share)
    n_dropped = max(0, min(level.dropped, len(here) - 2))
    if n_dropped:
        gone = here[torch.randperm(len(here), generator=generator)[:n_dropped]]
        stay = torch.ones(len(graph), dtype=torch.bool)
        stay[gone] = False
        left = stay.nonzero().squeeze(1)
        truth, second = reordered(truth, truth, left), graph.taken(left)
    first = with_strangers(graph, deck, generator, level.inserted, least_share=least_share)
    truth = torch.cat([truth, truth.new_full((len(first) - len(graph),), NONE)])
    second = with_strangers(second, deck, generator, level.inserted, least_share=least_share)
    second = replace(
        noisy(second, generator, level, spread), depth=stretched(second, generator, level.extra_layers)
    )
    orders = [_kept_in_random_order(one, generator, least_share) for one in (first, second)]
    return MatchedPair(
        first=first.taken(orders[0]),
        second=second.taken(orders[1]),
        truth=reordered(truth, orders[0], orders[1]),
        kind="planted",
        split="train",
        first_side=blank_side(len(orders[0])),
        second_side=blank_side(len(orders[1])),
        level=level.values(),
    )


def noisy(
    graph: CircuitGraph,
    generator: torch.Generator,
    level: PlantedLevel,
    spread: Float[Tensor, "kind feature"] | None,
) -> CircuitGraph:
    """A circuit whose edges and features are known no better than the two noises of a level allow."""
    return replace(
        graph,
        edges=_noisy_edges(graph.edges, generator, level.noise),
        features=_noisy_features(graph, generator, level.feature_noise, spread),
    )


def poorly_known(
    pair: MatchedPair,
    generator: torch.Generator,
    level: PlantedLevel,
    *,
    spread: Float[Tensor, "kind feature"] | None = None,
    least_share: float = LEAST_SHARE,
) -> MatchedPair:
    """A pair whose second circuit is known with the noise of a level, and keeps what it then may by its mass.

    What is interchangeable stays so: noise makes no difference between components.
    """
    second = noisy(pair.second, generator, level, spread)
    order = _kept_in_random_order(second, generator, least_share)
    return replace(pair, second=second).permuted(torch.arange(len(pair.first)), order)


def stretched(graph: CircuitGraph, generator: torch.Generator, extra: int) -> Float[Tensor, " node"]:
    """Depths of nodes after `extra` blocks were put in at random places."""
    if not extra:
        return graph.depth
    n_layers = max(1, len(graph.depth[graph.kinds == KINDS.index("head")].unique()))
    block = graph.depth * (n_layers + 0.5)
    cuts = torch.randint(n_layers + 1, (extra,), generator=generator)
    inner = ~graph.is_anchor
    moved = block + (block[:, None] >= cuts).sum(1)
    return torch.where(inner, moved / (n_layers + extra + 0.5), graph.depth)


def _noisy_edges(
    edges: Float[Tensor, "channel node node2"], generator: torch.Generator, noise: float
) -> Float[Tensor, "channel node node2"]:
    return edges * (noise * torch.randn(edges.shape, generator=generator)).exp() if noise else edges


def _noisy_features(
    graph: CircuitGraph,
    generator: torch.Generator,
    noise: float,
    spread: Float[Tensor, "kind feature"] | None,
) -> Float[Tensor, "node feature"]:
    if spread is None or not noise:
        return graph.features
    drawn = torch.randn(graph.features.shape, generator=generator)
    return graph.features + noise * spread[graph.kinds] * drawn


def _kept_in_random_order(
    graph: CircuitGraph, generator: torch.Generator, least_share: float
) -> Int[Tensor, " kept"]:
    kept = ((mass(graph.edges) >= least_share) | graph.is_anchor).nonzero().squeeze(1)
    return kept[torch.randperm(len(kept), generator=generator)]
