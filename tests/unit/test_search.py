"""Searches among many items for a few that were planted at random places, and every run counted."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from haystacks import haystack, set_function
from set_formulas import backed, both
from sets import haystack_oracle, hidden

from metamodel.circuits.ddmin import ddmin
from metamodel.circuits.item_order import correlated_order, neuron_activations
from metamodel.circuits.minimal_sets import minimal_sets
from metamodel.circuits.search import group_search
from metamodel.circuits.sets import SetOracle
from metamodel.config import InputError

MOST = 60
"""Evaluations of a search for 4 of 256."""


def function(n: int, lost: Callable[[frozenset[int]], float]) -> SetOracle:
    """An oracle whose metric is 1 less what is lost by a set of ablated indices."""

    def run(ablated: torch.Tensor) -> torch.Tensor:
        gone = [frozenset(row.nonzero().squeeze(1).tolist()) for row in ablated]
        return torch.tensor([[1 - lost(one)] for one in gone], dtype=torch.float64)

    return SetOracle([f"i{k}" for k in range(n)], run)


@pytest.mark.parametrize("kind", ["and", "sum"])
def test_four_of_256_are_found_in_sixty_evaluations_at_any_place(kind):
    rng = random.Random(kind)
    for _ in range(50):
        oracle, truth = set_function(kind, rng)
        found = group_search(oracle)
        assert found.complete
        assert frozenset(found.items) == truth
        assert not found.ddmin_needed
        assert found.evaluations == oracle.evaluations == len(found.log) <= MOST


@pytest.mark.parametrize("kind", ["and", "sum"])
def test_four_neurons_of_256_are_found_in_subjects(kind):
    rng = random.Random(f"subjects {kind}")
    for _ in range(5):
        planted, truth = hidden(kind, rng)
        oracle = haystack_oracle(planted, kind)
        assert len(oracle) == 256
        found = group_search(oracle)
        assert frozenset(found.items) == truth
        assert found.complete
        assert oracle.evaluations <= MOST


def test_distractors_of_a_haystack_have_the_norm_of_what_matters_and_weak_effects():
    planted = haystack("and", random.Random(0))
    weights = planted.subject.weights
    for name in ("W_in", "W_out"):
        w = weights[f"blocks.0.mlp.{name}"]
        norm = (w if name == "W_out" else w.T).norm(dim=1)
        assert norm.max() / norm.min() < 1.05
    oracle = haystack_oracle(planted, "and")
    rest = [name for name in oracle.names if name not in planted.component.values()]
    lost = 1 - float(oracle.gap().kept(oracle.ablate(rest))[0])
    assert 1e-4 < abs(lost) < 0.1


@pytest.mark.parametrize("kind", ["or of 2", "or of 3", "and with a pair"])
def test_what_no_half_shows_is_found_jointly(kind):
    rng = random.Random(kind)
    for _ in range(20):
        oracle, truth = set_function(kind, rng)
        found = group_search(oracle)
        assert found.complete
        assert found.ddmin_needed
        assert frozenset(found.items) == truth
        (joint,) = [one for one in found.sets if len(one) > 1]
        assert len(joint) == {"or of 2": 2, "or of 3": 3, "and with a pair": 2}[kind]


@pytest.mark.parametrize("kind", ["pair", "backup"])
def test_a_backup_pair_of_neurons_is_found_beside_four_others(kind):
    rng = random.Random(f"subjects {kind}")
    for _ in range(3):
        planted, truth = hidden(kind, rng)
        oracle = haystack_oracle(planted, kind)
        assert len(oracle) == 256
        found = group_search(oracle)
        assert frozenset(found.items) == truth
        assert found.ddmin_needed
        pair = {planted.component[name] for name in "pq"}
        assert pair in [set(one) for one in found.sets]
        few = minimal_sets(oracle.among(found.items), method="monotone")
        assert {frozenset(one) for one in few.necessary if len(one) > 1} == {frozenset(pair)}


def test_naive_bisection_fails_on_a_backup_pair():
    """The reason for the fallback: no half matters, so that bisection alone stops."""
    oracle, truth = set_function("or of 2", random.Random(1))
    found = group_search(oracle)
    singles = [test for test in found.log if test.stage == "single"]
    assert [test.matters for test in singles] == [False]
    assert frozenset(found.items) == truth


def test_a_backup_that_repairs_in_part_is_found_too():
    # 3 costs 0.3 while 7 stands in for it, and everything once 7 is gone as well; 7 alone costs nothing.
    found = group_search(function(64, lambda gone: (0.3 + 0.7 * (7 in gone)) * (3 in gone)))
    assert found.sets == (("i3",), ("i3", "i7"))
    assert found.complete
    assert found.log[-1].stage == "rest", "what was found last is verified too"
    assert found.log[-1].ablated == tuple(f"i{i}" for i in range(64) if i not in (3, 7))


def test_a_verdict_that_is_not_monotone_ends_in_a_set_of_which_no_part_matters():
    # 50 undoes the loss of 10, unless 60 is gone too.
    found = group_search(function(64, lambda gone: float(10 in gone and (50 not in gone or 60 in gone))))
    assert found.sets[0] == ("i10",)
    assert found.complete


@pytest.mark.parametrize("seed", range(30))
def test_every_set_that_is_found_in_a_random_function_has_been_run_and_is_irreducible(seed):
    rng, n = random.Random(seed), 24
    cores = [frozenset(rng.sample(range(n), rng.randint(1, 3))) for _ in range(3)]
    oracle = function(n, lambda gone: sum(core <= gone for core in cores) / len(cores))
    found = group_search(oracle, at_least=0.2)
    assert found.complete
    tested = {test.ablated: test.lost for test in found.log}
    for one in found.sets:
        assert tested[one] >= 0.2 - 1e-9
        gone = {int(name[1:]) for name in one}
        assert any(core <= gone for core in cores)
        # A backup is found again with its primary, which matters alone and is no part that can be left out.
        primary = next((set(s) for s in found.sets if len(s) == 1 and set(s) < set(one)), set())
        base = sum(core <= {int(name[1:]) for name in primary} for core in cores)
        for name in set(one) - primary:
            assert sum(core <= gone - {int(name[1:])} for core in cores) == base
    kept = {int(name[1:]) for name in found.items}
    assert not any(core <= set(range(n)) - kept for core in cores), "keeping only what was found suffices"


def test_an_effect_that_is_spread_is_said_to_be_and_strong_items_are_found_before():
    def lost(gone):
        return 0.5 * (17 in gone) + 0.5 * len(gone - {17}) / 63

    found = group_search(function(64, lost))
    assert found.items == ("i17",)
    assert not found.complete
    assert not found.ddmin_needed
    assert found.lost_when_kept == pytest.approx(0.5)
    assert "does not suffice" in found.describe()
    assert found.evaluations < 25


def test_the_budget_holds():
    for budget in (2, 10, 25):
        oracle, _ = set_function("and", random.Random(3))
        found = group_search(oracle, budget=budget)
        assert found.evaluations == oracle.evaluations == budget
        assert not found.complete


def test_results_are_readable():
    found = group_search(function(8, lambda gone: float(5 in gone or {1, 2} <= gone)))
    assert found.describe().splitlines() == [
        f"3 items in {found.evaluations} evaluations",
        "  i1 + i2",
        "  i5",
        "keeping only them suffices (0% of the gap lost)",
    ]


def test_neighbours_that_fire_together_cost_fewer_evaluations_than_shuffled_ones():
    rng = random.Random(5)
    ordered, shuffled = [], []
    for _ in range(4):
        planted, truth = hidden("and", rng)
        oracle = haystack_oracle(planted, "and")
        activations = neuron_activations(planted.subject, planted.prompts, oracle.names)
        by_cluster, by_component = (correlated_order(activations, how) for how in ("clusters", "components"))
        anyhow = rng.sample(range(256), 256)
        found = [group_search(oracle, order=order) for order in (by_cluster, by_component, anyhow)]
        assert all(frozenset(one.items) == truth for one in found)
        ordered.append(max(found[0].evaluations, found[1].evaluations))
        shuffled.append(found[2].evaluations)
    assert sum(ordered) < sum(shuffled) - 4


@pytest.mark.parametrize("how", ["clusters", "components"])
def test_correlated_items_stand_together(how):
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(200, 4, generator=generator) * torch.tensor([4.0, 3.0, 2.0, 1.0])
    cluster = torch.randint(4, (24,), generator=generator)
    sign = torch.randint(2, (24,), generator=generator) * 2 - 1
    x = source[:, cluster] * sign + 0.05 * torch.randn(200, 24, generator=generator)
    x[:, 7] = 3.0
    order = correlated_order(x, how)
    assert sorted(order) == list(range(24))
    assert order[-1] == 7, "an item that never changes comes last"
    runs = [int(cluster[i]) for i in order[:-1]]
    assert sum(a != b for a, b in itertools.pairwise(runs)) == 3


def test_ddmin_leaves_nothing_that_can_be_left_out():
    rng = random.Random(2)
    for _ in range(50):
        core = frozenset(rng.sample(range(20), rng.randint(1, 5)))
        other = frozenset(rng.sample(range(20), 3))

        def matters(part: Sequence[int], core=core, other=other) -> bool:
            gone = frozenset(part)
            return core <= gone or (other <= gone and len(gone) % 2 == 1)

        found = ddmin(range(20), matters)
        assert matters(found)
        assert not any(matters([i for i in found if i != j]) for j in found)


def test_a_formula_of_many_layers_is_searched_too():
    planted = haystack("backup", random.Random(9), n=64)
    assert planted.formula == both(*"abcd", backed("p", "q"))
    oracle = haystack_oracle(planted, "backup")
    assert {name.split(".")[0] for name in oracle.names} == {"MLP0", "MLP1"}
    assert frozenset(group_search(oracle).items) == frozenset(planted.component.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: group_search(function(4, lambda gone: 0.0)),
            "items: expected items whose ablation, all together, worsens the metric, got 1 with none ablated "
            "and 1 with all. Choose other items, prompts or another intervention: there is nothing to find.",
        ),
        (
            lambda: group_search(function(4, bool), order=[0, 1, 2, 2]),
            "order: expected each index from 0 to 3 once, got 4 indices, 3 of them different. "
            "Pass what correlated_order gives for the same items.",
        ),
        (
            lambda: group_search(function(4, bool), at_least=1.0),
            "at_least: expected a share in (0, 1), got 1.0. 0.1 is a tenth.",
        ),
        (
            lambda: group_search(function(4, bool), budget=1),
            "budget: expected at least 2 evaluations, got 1. The ends take 2.",
        ),
        (
            lambda: correlated_order(torch.ones(1, 3)),
            "activations: expected at least two samples, all finite, got 1 samples. "
            "Record activations on more prompts.",
        ),
        (
            lambda: correlated_order(torch.full((3, 3), torch.nan)),
            "activations: expected at least two samples, all finite, got nan or inf. "
            "Record activations on more prompts.",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message
