"""Changes of a circuit whose truth is known: the copy is permuted, noisy, incomplete and has strangers in it.

Both circuits then keep the components that their own edge mass lets them keep, and what corresponds is told
among those. Pure functions of a generator, so that training draws fresh pairs at every step.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.graph import LEAST_SHARE, CircuitGraph, mass, normalised
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.pairs import NONE, MatchedPair, blank_side, reordered
from metamodel.config.errors import require
from metamodel.subjects.config import KINDS

_JITTER = 0.2
"""How far a distractor's neighbours may differ in depth from those that it had, on average."""
_ATTEMPTS = 8
"""How often a distractor is drawn that finds no neighbours."""


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
    donors: Sequence[CircuitGraph],
    generator: torch.Generator,
    level: PlantedLevel,
    *,
    spread: Float[Tensor, "kind feature"] | None = None,
    least_share: float = LEAST_SHARE,
) -> MatchedPair:
    """A circuit and a changed copy of it; both have their nodes in random order.

    Args:
        graph: circuit that is copied.
        donors: circuits of other subjects, from which strangers are taken.
        spread: of each feature, for `feature_noise`; without it features stay.
        least_share: as of `circuit_graph`, applied to both after the changes.

    Raises: InputError if strangers are to be inserted and there is no donor.
    """
    do = "Give circuits of other subjects."
    require(bool(donors) or not level.inserted, "planted_pair", expected="donors", got="none of them", do=do)
    second, truth = graph, torch.arange(len(graph))
    active = (~graph.is_anchor).nonzero().squeeze(1)
    n_dropped = max(0, min(level.dropped, len(active) - 2))
    if n_dropped:
        gone = active[torch.randperm(len(active), generator=generator)[:n_dropped]]
        stay = torch.ones(len(graph), dtype=torch.bool)
        stay[gone] = False
        left = stay.nonzero().squeeze(1)
        truth, second = reordered(truth, truth, left), graph.taken(left)
    first = with_strangers(graph, donors, generator, level.inserted)
    truth = torch.cat([truth, truth.new_full((len(first) - len(graph),), NONE)])
    second = with_strangers(second, donors, generator, level.inserted)
    second = replace(
        second,
        edges=_noisy_edges(second.edges, generator, level.noise),
        features=_noisy_features(second, generator, level.feature_noise, spread),
        depth=stretched(second, generator, level.extra_layers),
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


def with_strangers(
    graph: CircuitGraph, donors: Sequence[CircuitGraph], generator: torch.Generator, n: int
) -> CircuitGraph:
    """A circuit with `n` components of other circuits behind its own."""
    for i in range(n):
        for _ in range(_ATTEMPTS):
            donor = donors[int(torch.randint(len(donors), (), generator=generator))]
            found = _with_stranger(graph, donor, generator, f"stranger{i}")
            if found is not None:
                graph = found
                break
    return graph


def _with_stranger(
    graph: CircuitGraph, donor: CircuitGraph, generator: torch.Generator, name: str
) -> CircuitGraph | None:
    """A circuit with one component of another; its neighbours are of the kinds and depths that it had there.

    Its edges touch as much mass as those of some component that is here. None where it finds no neighbours.
    """
    candidates = (~donor.is_anchor).nonzero().squeeze(1)
    hosts = (~graph.is_anchor).nonzero().squeeze(1)
    if not len(candidates) or not len(hosts):
        return None
    node = int(candidates[int(torch.randint(len(candidates), (), generator=generator))])
    depth = donor.depth[node]
    side = (donor.depth - depth).sign()[:, None] == (graph.depth - depth).sign()
    same = donor.kinds[:, None] == graph.kinds
    distance = (donor.depth[:, None] - graph.depth).abs()
    distance = distance + _JITTER * torch.rand(distance.shape, generator=generator)
    distance = distance.masked_fill(~(side & same), torch.inf)
    nearest, place = distance.min(1)
    fits = nearest.isfinite()
    written, read = (
        donor.edges.new_zeros(len(donor.edges), len(graph)).index_add(1, place[fits], part[:, fits])
        for part in (donor.edges[:, node], donor.edges[:, :, node])
    )
    total = written.sum() + read.sum()
    host = int(hosts[int(torch.randint(len(hosts), (), generator=generator))])
    wanted = graph.edges[:, host].sum() + graph.edges[:, :, host].sum()
    if not bool(total > 0) or not bool(wanted > 0):
        return None
    n = len(graph)
    edges = torch.nn.functional.pad(graph.edges, (0, 1, 0, 1))
    edges[:, n, :n], edges[:, :n, n] = written * wanted / total, read * wanted / total
    return CircuitGraph(
        edges=normalised(edges),
        features=torch.cat([graph.features, donor.features[node : node + 1]]),
        kinds=torch.cat([graph.kinds, donor.kinds[node : node + 1]]),
        depth=torch.cat([graph.depth, donor.depth[node : node + 1]]),
        names=(*graph.names, name),
    )


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
