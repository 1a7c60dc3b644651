"""Pairs whose truth is planted in graphs: what permutes, what vanishes, what stays without a change."""

from dataclasses import replace

import pytest
import torch

from metamodel.analogy.absent import open_places, rank_matched, rewired, without_edge
from metamodel.analogy.graph import LEAST_SHARE, CircuitGraph, mass
from metamodel.analogy.levels import PlantedLevel
from metamodel.analogy.orbits import orbits
from metamodel.analogy.pairs import NONE, MatchedPair, blank_side, inverted, reordered
from metamodel.analogy.planted import feature_spread, planted_pair, poorly_known, stretched
from metamodel.analogy.strangers import active, deck_of, with_strangers
from metamodel.analogy.synthetic import synthetic_graph, synthetic_pair
from metamodel.config import InputError

SEEDS = range(8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def circuit(seed: int, n_features: int = 3) -> CircuitGraph:
    graph = synthetic_graph(generator(seed), n_features=n_features)
    kept = ((mass(graph.edges) >= LEAST_SHARE) | graph.is_anchor).nonzero().squeeze(1)
    return graph.taken(kept)


def planted(seed: int, **level: float) -> MatchedPair:
    donors = [circuit(100 + seed), circuit(200 + seed)]
    spread = feature_spread([circuit(i) for i in range(20)])
    made = PlantedLevel(**level)  # pyright: ignore[reportArgumentType]
    deck = deck_of(donors, generator(seed))
    return planted_pair(circuit(seed), deck, generator(seed), made, spread=spread)


def names(pair: MatchedPair) -> set[tuple[str, str]]:
    assert pair.truth is not None
    return {(pair.first.names[i], pair.second.names[j]) for i, j in enumerate(pair.truth) if j != NONE}


@pytest.mark.parametrize("seed", SEEDS)
def test_without_changes_the_copy_is_the_circuit_in_another_order(seed):
    pair = planted(seed)
    assert (pair.truth != NONE).all()
    for field in ("features", "depth", "kinds"):
        assert torch.equal(getattr(pair.second, field)[pair.truth], getattr(pair.first, field))
    carried = pair.second.edges[:, pair.truth][:, :, pair.truth]
    torch.testing.assert_close(carried, pair.first.edges)
    assert pair.first.names != pair.second.names


@pytest.mark.parametrize("change", [{"noise": 0.5}, {"feature_noise": 1.0}, {"extra_layers": 2}])
def test_each_change_changes_what_it_says_and_nothing_else(change):
    moved = [planted(seed, **change) for seed in SEEDS]
    fields = {"edges": [], "features": [], "depth": []}
    for pair in moved:
        assert names(pair) == {(name, name) for name in {a for a, _ in names(pair)}}
        at = (pair.truth != NONE).nonzero().squeeze(1)
        fields["features"].append(torch.equal(pair.second.features[pair.truth[at]], pair.first.features[at]))
        fields["depth"].append(torch.equal(pair.second.depth[pair.truth[at]], pair.first.depth[at]))
        one, other = pair.first.edges[:, at][:, :, at], pair.second.edges
        other = other[:, pair.truth[at]][:, :, pair.truth[at]]
        fields["edges"].append(torch.allclose(one, other, atol=1e-6))
    changed = {"noise": "edges", "feature_noise": "features", "extra_layers": "depth"}[next(iter(change))]
    assert {field for field, same in fields.items() if not all(same)} == {changed}


def test_feature_noise_is_as_large_as_it_says_where_features_vary_and_zero_elsewhere():
    graph = circuit(1)
    spread = torch.tensor([0.0, 0.0, 2.0, 0.5, 0.0])[:, None].expand(5, 3)
    found = []
    for seed in range(200):
        pair = planted_pair(graph, [], generator(seed), PlantedLevel(feature_noise=0.5), spread=spread)
        found.append((pair.second.features[pair.truth] - pair.first.features) * torch.ones(1, 3))
        assert (found[-1][pair.first.is_anchor] == 0).all()
    heads = torch.cat([d[p] for d, p in ((d, d.abs().sum(1) > 0) for d in found)])
    assert 0.2 < float(heads.std()) < 1.05


@pytest.mark.parametrize("seed", SEEDS)
def test_dropped_components_lose_their_truth_and_strangers_have_none(seed):
    pair = planted(seed, dropped=2, inserted=2)
    strangers = [i for i, name in enumerate(pair.first.names) if name.startswith("stranger")]
    assert strangers
    assert (pair.truth[strangers] == NONE).all()
    back = inverted(pair.truth, len(pair.second))
    theirs = [i for i, name in enumerate(pair.second.names) if name.startswith("stranger")]
    assert theirs
    assert (back[theirs] == NONE).all()
    gone = set(pair.first.names) - set(pair.second.names)
    assert len(gone - {pair.first.names[i] for i in strangers}) >= 2
    at = [pair.first.names.index(name) for name in gone]
    assert all(pair.truth[i] == NONE for i in at if not pair.first.names[i].startswith("stranger"))
    assert all(a == b for a, b in names(pair))


@pytest.mark.parametrize("seed", SEEDS)
def test_both_circuits_keep_what_their_own_mass_lets_them_keep(seed):
    graph = synthetic_graph(generator(seed))
    deck = deck_of([graph], generator(seed))
    pair = planted_pair(graph, deck, generator(seed), PlantedLevel(noise=1.0, inserted=2))
    assert len(pair.first) < len(graph) + 2
    for one in (pair.first, pair.second):
        torch.testing.assert_close(one.edges.square().sum(), torch.tensor(1.0))
        assert one.is_anchor.sum() == 3


@pytest.mark.parametrize("seed", SEEDS)
def test_strangers_keep_the_order_of_depth_and_bring_the_features_of_a_donor(seed):
    pair = planted(seed, inserted=3)
    source, reader = pair.first.edges.sum(0).nonzero().T
    assert (pair.first.depth[source] < pair.first.depth[reader]).all()
    given = torch.cat([circuit(100 + seed).features, circuit(200 + seed).features])
    for i, name in enumerate(pair.first.names):
        brought = bool((pair.first.features[i] == given).all(1).any())
        assert brought == name.startswith("stranger")


def strangers_of(graph: CircuitGraph) -> list[tuple[float, ...]]:
    """Each by its features, which tell all components of donors apart."""
    return [
        tuple(graph.features[i].tolist()) for i, name in enumerate(graph.names) if name.startswith("stranger")
    ]


def test_no_stranger_is_put_in_twice_on_one_side_or_on_both():
    n = 0
    for seed in range(40):
        pair = planted(seed, inserted=4)
        found = strangers_of(pair.first) + strangers_of(pair.second)
        assert len(set(found)) == len(found)
        n += len(found)
    assert n > 40 * 6


def test_a_deck_holds_what_donors_keep_and_is_emptied_by_those_who_take():
    donors = [synthetic_graph(generator(i), n_features=3) for i in (1, 2)]
    deck = deck_of(donors, generator(0))
    assert sorted(node for donor, node in deck if donor is donors[0]) == active(donors[0]).tolist()
    assert len(deck) == sum(len(active(donor)) for donor in donors)
    assert [node for _, node in deck] != [node for _, node in deck_of(donors, generator(1))]
    n = len(deck)
    more = with_strangers(circuit(0), deck, generator(0), 1000)
    assert deck == []
    assert len(circuit(0)) < len(more) <= len(circuit(0)) + n


def test_components_that_are_dropped_are_missed():
    gone = []
    for seed in range(30):
        graph = synthetic_graph(generator(seed))
        pair = planted_pair(graph, [], generator(seed), PlantedLevel(dropped=3))
        gone.append(len(set(pair.first.names) - set(pair.second.names)))
    assert min(gone) >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_poorly_known_copy_has_noise_and_the_same_truth_among_what_is_kept(seed):
    pair = planted(seed)
    spread = feature_spread([circuit(i) for i in range(20)])
    level = PlantedLevel(noise=1.0, feature_noise=1.0, dropped=2)
    moved = poorly_known(pair, generator(seed), level, spread=spread)
    assert torch.equal(moved.first.edges, pair.first.edges)
    assert set(moved.second.names) <= set(pair.second.names)
    assert names(moved) == {both for both in names(pair) if both[1] in moved.second.names}
    name = next(x for x in moved.second.names if x.startswith("L"))
    i, j = pair.second.names.index(name), moved.second.names.index(name)
    assert not torch.equal(pair.second.features[i], moved.second.features[j])
    kept = mass(moved.second.edges)[~moved.second.is_anchor]
    torch.testing.assert_close(moved.second.edges.square().sum(), torch.tensor(1.0))
    assert len(kept) >= 2
    same = poorly_known(pair, generator(seed), PlantedLevel(dropped=2), spread=spread)
    assert len(same.second) == len(pair.second)
    assert names(same) == names(pair)


def test_permuting_a_pair_permutes_its_truth_and_a_wrong_order_does_not():
    pair = planted(3, dropped=1, inserted=1, noise=0.2)
    order = torch.randperm(len(pair.first), generator=generator(1))
    other = torch.randperm(len(pair.second), generator=generator(2))
    moved = pair.permuted(order, other)
    assert names(moved) == names(pair)
    assert not torch.equal(moved.truth, pair.truth)
    wrong = {(moved.first.names[i], moved.second.names[j]) for i, j in enumerate(pair.truth) if j != NONE}
    assert wrong != names(pair)
    assert moved.n_corresponding == pair.n_corresponding


def test_taking_a_component_out_takes_out_its_truth_and_no_other():
    pair = planted(4)
    left = torch.arange(len(pair.second))[1:]
    truth = reordered(pair.truth, torch.arange(len(pair.first)), left)
    assert (truth == NONE).sum() == 1
    assert truth[pair.truth == 0].tolist() == [NONE]
    assert torch.equal(truth[pair.truth != 0], pair.truth[pair.truth != 0] - 1)


def test_a_swapped_pair_is_the_same_map_backwards():
    pair = planted(5, dropped=2, inserted=1)
    assert names(pair.swapped()) == {(b, a) for a, b in names(pair)}
    assert torch.equal(pair.swapped().swapped().truth, pair.truth)


def test_blocks_that_are_put_in_move_depths_but_keep_their_order():
    graph = circuit(2)
    moved = stretched(graph, generator(0), 3)
    anchors = graph.is_anchor
    assert torch.equal(moved[anchors], graph.depth[anchors])
    assert not torch.equal(moved, graph.depth)
    order = graph.depth.argsort(stable=True)
    assert (moved[order].diff() >= -1e-6).all()
    assert ((moved >= 0) & (moved <= 1)).all()


def test_synthetic_circuits_have_the_sizes_that_they_should_and_differ():
    sizes = [len(synthetic_graph(generator(seed))) for seed in range(40)]
    active = [int((~circuit(seed).is_anchor).sum()) for seed in range(40)]
    assert min(sizes) >= 15
    assert max(sizes) <= 40
    assert len(set(sizes)) > 5
    assert 6 <= sum(active) / len(active) <= 15
    for seed in range(10):
        graph = synthetic_graph(generator(seed))
        assert (graph.edges >= 0).all()
        assert not bool((graph.edges > 0)[~open_places(graph)].any())


def test_one_generator_state_gives_one_synthetic_pair():
    level = PlantedLevel(noise=0.3, dropped=1, inserted=1, extra_layers=1, feature_noise=0.5)
    first, again, other = (synthetic_pair(generator(s), level, n_features=4) for s in (7, 7, 8))
    assert torch.equal(first.second.edges, again.second.edges)
    assert torch.equal(first.second.features, again.second.features)
    assert torch.equal(first.truth, again.truth)
    assert first.second.edges.shape != other.second.edges.shape or not torch.equal(
        first.second.edges, other.second.edges
    )
    assert first.kind == "synthetic"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_absent_circuit_has_the_edge_count_and_mass_of_the_one_that_is_there(seed):
    pair, other = planted(seed, noise=0.2), circuit(50 + seed)
    for made in (rewired(pair.second, generator(seed)), rank_matched(other, pair.second, generator(seed))):
        assert (made.edges > 0).sum() == (pair.second.edges > 0).sum()
        torch.testing.assert_close(made.edges.sum(), pair.second.edges.sum())
        assert not bool((made.edges > 0)[~open_places(made)].any())
    moved = rewired(pair.second, generator(seed))
    assert torch.equal(moved.kinds, pair.second.kinds)
    assert not torch.allclose(moved.edges, pair.second.edges)


def test_rank_matching_keeps_which_edges_are_strong():
    one, like = circuit(1), circuit(2)
    made = rank_matched(one, like, generator(0))
    strong = one.edges.flatten().argsort(descending=True)[:10]
    assert (made.edges.flatten()[strong].diff() <= 0).all()
    assert torch.equal(made.edges.flatten()[strong], like.edges.flatten().sort(descending=True).values[:10])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_edge_is_named_and_is_the_only_one_that_is_gone(seed):
    pair = planted(seed)
    found = without_edge(pair, generator(seed))
    source, reader = (pair.first.names.index(name) for name in found.missing)
    i, j = int(pair.truth[source]), int(pair.truth[reader])
    assert pair.second.edges[:, i, j].sum() > 0
    assert found.second.edges[:, i, j].sum() == 0
    gone = (pair.second.edges > 0) & (found.second.edges == 0)
    assert gone.sum() == (pair.second.edges[:, i, j] > 0).sum()
    assert not found.present
    assert torch.equal(found.truth, pair.truth)


def test_no_edge_is_missing_where_nothing_corresponds():
    pair = planted(0)
    alone = replace(pair, truth=torch.full_like(pair.truth, NONE))
    with pytest.raises(InputError, match="expected an edge between two nodes that correspond, got none"):
        without_edge(alone, generator(0))


def twins() -> CircuitGraph:
    """Embedding -> two equal heads -> a third head -> unembedding, edges of weight 1 through v."""
    edges = torch.zeros(8, 5, 5)
    edges[4, 0, 1] = edges[4, 0, 2] = edges[4, 1, 3] = edges[4, 2, 3] = edges[6, 3, 4] = 1.0
    return CircuitGraph(
        edges=edges / 5**0.5,
        features=torch.zeros(5, 0),
        kinds=torch.tensor([0, 2, 2, 2, 4]),
        depth=torch.tensor([0.0, 0.2, 0.2, 0.6, 1.0]),
        names=("token_embedding", "L0H0", "L0H1", "L1H0", "unembedding"),
    )


def test_equal_heads_are_one_orbit_and_any_difference_tells_them_apart():
    graph = twins()
    assert orbits(graph).tolist() == [0, 1, 1, 3, 4]
    edges = graph.edges.clone()
    edges[4, 1, 3] *= 1.5
    assert orbits(replace(graph, edges=edges)).tolist() == [0, 1, 2, 3, 4]
    channel = graph.edges.clone()
    channel[4, 0, 1], channel[2, 0, 1] = 0.0, float(channel[4, 0, 1])
    assert orbits(replace(graph, edges=channel)).tolist() == [0, 1, 2, 3, 4]
    features = torch.tensor([[0.0], [1.0], [2.0], [0.0], [0.0]])
    assert orbits(replace(graph, features=features)).tolist() == [0, 1, 2, 3, 4]
    assert orbits(replace(graph, depth=torch.tensor([0.0, 0.1, 0.2, 0.6, 1.0]))).tolist() == [0, 1, 2, 3, 4]


def test_a_truth_that_is_no_map_is_refused():
    graph = twins()
    rest = {"kind": "permuted", "split": "train", "first_side": blank_side(5), "second_side": blank_side(5)}
    for truth, got in (
        ([0, 1, 1, 3, 4], "expected each node at most once, got"),
        ([0, 1, 2, 3], "expected 5 entries, got 4"),
        ([0, 1, 2, 3, 5], "expected nodes below 5, got"),
        ([1, 0, 2, 3, 4], "expected nodes of one kind, got kinds that differ"),
    ):
        with pytest.raises(InputError, match=got):
            MatchedPair(first=graph, second=graph, truth=torch.tensor(truth), **rest)


def test_levels_below_zero_and_strangers_from_nowhere_are_refused():
    with pytest.raises(InputError, match=r"level\.noise: expected at least 0, got -1"):
        PlantedLevel(noise=-1.0)
    with pytest.raises(InputError, match="planted_pair: expected strangers, got none of them"):
        planted_pair(circuit(0), [], generator(0), PlantedLevel(inserted=1))
