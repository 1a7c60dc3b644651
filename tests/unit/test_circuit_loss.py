"""Bounds, symmetries and gradient of the distance of circuits, against counts by hand and by brute force."""

from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_circuits import anchored, circuit, generator, noisy, permuted, without

from metamodel.analogy.energy import Edges, bound, energy
from metamodel.analogy.solver import SolverSetting
from metamodel.config.errors import InputError
from metamodel.losses.circuit import (
    MapKeeper,
    annealed_tau,
    best_map,
    circuit_distance,
    circuit_loss,
    loss_of_map,
)

QUICK = SolverSetting(n_steps=10, n_starts=1)


def edges_of(*edges: tuple[int, int, float], n: int) -> torch.Tensor:
    found = torch.zeros(1, n, n, dtype=torch.float64)
    for source, reader, size in edges:
        found[0, source, reader] = size
    return found


FEED_FORWARD = edges_of((0, 1, 1), (0, 2, 1), (1, 2, 1), n=4)
TWO_EDGES = edges_of((0, 1, 1), (2, 3, 1), n=4)


def partial_maps(n: int, m: int) -> torch.Tensor:
    """Every partial one-to-one map of n nodes to m, `[map, n, m]`."""
    found = []
    for chosen in product([False, True], repeat=n):
        rows = [i for i in range(n) if chosen[i]]
        for columns in permutations(range(m), len(rows)):
            p = torch.zeros(n, m, dtype=torch.float64)
            p[rows, list(columns)] = 1
            found.append(p)
    return torch.stack(found)


def least_loss(a: torch.Tensor, b: torch.Tensor, tau: float) -> float:
    maps = partial_maps(a.shape[-1], b.shape[-1])
    return float(loss_of_map(a.expand(len(maps), *a.shape), b.expand(len(maps), *b.shape), maps, tau).min())


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), m=st.integers(1, 6), tau=st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_every_substochastic_map_keeps_the_loss_between_0_and_1(seed, n, m, tau):
    g = generator(seed)
    a, b = (torch.rand(2, k, k, generator=g, dtype=torch.float64).pow(3) for k in (n, m))
    p = torch.rand(n, m, generator=g, dtype=torch.float64)
    p = p / torch.maximum(p.sum(0).max(), p.sum(1).max()).clamp_min(1.0)
    loss = float(loss_of_map(a, b, p, tau))
    assert -1e-12 <= loss <= 1
    assert 0 <= float(circuit_loss(a, b, tau=tau, setting=QUICK)) <= 1


def test_a_map_that_is_merely_row_stochastic_breaks_the_bound():
    star = edges_of(*((0, i, 1.0) for i in range(1, 6)), n=6)
    edge = edges_of((0, 1, 1.0), n=2)
    p = torch.zeros(6, 2, dtype=torch.float64)
    p[0, 0], p[1:, 1] = 1, 1
    assert float(loss_of_map(star, edge, p, 0.0)) == pytest.approx(-2 / 3, abs=1e-6)


def test_an_energy_below_0_counts_as_no_match():
    uniform = torch.full((4, 4), 0.25, dtype=torch.float64)
    edges = Edges.of(FEED_FORWARD, TWO_EDGES)
    assert float(energy(edges, uniform, 0.9)) < 0
    assert float(loss_of_map(FEED_FORWARD, TWO_EDGES, uniform, 0.9)) == pytest.approx(1, abs=1e-6)


def stacked(make, seeds) -> torch.Tensor:
    return torch.stack([make(seed) for seed in seeds])


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.8])
def test_a_circuit_is_not_away_from_itself_or_its_permutation(tau):
    a = stacked(circuit, range(10))
    b = stacked(lambda seed: permuted(circuit(seed), seed + 50)[0], range(10))
    zero = torch.zeros(10)
    assert torch.allclose(circuit_loss(a, a, tau=tau, setting=QUICK), zero, atol=1e-6)
    assert torch.allclose(circuit_loss(a, b, tau=tau), zero, atol=1e-6)
    assert torch.allclose(circuit_distance(a, b, tau=tau), zero, atol=1e-6)
    changed = a.clone().flatten(1)
    changed.scatter_(1, changed.argmax(1, keepdim=True), 0.0)
    assert float(circuit_loss(a, changed.view_as(a), tau=tau).min()) > 0.02


def test_swapping_the_circuits_changes_nothing():
    a = stacked(lambda seed: circuit(seed, 6), range(6))
    b = stacked(lambda seed: circuit(seed + 20, 8), range(6))
    for measure in (circuit_loss, circuit_distance):
        there, back = measure(a, b, tau=0.5), measure(b, a, tau=0.5)
        assert torch.allclose(there, back, atol=1e-6)
        assert float(there.min()) > 0.1
    p = best_map(a, b, tau=0.5)
    assert torch.allclose(loss_of_map(a, b, p, 0.5), loss_of_map(b, a, p.mT, 0.5), atol=1e-6)


def test_the_order_of_nodes_changes_nothing():
    a = stacked(lambda seed: circuit(seed, 6), range(8))
    b = stacked(lambda seed: noisy(circuit(seed, 6), seed, 0.3), range(8))
    c = stacked(lambda seed: permuted(noisy(circuit(seed, 6), seed, 0.3), seed)[0], range(8))
    there, moved = circuit_loss(a, b, tau=0.5), circuit_loss(a, c, tau=0.5)
    assert torch.allclose(there, moved, atol=1e-5)
    assert float((there - circuit_loss(a, c.roll(1, 0), tau=0.5)).abs().min()) > 0.05


def test_fractional_maps_may_beat_every_partial_permutation():
    """The two counterexamples of `research/formulas.md` C, with their energies."""
    best = least_loss(FEED_FORWARD, TWO_EDGES, 0.0)
    assert best == pytest.approx(0.6, abs=1e-6)
    half = torch.zeros(4, 4, dtype=torch.float64)
    half[0, 0], half[1, 1], half[1, 2], half[2, 1], half[2, 3] = 1, 0.5, 0.5, 0.5, 0.5
    assert float(energy(Edges.of(FEED_FORWARD, TWO_EDGES), half, 0.0)) == pytest.approx(2.5)
    assert float(loss_of_map(FEED_FORWARD, TWO_EDGES, half, 0.0)) == pytest.approx(0.5, abs=1e-6)
    assert float(circuit_distance(FEED_FORWARD, TWO_EDGES, tau=0.0)) == pytest.approx(0.6, abs=1e-6)


def test_the_solver_is_no_worse_than_brute_force_on_small_circuits():
    """The best one-to-one map is an upper bound of the loss, and a lower one of the reported distance."""
    met = 0
    for seed in range(6):
        a, b = circuit(seed, 5, density=0.5).double(), circuit(seed + 30, 4, density=0.5).double()
        least = least_loss(a, b, 0.5)
        assert float(circuit_loss(a, b, tau=0.5)) <= least + 1e-6
        distance = float(circuit_distance(a, b, tau=0.5))
        assert distance >= least - 1e-6
        met += distance < least + 1e-6
    assert met >= 5


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_gradient_is_that_of_the_loss_with_its_map_solved_anew(tau):
    a = circuit(3, 5).double()
    b = noisy(permuted(circuit(3, 5), 1)[0], 2, 0.2).double().requires_grad_()
    p = best_map(a, b.detach(), tau=tau)
    assert torch.equal(p, p.round())
    loss = circuit_loss(a, b, tau=tau)
    (found,) = torch.autograd.grad(loss, b)
    where, step = b.detach().nonzero(), 1e-5
    moved = b.detach().expand(2, len(where), *b.shape).clone()
    for k, index in enumerate(where.tolist()):
        moved[(0, k, *index)] += step
        moved[(1, k, *index)] -= step
    up, down = circuit_loss(a.expand_as(moved), moved, tau=tau, setting=QUICK)
    assert torch.allclose(found[where.unbind(1)], (up - down) / (2 * step), atol=1e-7)
    edges = Edges.of(a, b)
    constant = (1 - energy(edges, p, tau) / bound(edges, tau).detach()).sum()
    (without_normaliser,) = torch.autograd.grad(constant, b)
    assert float((without_normaliser - found).norm() / found.norm()) > 0.3


def test_gradcheck_of_both_circuits_under_a_fractional_map():
    a, b = circuit(1, 4).double(), noisy(circuit(1, 4), 2, 0.3).double()
    a, b = a.requires_grad_(), b.requires_grad_()
    p = 0.75 * torch.eye(4, dtype=torch.float64) + 0.05
    assert bool(energy(Edges.of(a, b), p, 0.1) > 0)
    assert torch.autograd.gradcheck(lambda x, y: circuit_loss(x, y, tau=0.1, p=p), (a, b))


def test_the_map_gets_no_gradient_and_the_teacher_may_have_none():
    a, b = circuit(1, 5), circuit(2, 5).requires_grad_()
    p = torch.full((5, 5), 0.2, requires_grad=True)
    circuit_loss(a, b, tau=0.0, p=p).backward()
    assert p.grad is None
    assert b.grad is not None
    assert bool(b.grad.any())


def mean_loss(change) -> float:
    pairs = [(circuit(seed), change(circuit(seed), seed)) for seed in range(12)]
    a, b = (torch.stack(side) for side in zip(*pairs, strict=True))
    return float(circuit_loss(a, b, tau=0.5).mean())


def test_more_noise_and_more_dropped_nodes_are_further_away_on_average():
    by_noise = [mean_loss(lambda c, s, x=x: noisy(permuted(c, s)[0], s, x)) for x in (0, 0.2, 0.5, 1.0)]
    by_drop = [mean_loss(lambda c, s, k=k: permuted(without(c, k), s)[0]) for k in range(4)]
    for found in (by_noise, by_drop):
        assert found == sorted(found)
        assert found[0] == pytest.approx(0, abs=1e-6)
        assert found[-1] > 0.3


def test_a_greater_threshold_never_brings_circuits_nearer():
    a = stacked(lambda seed: circuit(seed, 6), range(6))
    b = stacked(lambda seed: noisy(circuit(seed, 6), seed, 0.6), range(6))
    found = torch.stack([circuit_loss(a, b, tau=tau) for tau in (0.0, 0.3, 0.6, 0.9)])
    assert bool((found.diff(dim=0) >= -1e-6).all())
    assert bool((found[-1] > found[0] + 0.05).all())


def test_padding_changes_nothing_and_gives_finite_gradients():
    n, m, size = 6, 5, 9
    a, b = circuit(1, n), circuit(2, m)
    kinds = (anchored(n), anchored(m))
    plain = circuit_loss(a, b, tau=0.5, kinds=kinds)
    big = []
    for edges, kind in ((a, kinds[0]), (b, kinds[1])):
        padded = torch.zeros(len(edges), size, size)
        padded[:, : edges.shape[1], : edges.shape[1]] = edges
        # The one that is padded last in one batch with another pair, so that batching changes nothing either.
        more = torch.cat([kind, kind.new_full((size - len(kind),), -1)])
        big.append(
            (torch.stack([padded, circuit(7, size)]).requires_grad_(), torch.stack([more, anchored(size)]))
        )
    loss = circuit_loss(big[0][0], big[1][0], tau=0.5, kinds=(big[0][1], big[1][1]))
    assert torch.allclose(loss[0], plain, atol=1e-6)
    loss.sum().backward()
    for edges, _ in big:
        assert edges.grad is not None
        assert bool(edges.grad.isfinite().all())
    assert big[0][0].grad is not None
    assert not big[0][0].grad[0, :, n:].any()


def test_unrelated_circuits_score_in_the_band_of_the_null_and_copies_below_it():
    a, others = stacked(circuit, range(16)), stacked(circuit, range(100, 116))
    unrelated = circuit_loss(a, others, tau=0.5, setting=QUICK)
    assert float(unrelated.min()) > 0.3
    assert float(unrelated.max()) <= 1
    assert float(unrelated.median()) > 0.5
    copies = circuit_loss(a, stacked(lambda s: noisy(circuit(s), s, 0.3), range(16)), tau=0.5, setting=QUICK)
    assert float(copies.max()) < float(unrelated.quantile(0.05))
    loose = circuit_loss(a, others, tau=0.0, setting=QUICK)
    assert float(loose.mean()) < float(unrelated.mean()) - 0.1  # adding pairs is free there


def test_kinds_keep_embeddings_with_themselves():
    a = circuit(4, 6)
    kinds = (anchored(6), anchored(6))
    b, _ = permuted(a, 3)
    free, kept = (float(circuit_loss(a, b, tau=0.5, kinds=k)) for k in (None, kinds))
    assert free == pytest.approx(0, abs=1e-6)
    assert kept > 0.1
    p = best_map(a, b, tau=0.5, kinds=kinds)
    assert all(p[i, i] == 1 for i in (0, 1, 5))


def trained_distance(schedule) -> torch.Tensor:
    """Free, weak edges of 9 nodes go to circuits of 7, by the loss alone."""
    teacher, n_steps = stacked(circuit, range(2)), 160
    start = 0.01 * torch.rand(2, teacher.shape[1], 9, 9, generator=generator(0)).triu(1)
    student = start.requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    keeper = MapKeeper(every=10, setting=QUICK)
    for step in range(n_steps):
        tau = schedule(step, n_steps)
        edges = student.abs()
        loss = circuit_loss(teacher, edges, tau=tau, p=keeper(teacher, edges, tau=tau)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return circuit_loss(teacher, student.detach().abs(), tau=0.5)


def test_weak_edges_learn_when_the_threshold_rises_from_0_and_not_at_a_fixed_one():
    assert float(trained_distance(annealed_tau).max()) < 0.2
    assert float(trained_distance(lambda step, n: 0.5).min()) > 0.7


def test_the_threshold_rises_from_0_and_stays():
    found = [annealed_tau(step, 100) for step in (0, 30, 60, 99)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.5])


def test_a_kept_map_changes_only_where_that_gains_enough():
    a, b = circuit(1), permuted(circuit(1), 2)[0]
    other = noisy(b, 3, 0.02)
    keeper = MapKeeper(every=2, gain=0.02)
    first = keeper(a, b, tau=0.5)
    assert torch.equal(keeper(a, other, tau=0.5), first)
    assert torch.equal(keeper(a, other, tau=0.5), first)
    moved = permuted(circuit(1), 9)[0]
    assert torch.equal(keeper(a, moved, tau=0.5), first)  # not yet asked again
    assert not torch.equal(keeper(a, moved, tau=0.5), first)
    with pytest.raises(InputError, match="every: expected at least 1, got 0"):
        MapKeeper(every=0)


def test_bad_input_is_answered_in_words():
    with pytest.raises(InputError, match=r"tau: expected at least 0, below 1, got 1\.0"):
        circuit_loss(circuit(1), circuit(2), tau=1.0)
