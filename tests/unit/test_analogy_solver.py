"""Energy, Frank-Wolfe, unrolled steps and growth, against brute force, hand-made answers and laws."""

from dataclasses import replace
from itertools import permutations, product

import pytest
import torch

from metamodel.analogy.energy import Edges, bound, energy, gradient, messages
from metamodel.analogy.graph import CHANNELS, CircuitGraph, circuit_graph, edge_matrix, stacked
from metamodel.analogy.mapping import edge_score, grown, matched_edges
from metamodel.analogy.pairs import NONE
from metamodel.analogy.planted import PlantedLevel, planted_pair
from metamodel.analogy.sinkhorn import coupling, log_sinkhorn
from metamodel.analogy.solver import SolverSetting, as_map, rounded, solve
from metamodel.analogy.strangers import deck_of
from metamodel.analogy.synthetic import synthetic_graph
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.subjects.config import SubjectConfig, components


def small_graphs(seed: int, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges of two small graphs without self-loops, float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(2, len(CHANNELS), n, n, generator=generator, dtype=torch.float64)
    drawn = drawn * (torch.rand(drawn.shape, generator=generator) < 0.3) * (1 - torch.eye(n))
    return drawn[0], drawn[1]


def naive_energy(a, b, p, tau):
    """Sum over pairs of pairs of gains 2ab - tau (a² + b²)."""
    total, n = 0.0, len(p)
    for i, j, k, m in product(range(n), repeat=4):
        gains = 2 * a[:, i, k] * b[:, j, m] - tau * (a[:, i, k] ** 2 + b[:, j, m] ** 2)
        total += p[i, j] * p[k, m] * float(gains.sum())
    return total


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_energy_is_the_sum_of_gains_over_pairs_of_pairs(tau):
    a, b = small_graphs(0, 4)
    p = torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]]
    assert float(energy(Edges.of(a, b), p, tau)) == pytest.approx(naive_energy(a, b, p, tau))


def test_the_gradient_is_that_of_autograd_and_twice_the_energy_along_the_map():
    a, b = small_graphs(1)
    p = torch.rand(5, 5, dtype=torch.float64).requires_grad_()
    edges = Edges.of(a, b)
    reached = energy(edges, p, 0.3)
    (expected,) = torch.autograd.grad(reached, p)
    torch.testing.assert_close(gradient(edges, p.detach(), 0.3), expected)
    assert float((p.detach() * expected).sum()) == pytest.approx(2 * float(reached.detach()))
    read, written = messages(edges, p.detach(), 0.3)
    torch.testing.assert_close(read + written, expected)


def test_at_a_map_an_entry_is_what_removing_the_pair_loses():
    a, b = small_graphs(2)
    edges, p = Edges.of(a, b), torch.eye(5, dtype=torch.float64)
    slope, whole = gradient(edges, p, 0.4), energy(edges, p, 0.4)
    for i in range(5):
        without = p.clone()
        without[i, i] = 0
        assert float(slope[i, i]) == pytest.approx(float(whole - energy(edges, without, 0.4)))


def test_no_substochastic_map_exceeds_the_bound_but_a_row_stochastic_one_does():
    a, b = small_graphs(3)
    edges = Edges.of(a, b)
    for seed in range(20):
        torch.manual_seed(seed)
        p = torch.rand(5, 5, dtype=torch.float64)
        p = p / max(float(p.sum(0).max()), float(p.sum(1).max()))
        assert energy(edges, p, 0.5) <= bound(edges, 0.5)
    star = torch.zeros(len(CHANNELS), 6, 6, dtype=torch.float64)
    star[0, 0, 1:] = 1
    one = torch.zeros(len(CHANNELS), 2, 2, dtype=torch.float64)
    one[0, 0, 1] = 1
    p = torch.tensor([[1.0, 0.0]] + [[0.0, 1.0]] * 5, dtype=torch.float64)
    assert energy(Edges.of(star, one), p, 0.0) > bound(Edges.of(star, one), 0.0)


def test_sinkhorn_rows_and_columns_sum_to_one_with_their_dustbins():
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 6, dtype=torch.float64)
    allowed = torch.rand(2, 4, 6) < 0.7
    log = log_sinkhorn(scores, allowed, torch.zeros(2, dtype=torch.float64), n_steps=200)
    p = log.exp()
    torch.testing.assert_close(p[:, :4].sum(-1), torch.ones(2, 4, dtype=torch.float64))
    torch.testing.assert_close(p[:, :, :6].sum(-2), torch.ones(2, 6, dtype=torch.float64))
    assert not (p[:, :4, :6] * ~allowed).any()
    more = log_sinkhorn(scores, allowed, torch.full((2,), 5.0, dtype=torch.float64), n_steps=200)
    assert coupling(more, allowed).sum() < 0.2 * coupling(log, allowed).sum()


def pair_at(seed: int, **level) -> tuple[CircuitGraph, CircuitGraph, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    donors = [synthetic_graph(generator) for _ in range(2)]
    deck = deck_of(donors, generator)
    pair = planted_pair(synthetic_graph(generator), deck, generator, PlantedLevel(**level))
    assert pair.truth is not None
    return pair.first, pair.second, pair.truth


def solved(first: CircuitGraph, second: CircuitGraph, setting: SolverSetting) -> torch.Tensor:
    one, other = stacked([first]), stacked([second])
    return rounded(solve(one, other, setting), one, other, setting)[0]


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_a_permuted_circuit_is_found_exactly(tau):
    for seed in range(4):
        first, second, truth = pair_at(seed)
        assert edge_score(first, second, solved(first, second, SolverSetting(tau=tau)), tau) == pytest.approx(
            1.0, abs=1e-5
        )
        assert edge_score(first, second, truth, tau) == pytest.approx(1.0, abs=1e-5)


def test_solving_is_equivariant_and_sensitive():
    first, second, _ = pair_at(7, noise=0.3, dropped=1)
    setting = SolverSetting(n_starts=1)
    pairs = solved(first, second, setting)
    order = torch.randperm(len(second), generator=torch.Generator().manual_seed(1))
    moved = solved(first, second.taken(order), setting)
    held = pairs != NONE
    assert torch.equal(order[moved[held]], pairs[held])
    rewired = replace(second, edges=second.edges.flip(-1))
    assert not torch.equal(solved(first, rewired, setting), pairs)


def test_the_best_partial_map_of_brute_force_is_a_bound_that_is_mostly_reached():
    setting, reached = SolverSetting(tau=0.5, n_starts=8), []
    for seed in range(12):
        a, b = small_graphs(seed, 4)
        edges = Edges.of(a, b)
        best = 0.0
        for image in set(permutations([0, 1, 2, 3] + [NONE] * 4, 4)):
            pairs = torch.tensor(image)
            best = max(best, float(energy(edges, as_map(pairs[None], 4, dtype=torch.float64)[0], 0.5)))
        graphs = [
            CircuitGraph(
                edges=x,
                features=torch.zeros(4, 0),
                kinds=torch.full((4,), 2),
                depth=torch.zeros(4),
                names=("a",) * 4,
            )
            for x in (a.float(), b.float())
        ]
        pairs = solved(*graphs, setting)
        found = float(energy(edges, as_map(pairs[None], 4, dtype=torch.float64)[0], 0.5))
        assert found <= best + 1e-6
        reached.append(found >= best - 1e-6)
    assert sum(reached) >= 10


def test_padding_changes_nothing():
    pairs = [pair_at(seed, noise=0.4, dropped=2, inserted=1) for seed in (1, 2, 3)]
    setting = SolverSetting(n_starts=1)
    first, second = stacked([p[0] for p in pairs], size=60), stacked([p[1] for p in pairs], size=55)
    together = rounded(solve(first, second, setting), first, second, setting)
    for i, (one, other, _) in enumerate(pairs):
        assert torch.equal(together[i, : len(one)], solved(one, other, setting))


def test_a_map_grows_best_first_and_stops_where_pairs_cost():
    first, second, truth = pair_at(5, dropped=3, inserted=2)
    complete = truth.clone()
    spare = [j for j in range(len(second)) if j not in set(truth.tolist())]
    for i in (truth == NONE).nonzero().squeeze(1).tolist():
        same = [j for j in spare if second.kinds[j] == first.kinds[i]]
        if same:
            complete[i] = same[0]
            spare.remove(same[0])
    growth = grown(first, second, complete, 0.5)
    n_true = int(((truth != NONE) & ~first.is_anchor).sum())
    assert set(growth.nodes[: n_true - 1]) <= set((truth != NONE).nonzero().squeeze(1).tolist())
    assert abs(growth.breakdown - n_true) <= 1
    everything = Edges.of(first.edges, second.edges)
    anchors = as_map(torch.where(first.is_anchor, truth, NONE)[None], len(second))[0]
    whole = as_map(complete[None], len(second))[0]
    gained = float(energy(everything, whole, 0.5) - energy(everything, anchors, 0.5))
    assert sum(growth.gains) * float(bound(everything, 0.5)) == pytest.approx(gained, abs=1e-5)


def test_matched_edges_are_those_on_both_sides_largest_first():
    first, second, truth = pair_at(3)
    found = matched_edges(first, second, truth)
    assert len(found) == int((first.edges > 0).sum())
    assert all(x[3] == pytest.approx(x[4], abs=1e-5) for x in found)
    assert [min(x[3:]) for x in found] == sorted((min(x[3:]) for x in found), reverse=True)
    assert matched_edges(first, second, torch.full_like(truth, NONE)) == []


CONFIG = SubjectConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=8, d_vocab=5, n_ctx=4)


def test_scores_become_typed_edges_by_hand():
    graph = component_edges(CONFIG)
    values = torch.zeros(len(graph))
    k_edge = next(i for i, e in enumerate(graph.edges) if e.name == "L0H1->L1H0.k")
    last = next(i for i, e in enumerate(graph.edges) if e.name == "L1H0->unembedding")
    values[k_edge], values[last] = -3.0, 4.0
    names = [node.name for node in components(CONFIG)]
    matrix = edge_matrix(CONFIG, values)
    assert float(matrix[CHANNELS.index("k+"), names.index("L0H1"), names.index("L1H0")]) == 3.0
    assert float(matrix[CHANNELS.index("in-"), names.index("L1H0"), names.index("unembedding")]) == 4.0
    assert float(matrix.sum()) == 7.0
    circuit, kept = circuit_graph(CONFIG, values)
    assert circuit.names == ("token_embedding", "position_embedding", "L0H1", "L1H0", "unembedding")
    assert float(circuit.edges.norm()) == pytest.approx(1.0)
    assert [names[i] for i in kept.tolist()] == list(circuit.names)


def test_bad_input_is_one_line():
    with pytest.raises(InputError, match=r"edge scores: expected \d+ edges of a subject of this size, got 3"):
        edge_matrix(CONFIG, torch.zeros(3))
    with pytest.raises(InputError, match="tau: expected at least 0, below 1, got 1"):
        SolverSetting(tau=1.0)
    with pytest.raises(InputError, match="n_steps: expected at least 1, got 0"):
        SolverSetting(n_steps=0)
