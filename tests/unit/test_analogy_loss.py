"""The matcher's loss: its closed forms against naive sums, and where training by it ends."""

from dataclasses import replace

import pytest
import torch
from made_circuits import anchored, circuit, generator, noisy

from metamodel.analogy.energy import Edges
from metamodel.analogy.graph import CircuitBatch, compatible
from metamodel.config.errors import InputError
from metamodel.losses.analogy import (
    NONE,
    UNKNOWN,
    AnalogyWeights,
    analogy_loss,
    chains,
    cycle_loss,
    gromov_wasserstein,
    likelihoods,
)

LABELLED = AnalogyWeights()
UNLABELLED = AnalogyWeights(matched=0.0, unmatched=0.0, energy=1.0, temperature=0.1)


def batch(circuits: list[torch.Tensor], *, size: int = 0, kinds: torch.Tensor | None = None) -> CircuitBatch:
    n = max(size, *(c.shape[-1] for c in circuits))
    made = torch.zeros(len(circuits), circuits[0].shape[0], n, n)
    kind = torch.full((len(circuits), n), -1)
    for i, c in enumerate(circuits):
        k = c.shape[-1]
        made[i, :, :k, :k] = c / c.norm()
        kind[i, :k] = anchored(k) if kinds is None else kinds
    empty = made.new_zeros(len(circuits), n, 0)
    return CircuitBatch(edges=made, features=empty, kinds=kind, depth=made[:, 0, 0], mask=kind >= 0)


def planted(seeds, *, n: int = 9, noise: float = 0.0, inner: bool = True):
    """Circuits and copies whose inner nodes stand in another order, with the true map."""
    ones, others, truth = [], [], []
    for seed in seeds:
        a = circuit(seed, n)
        order = torch.arange(n)
        if inner:
            order[2:-1] = 2 + torch.randperm(n - 3, generator=generator(seed))
        ones.append(a)
        others.append(noisy(a, seed, noise)[:, order][:, :, order])
        truth.append(order.argsort())
    return batch(ones), batch(others), torch.stack(truth)


def unrelated(seeds, n: int = 9):
    return batch([circuit(s, n) for s in seeds]), batch([circuit(s + 500, n) for s in seeds])


def trained(first, second, weights, *, truth=None, n_steps=150, start=1e-3, lr=0.1, rising=False):
    """Free scores and dustbin, trained by the loss from a start of nearly equal scores."""
    shape = (len(first), first.mask.shape[1], second.mask.shape[1])
    scores = (start * torch.randn(shape, generator=generator(0))).requires_grad_()
    dustbin = torch.zeros(len(first), requires_grad=True)
    optimizer = torch.optim.Adam([scores, dustbin], lr=lr)
    for step in range(n_steps):
        now = replace(weights, tau=weights.tau * min(1, 2 * step / n_steps)) if rising else weights
        found = analogy_loss(scores, dustbin, first, second, weights=now, truth=truth)
        optimizer.zero_grad()
        found.total.sum().backward()
        optimizer.step()
    with torch.no_grad():
        return analogy_loss(scores, dustbin, first, second, weights=weights, truth=truth)


def inner(first: CircuitBatch) -> torch.Tensor:
    return torch.tensor([2 <= i < first.mask.shape[1] - 1 for i in range(first.mask.shape[1])])


def test_the_cost_of_relations_is_the_sum_over_pairs_of_pairs():
    g = generator(1)
    a, b = torch.rand(2, 3, 4, 4, generator=g).double(), torch.rand(2, 3, 5, 5, generator=g).double()
    p = torch.rand(2, 4, 5, generator=g).double() / 6
    naive = torch.zeros(2).double()
    for i in range(4):
        for k in range(4):
            for j in range(5):
                for m in range(5):
                    squares = (a[:, :, i, k] - b[:, :, j, m]).pow(2).sum(1)
                    naive += p[:, i, j] * p[:, k, m] * squares
    assert torch.allclose(gromov_wasserstein(a, b, p), naive / p.sum((1, 2)).pow(2))
    same = torch.eye(4).expand(2, 4, 4).double()
    assert torch.allclose(gromov_wasserstein(a, a, same), torch.zeros(2).double(), atol=1e-12)
    uniform = torch.full((2, 4, 4), 0.25).double()
    expected = 2 * a.var((2, 3), correction=0).sum(1)  # Var(A) + Var(B) + (difference of means)²
    assert torch.allclose(gromov_wasserstein(a, a, uniform), expected)


def test_chains_count_only_what_gains_on_both_sides():
    line = torch.zeros(1, 1, 3, 3)
    line[0, 0, 0, 1] = line[0, 0, 1, 2] = 1
    p = torch.eye(3)[None]
    assert float(chains(Edges.of(line, line), p, 0.5)) == pytest.approx(1.0)  # the middle: (2 - 2τ)²
    first_edge = line.clone()
    first_edge[0, 0, 1, 2] = 0
    assert float(chains(Edges.of(first_edge, line), p, 0.5)) == 0


def test_true_maps_cost_nothing_and_each_kind_of_mistake_costs():
    first, second = (
        batch([circuit(1)], kinds=torch.full((7,), 2)),
        batch([circuit(2)], kinds=torch.full((7,), 2)),
    )
    truth = torch.tensor([[0, 1, 2, 3, NONE, NONE, 4]])
    log_p = torch.full((1, 8, 8), -30.0)
    for i, j in ((0, 0), (1, 1), (2, 2), (3, 3), (6, 4), (4, 7), (5, 7), (7, 5), (7, 6)):
        log_p[0, i, j] = 0
    matched, alone = likelihoods(log_p, truth, first, second)
    assert float(matched) == float(alone) == 0
    for (i, j), expected in {(0, 0): (0.2, 0), (4, 7): (0, 0.25), (7, 6): (0, 0.25)}.items():
        worse = log_p.clone()
        worse[0, i, j] = -1
        found = likelihoods(worse, truth, first, second)
        assert [float(x) for x in found] == pytest.approx(expected)
    unknown = truth.masked_fill(truth == NONE, UNKNOWN)
    worse = log_p.clone()
    worse[0, 4, 7] = worse[0, 7, 6] = -9  # nothing is known of these
    assert [float(x) for x in likelihoods(worse, unknown, first, second)] == [0, 0]


def test_embeddings_do_not_count():
    first, second, truth = planted([1])
    scores, bin_ = torch.zeros(1, 9, 9), torch.zeros(1)
    one = analogy_loss(scores, bin_, first, second, weights=LABELLED, truth=truth)
    wrong = truth.clone()
    wrong[0, [0, 1, 8]] = NONE
    other = analogy_loss(scores, bin_, first, second, weights=LABELLED, truth=wrong)
    assert float(one.total) == pytest.approx(float(other.total))
    wrong[0, 3] = NONE
    moved = analogy_loss(scores, bin_, first, second, weights=LABELLED, truth=wrong)
    assert abs(float(moved.total) - float(one.total)) > 0.01


def test_swapping_the_circuits_changes_nothing_but_what_the_last_scaling_leaves():
    first, second, truth = planted(range(3), noise=0.3)
    scores = torch.randn(3, 9, 9, generator=generator(2))
    long = replace(LABELLED, n_steps=200, relations=0.5, chain=0.1)
    relations = (first.edges, second.edges)
    one = analogy_loss(scores, torch.zeros(3), first, second, weights=long, truth=truth, relations=relations)
    other = analogy_loss(
        scores.mT,
        torch.zeros(3),
        second,
        first,
        weights=long,
        truth=truth.argsort(1),
        relations=relations[::-1],
    )
    assert torch.allclose(one.total, other.total, atol=1e-4)
    assert torch.allclose(one.p, other.p.mT, atol=1e-4)
    straight = analogy_loss(
        scores.mT, torch.zeros(3), first, second, weights=long, truth=truth, relations=relations
    )
    assert not torch.allclose(one.total, straight.total, atol=0.05)


def test_padding_changes_nothing_and_gradients_are_finite():
    a, b = circuit(1, 6), circuit(2, 5)
    scores = torch.randn(1, 9, 8, generator=generator(3))
    plain = analogy_loss(
        scores[:, :6, :5], torch.zeros(1), batch([a]), batch([b]), weights=LABELLED,
        truth=torch.tensor([[0, 1, 3, 2, NONE, 4]]),
    )  # fmt: skip
    scores.requires_grad_()
    padded = analogy_loss(
        scores, torch.zeros(1), batch([a], size=9), batch([b], size=8),
        weights=replace(LABELLED, entropy=0.0), truth=torch.tensor([[0, 1, 3, 2, NONE, 4, -1, -1, -1]]),
    )  # fmt: skip
    for name in ("total", "matched", "unmatched", "energy", "entropy"):
        assert getattr(padded, name).detach().numpy() == pytest.approx(
            getattr(plain, name).numpy(), abs=1e-6
        ), name
    padded.total.sum().backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    assert not scores.grad[0, 6:].any()
    assert not scores.grad[0, :, 5:].any()


def test_gradcheck():
    first, second, truth = planted([3], n=6, noise=0.2)
    first, second = (
        replace(side, edges=side.edges.double(), features=side.features.double()) for side in (first, second)
    )
    weights = AnalogyWeights(relations=0.3, chain=0.2, entropy=0.1, n_steps=10)
    relations = (first.edges, second.edges)
    scores = torch.randn(1, 6, 6, generator=generator(1), dtype=torch.float64).requires_grad_()
    dustbin = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)

    def total(z, edge):
        return analogy_loss(z, edge, first, second, weights=weights, truth=truth, relations=relations).total

    assert torch.autograd.gradcheck(total, (scores, dustbin))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_the_gradient_does_not_vanish_at_small_temperatures(temperature):
    """In logits, that is in units of the temperature: a saturated coupling would have none."""
    first, second, truth = planted(range(4))
    scores = (0.1 * torch.randn(4, 9, 9, generator=generator(1))).requires_grad_()
    weights = replace(LABELLED, temperature=temperature)
    analogy_loss(scores, torch.zeros(4), first, second, weights=weights, truth=truth).total.sum().backward()
    assert scores.grad is not None
    assert float(scores.grad.norm() * temperature) > 0.05


def test_planted_maps_are_found_from_a_nearly_uniform_start_without_labels():
    first, second, truth = planted(range(8))
    found = trained(first, second, UNLABELLED, rising=True, n_steps=200)
    right = (found.p.argmax(2) == truth)[:, inner(first)].float().mean()
    assert float(right) > 0.85
    assert float(found.p.amax(2)[:, inner(first)].mean()) > 0.7  # neither uniform nor in the dustbin
    assert float(found.energy.mean()) < 0.15
    chance = (found.p.argmax(2) == truth.roll(1, 0))[:, inner(first)].float().mean()
    assert float(chance) < 0.5


def test_labels_are_learnt_with_part_of_the_nodes_unmatched_on_both_sides():
    first, second, truth = planted(range(4), noise=0.3)
    truth = truth.clone()
    truth[:, 3] = truth[:, 5] = NONE
    found = trained(first, second, LABELLED, truth=truth)
    matched = (truth >= 0) & inner(first)
    mass = found.p.sum(2)
    assert float(mass[matched].mean()) > 0.9
    assert float(mass[(truth == NONE) & inner(first)].mean()) < 0.1
    assert float(found.matched.mean() + found.unmatched.mean()) < 0.15


def test_unrelated_pairs_stay_in_the_band_of_the_null():
    first, second = unrelated(range(8))
    apart = trained(first, second, UNLABELLED, rising=True)
    near = trained(*planted(range(8), noise=0.2)[:2], UNLABELLED, rising=True)
    assert float(apart.energy.min()) > 0.3
    assert float(near.energy.max()) < float(apart.energy.min())
    mass = apart.p[:, inner(first)].sum(2)
    assert 0.0 < float(mass.mean()) < 0.98  # not all matched


def test_cost_of_relations_alone_flees_to_no_mass_and_the_energy_brings_it_back():
    """Mass in the dustbin costs relations nothing; a floor is what the energy is for."""
    first, second, _ = planted(range(4))
    may = compatible(first, second)
    start = torch.where(may, 0.0, 0.0)

    def pull(weights) -> float:
        dustbin = torch.zeros(4, requires_grad=True)
        relations = (first.edges, second.edges.roll(1, 0))
        analogy_loss(
            start, dustbin, first, second, weights=weights, relations=relations
        ).total.sum().backward()
        assert dustbin.grad is not None
        return float(dustbin.grad.sum())  # above 0: training lowers the dustbin's worth

    with_energy = AnalogyWeights(matched=0.0, unmatched=0.0, energy=1.0, relations=0.3, tau=0.0)
    assert pull(with_energy) > 0
    assert pull(replace(with_energy, energy=0.0)) < pull(with_energy)


def test_going_round_agrees_with_going_straight_or_costs():
    p, q = torch.eye(4)[torch.tensor([1, 0, 3, 2])], torch.eye(4)[torch.tensor([2, 3, 1, 0])]
    assert float(cycle_loss(p, q, p @ q)) == 0
    assert float(cycle_loss(p, q, q)) == pytest.approx(2)
    half = p.clone()
    half[0] = 0
    assert float(cycle_loss(half, q, half @ q)) == 0  # nodes that nobody matches do not count


def test_weights_out_of_range_are_answered_in_words():
    with pytest.raises(InputError, match=r"energy: expected at least 0, got -1\.0"):
        AnalogyWeights(energy=-1.0)
    with pytest.raises(InputError, match=r"temperature: expected above 0, got 0\.0"):
        AnalogyWeights(temperature=0.0)
