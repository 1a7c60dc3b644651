"""All minimal sets against the truth of a formula, by trying every subset in another way than the code."""

import dataclasses
import random

import pytest
import torch
from planted_sets import Planted, edges_hold, edges_of, plant
from set_formulas import FORMULAS, Families, both, either, true_families

from metamodel.circuits.interactions import interactions
from metamodel.circuits.lattice import both_families, minimal, transversals
from metamodel.circuits.minimal_sets import MinimalSets, minimal_sets
from metamodel.circuits.oracles import component_oracle, edge_oracle, neuron_oracle
from metamodel.circuits.roles import Roles, roles
from metamodel.circuits.sets import SetOracle
from metamodel.config import InputError

SMALL = [name for name in FORMULAS if name != "12 items"]
NOT_MONOTONE = ["suppressor", "suppressor and others"]
WITH_EDGES = ["and of 5", "or of 4", "backup beside an and", "backup of a backup", "nested", "and of ors"]


def families(found: MinimalSets) -> Families:
    assert len(set(found.sufficient)) == len(found.sufficient)
    assert len(set(found.necessary)) == len(found.necessary)
    return frozenset(map(frozenset, found.sufficient)), frozenset(map(frozenset, found.necessary))


def oracle_of(planted: Planted, intervention) -> SetOracle:
    items = list(planted.component.values())
    make = component_oracle if items[0].startswith("L") else neuron_oracle
    return make(planted.subject, planted.prompts, items, intervention=intervention)


@pytest.mark.parametrize("method", ["enumeration", "monotone"])
@pytest.mark.parametrize("intervention", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["neuron", "head"])
@pytest.mark.parametrize("name", SMALL)
def test_every_minimal_set_of_a_planted_circuit_is_found(name, kind, intervention, method):
    planted = plant(FORMULAS[name], kind=kind, extra=1, seed=1)
    truth = planted.families(restored=intervention == "denoising")
    found = minimal_sets(oracle_of(planted, intervention), method=method)
    assert families(found) == truth
    monotone = name not in NOT_MONOTONE
    assert found.dual == monotone
    assert found.method == (method if monotone else "enumeration")
    assert found.monotone == (None if method == "monotone" and monotone else monotone)
    assert planted.component["extra0"] in found.idle


@pytest.mark.parametrize("kind", ["neuron", "head"])
def test_every_minimal_set_of_twelve_items_is_found(kind):
    planted = plant(FORMULAS["12 items"], kind=kind, seed=2)
    assert len(planted.component) == 12
    for intervention in ("noising", "denoising"):
        truth = planted.families(restored=intervention == "denoising")
        assert len(truth[0]) >= 8
        found = minimal_sets(oracle_of(planted, intervention), method="monotone")
        assert families(found) == truth
        assert found.evaluations < 400
    if kind == "neuron":
        assert families(minimal_sets(oracle_of(planted, "noising"))) == planted.families()


@pytest.mark.parametrize("name", ["nested", "backup of an and's arm", "suppressor and others"])
def test_zero_ablation_tells_the_same_sets_where_off_is_zero(name):
    planted = plant(FORMULAS[name])
    assert families(minimal_sets(oracle_of(planted, "zero"))) == planted.families()


@pytest.mark.parametrize("metric", ["margin", "accuracy", "logit_difference", "probability", "kl"])
def test_any_metric_tells_the_same_sets(metric):
    planted = plant(FORMULAS["backup of an and's arm"])
    items = list(planted.component.values())
    oracle = neuron_oracle(planted.subject, planted.prompts, items, metric=metric)
    assert families(minimal_sets(oracle)) == planted.families()


@pytest.mark.parametrize("name", WITH_EDGES)
def test_every_minimal_set_of_edges_is_found(name):
    planted = plant(FORMULAS[name], kind="head")
    edges = edges_of(planted)[:12]
    others = set(edges_of(planted)) - set(edges)
    truth = true_families(edges, lambda kept: edges_hold(planted, kept | others))
    oracle = edge_oracle(planted.subject, planted.prompts, edges)
    found = minimal_sets(oracle)
    assert families(found) == truth
    # A backup whose edge from the primary is there stays silent even if no other edge heeds the primary.
    assert found.monotone == ("backup" not in name)
    assert families(minimal_sets(oracle, method="monotone")) == truth


def function(n: int, works) -> SetOracle:
    """An oracle whose metric is 1 where the set of kept indices works, else 0."""

    def run(ablated: torch.Tensor) -> torch.Tensor:
        kept = [frozenset((~row).nonzero().squeeze(1).tolist()) for row in ablated]
        return torch.tensor([[float(works(one))] for one in kept])

    return SetOracle([f"i{k}" for k in range(n)], run)


def named(family: Families) -> Families:
    return tuple(frozenset(frozenset(f"i{i}" for i in one) for one in part) for part in family)  # type: ignore


@pytest.mark.parametrize("seed", range(20))
def test_random_verdicts_that_are_not_monotone_are_exact(seed):
    rng, n = random.Random(seed), 6
    table = {one: rng.random() < 0.4 for one in range(1 << n)} | {0: False, (1 << n) - 1: True}
    works = lambda kept: table[sum(1 << i for i in kept)]  # noqa: E731
    truth = named(true_families(range(n), works))  # type: ignore
    for method in ("enumeration", "monotone"):
        found = minimal_sets(function(n, works), method=method)
        assert families(found) == truth
        assert found.method == "enumeration"
        assert not found.dual
        assert found.monotone is False
        assert found.harmful


@pytest.mark.parametrize("seed", range(20))
def test_random_monotone_verdicts_are_exact_by_both_methods(seed):
    rng, n = random.Random(seed), 7
    cores = [frozenset(rng.sample(range(n), rng.randint(1, 4))) for _ in range(rng.randint(1, 6))]
    works = lambda kept: any(core <= kept for core in cores)  # noqa: E731
    truth = named(true_families(range(n), works))  # type: ignore
    whole = minimal_sets(function(n, works))
    quick = minimal_sets(function(n, works), method="monotone")
    assert families(whole) == families(quick) == truth
    assert whole.monotone
    assert whole.dual
    assert whole.idle == quick.idle
    assert whole.evaluations == 2**n


def test_many_items_are_searched_if_monotone():
    cores = [{0, 1, 2}, {2, 30}, {5, 6, 31}, {7}]
    found = minimal_sets(function(32, lambda kept: any(core <= kept for core in cores)), method="monotone")
    assert families(found)[0] == frozenset(frozenset(f"i{i}" for i in core) for core in cores)
    assert found.dual
    assert found.evaluations < 400


def test_joint_generation_asks_for_few_sets():
    asked = []

    def works(kept):
        asked.extend(kept)
        return [one & 0b11 == 0b11 or one & 0b1100 == 0b1100 for one in kept]

    assert both_families(works, 10) == ((0b11, 0b1100), (0b101, 0b1001, 0b110, 0b1010))
    assert len(asked) <= 4 + 2 * 11


def test_transversals_are_an_involution_on_minimal_families():
    family = minimal([0b0011, 0b0110, 0b1100, 0b0111])
    assert family == (0b0011, 0b0110, 0b1100)
    assert transversals(transversals(family)) == family
    assert transversals([]) == (0,)


def test_the_share_decides_what_works():
    quarters = SetOracle(list("abcd"), lambda gone: 1 - gone.double().mean(1, keepdim=True))
    sizes = {
        share: (
            {len(s) for s in minimal_sets(quarters, at_least=share).sufficient},
            {len(s) for s in minimal_sets(quarters, at_least=share).necessary},
        )
        for share in (0.25, 0.5, 0.6, 1.0)
    }
    assert sizes == {0.25: ({1}, {4}), 0.5: ({2}, {3}), 0.6: ({3}, {2}), 1.0: ({4}, {1})}
    found = minimal_sets(quarters, at_least=0.6)
    assert found.left_by_sufficient.tolist() == pytest.approx([0.75] * 4)
    assert found.left_by_necessary.tolist() == pytest.approx([0.5] * 6)
    assert found.lost_alone.tolist() == pytest.approx([0.25] * 4)


def test_results_are_readable():
    planted = plant(both("a", either("b", "c")), extra=1)
    found = minimal_sets(oracle_of(planted, "noising"))
    assert found.describe().splitlines() == [
        "4 items, 16 evaluations (enumeration; the verdict is monotone)",
        "enough to keep 50% of the gap:",
        "  MLP0.1 + MLP0.2: 100% kept",
        "  MLP0.1 + MLP0.3: 100% kept",
        "enough to lose it when ablated:",
        "  MLP0.1: 0% left",
        "  MLP0.2 + MLP0.3: 0% left",
        "never matter: MLP0.0",
    ]
    assert found.to_pandas().to_dict("list") == {
        "kind": ["sufficient", "sufficient", "necessary", "necessary"],
        "items": ["MLP0.1 + MLP0.2", "MLP0.1 + MLP0.3", "MLP0.1", "MLP0.2 + MLP0.3"],
        "size": [2, 2, 1, 2],
        "left": pytest.approx([1, 1, 0, 0], abs=1e-6),
    }


def roles_of(name: str, kind="neuron", *, restored: bool = True) -> tuple[Roles, dict[str, str]]:
    planted = plant(FORMULAS[name], kind=kind, extra=1)
    found, other = (minimal_sets(oracle_of(planted, x)) for x in ("noising", "denoising"))
    return roles(found, restored=other if restored else None), planted.component


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("and of 2", "a AND b"),
        ("or of 4", "a OR b OR c OR d"),
        ("backup beside an and", "(a OR b) AND c AND d"),
        ("backup of an and's arm", "((a AND b) OR c) AND d"),
        ("nested", "a AND (b OR (c AND (d OR e)))"),
        ("two of three", "(a AND b) OR (a AND c) OR (b AND c)"),
        ("not read-once", "(a AND b) OR (b AND c) OR (c AND d)"),
        (
            "12 items",
            "((a AND b) OR (c AND d)) AND ((e AND f) OR g) AND (h OR i OR (j AND k) OR l)",
        ),
    ],
)
def test_the_formula_is_read_off_the_sets(name, text):
    planted = plant(FORMULAS[name])
    letters = {label: letter for letter, label in planted.component.items()}
    found = minimal_sets(oracle_of(planted, "noising"), method="monotone")

    def letters_only(family):
        return tuple(tuple(letters[x] for x in one) for one in family)

    order = tuple(sorted(letters.values()))
    renamed = dataclasses.replace(
        found,
        names=order,
        sufficient=letters_only(found.sufficient),
        necessary=letters_only(found.necessary),
    )
    formula = roles(renamed).formula
    assert formula.text == text
    assert formula.read_once == (name not in ("two of three", "not read-once"))


@pytest.mark.parametrize("kind", ["neuron", "head"])
def test_a_backup_is_told_from_an_alternative_by_denoising(kind):
    found, at = roles_of("backup beside an and", kind)
    assert [(b.item, b.primaries, b.silent) for b in found.backups] == [
        (at["a"], (at["b"],), False),
        (at["b"], (at["a"],), True),
    ]
    assert set(found.essential) == {at["c"], at["d"]}
    assert found.redundant == (at["extra0"],)
    assert f"{at['b']} backs up {at['a']}" in found.describe()
    alike, at = roles_of("or of 2", kind)
    assert {b.silent for b in alike.backups} == {False}
    assert "backs up" not in alike.describe()
    untold, _ = roles_of("backup beside an and", kind, restored=False)
    assert {b.silent for b in untold.backups} == {None}
    assert "denoising tells" in untold.describe()


def test_what_costs_something_alone_backs_up_nothing():
    def run(gone: torch.Tensor) -> torch.Tensor:
        return (1 - 0.2 * gone[:, :1].double()) * (1 - gone.double().prod(1, keepdim=True))

    found = minimal_sets(SetOracle(["primary", "backup"], run))
    assert [b.item for b in roles(found).backups] == ["backup"]
    assert [b.item for b in roles(found, costs_nothing=0.3).backups] == ["primary", "backup"]


def test_groups_name_their_arms():
    found, at = roles_of("backup of an and's arm")
    assert [g.arms for g in found.and_groups][1:] == [((at["a"],), (at["b"],))]
    assert [g.arms for g in found.or_groups] == [((at["a"], at["b"]), (at["c"],))]


def test_a_suppressor_is_harmful_and_neither_needed_nor_idle():
    planted = plant(FORMULAS["suppressor"], extra=1)
    found = minimal_sets(oracle_of(planted, "noising"))
    at = planted.component
    assert found.harmful == (at["b"],)
    assert found.idle == (at["extra0"],)
    assert found.necessary == ((at["a"],), (at["c"],))
    assert roles(found).harmful == found.harmful


def test_single_effects_miss_what_pairs_show():
    """Ranking nodes by their own ablation fails on a backup; interactions and minimal sets do not."""
    planted = plant(FORMULAS["backup beside an and"], extra=2)
    at = planted.component
    found = interactions(oracle_of(planted, "noising"))
    alone = dict(zip([s[0] for s in found.sets if len(s) == 1], found.damage.tolist(), strict=False))
    assert abs(alone[at["a"]]) < 0.01
    assert abs(alone[at["extra0"]]) < 0.01
    strongest = found.to_pandas().query("size == 2 and value > 0.5")["items"].tolist()
    assert [set(s.split(" + ")) for s in strongest] == [{at["a"], at["b"]}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: minimal_sets(function(17, bool)),
            "minimal_sets: expected at most 16 items for method enumeration, got 17. Find those that matter "
            "with group_search first, or group them; method='monotone' takes 64.",
        ),
        (
            lambda: minimal_sets(function(65, bool), method="monotone"),
            "minimal_sets: expected at most 64 items for method monotone, got 65. Find those that matter "
            "with group_search first, or group them.",
        ),
        (
            lambda: minimal_sets(function(2, bool), at_least=0.0),
            "at_least: expected a share in (0, 1], got 0.0. 0.5 is half the gap.",
        ),
        (
            lambda: minimal_sets(function(2, lambda kept: True)),
            "items: expected items whose ablation, all together, worsens the metric, got 1 with none ablated "
            "and 1 with all. Choose other items, prompts or another intervention: there is nothing to find.",
        ),
        (
            lambda: minimal_sets(function(2, lambda kept: not kept)),
            "items: expected items whose ablation, all together, worsens the metric, got 0 with none ablated "
            "and 1 with all. Choose other items, prompts or another intervention: there is nothing to find.",
        ),
        (
            lambda: minimal_sets(function(17, lambda kept: 0 in kept and len(kept) != 16), method="monotone"),
            None,
        ),
        (
            lambda: roles(minimal_sets(function(2, bool)), restored=minimal_sets(function(3, bool))),
            "restored: expected the items of the other minimal sets, got others. "
            "Make both oracles of the same items.",
        ),
    ],
)
def test_what_cannot_be_listed_is_refused_in_one_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    if message is None:
        assert str(caught.value).startswith(
            "minimal_sets: expected a monotone verdict, where more items never"
        )
        assert str(caught.value).endswith("exception. Name at most 16 items, which are enumerated.")
    else:
        assert str(caught.value) == message
