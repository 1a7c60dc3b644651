"""Runs of sets against one plain forward a set, and interactions against sums done by hand."""

import itertools

import pytest
import torch

from metamodel.circuits import oracles
from metamodel.circuits.base_run import base_run
from metamodel.circuits.graph import component_edges
from metamodel.circuits.interactions import interactions
from metamodel.circuits.metrics import margin
from metamodel.circuits.nodes import Neuron
from metamodel.circuits.oracles import component_oracle, edge_oracle, neuron_oracle, neurons
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.sets import SetOracle
from metamodel.circuits.sweep import edge_effects
from metamodel.config import InputError
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import Component, SubjectConfig, components
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject, initial_weights, unstack

INTERVENTIONS = ["noising", "denoising", "zero", "mean"]


def random_subject(seed: int, **shape) -> Subject:
    """Large random weights everywhere, biases and gains too, so that nothing is negligible."""
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 3, "d_mlp": 5, "d_vocab": 9, "n_ctx": 6}
    config = SubjectConfig(**(sizes | shape))
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator], init_std=0.6), 0)
    for key in weights:
        if key.rsplit(".", 1)[1][0] in "bw":
            weights[key] = weights[key] + 0.3 * torch.randn(weights[key].shape, generator=generator)
    return Subject(config=config, weights=weights).double()


def random_prompts(seed: int, n: int = 4, n_pos: int = 5) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = (torch.randint(9, (n, n_pos), generator=generator) for _ in range(2))
    answer = torch.randint(9, (n,), generator=generator)
    return Prompts(
        clean=clean,
        corrupt=corrupt,
        position=torch.randint(n_pos, (n,), generator=generator),
        answer=answer,
        corrupt_answer=(answer + 1) % 9,
        slice=torch.zeros(n, dtype=torch.int64),
        slice_names=("all",),
    )


def naive(
    subject: Subject, prompts: Prompts, places: list[tuple[str, int | None]], ablated, intervention: str
) -> torch.Tensor:
    """One forward of one set. A place is a site, and the head or neuron there, or None for all of it."""
    whole = folded(subject)
    denoising = intervention == "denoising"
    tokens, others = (prompts.corrupt, prompts.clean) if denoising else (prompts.clean, prompts.corrupt)
    sites = {site for site, _ in places}
    said, own = (whole.run(x, taps=sites).taps for x in (others, prompts.clean))
    replace = {}
    for site in sites:
        patched = [i for (name, i), a in zip(places, ablated, strict=True) if name == site and a != denoising]

        def put(value, site=site, patched=patched):
            value = value.clone()
            with_what = {"zero": torch.zeros_like(value), "mean": own[site].mean(1, keepdim=True)}
            new = with_what.get(intervention, said[site]).expand_as(value)
            for i in patched:
                if i is None:
                    value = new
                elif "result" in site:
                    value[:, :, :, i] = new[:, :, :, i]
                else:
                    value[..., i] = new[..., i]
            return value

        replace[site] = put
    run = forward(whole.stacked, whole.config, tokens, replace=replace)
    return margin(run.logits[0][torch.arange(len(prompts)), prompts.position], prompts.answer)


def component_place(c: Component) -> tuple[str, int | None]:
    match c.kind:
        case "token_embedding":
            return "hook_embed", None
        case "position_embedding":
            return "hook_pos_embed", None
        case "head":
            return f"blocks.{c.layer}.attn.hook_result", c.head
        case _:
            return f"blocks.{c.layer}.hook_mlp_out", None


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize(("norm", "d_mlp", "n_heads"), [("LN", 5, 2), ("none", 5, 1), ("LN", 0, 2)])
def test_sets_of_components_equal_a_forward_each(intervention, norm, d_mlp, n_heads):
    subject = random_subject(1, normalization_type=norm, d_mlp=d_mlp, n_heads=n_heads)
    prompts = random_prompts(2)
    items = components(subject.config)[:-1]
    oracle = component_oracle(subject, prompts, intervention=intervention)
    sets = torch.rand(12, len(items), generator=torch.Generator().manual_seed(3)) < 0.4
    expected = [
        naive(subject, prompts, [component_place(c) for c in items], row.tolist(), intervention)
        for row in sets
    ]
    torch.testing.assert_close(oracle(sets), torch.stack(expected), atol=1e-10, rtol=0)
    assert oracle(sets).std(0).min() > 1e-3, "sets too much alike for this to compare anything"


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("layer", [None, 1])
def test_sets_of_neurons_equal_a_forward_each(intervention, layer):
    subject, prompts = random_subject(4), random_prompts(5)
    items = neurons(subject.config, layer)
    oracle = neuron_oracle(subject, prompts, items, intervention=intervention)
    sets = torch.rand(12, len(items), generator=torch.Generator().manual_seed(6)) < 0.5
    places = [(f"blocks.{item.layer}.mlp.hook_post", item.index) for item in items]
    expected = [naive(subject, prompts, places, row.tolist(), intervention) for row in sets]
    torch.testing.assert_close(oracle(sets), torch.stack(expected), atol=1e-10, rtol=0)
    assert oracle(sets).std(0).min() > 1e-3


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("freeze_norm", [False, True])
def test_single_edges_have_the_effects_of_the_exact_sweep(intervention, freeze_norm):
    subject, prompts = random_subject(7), random_prompts(8)
    oracle = edge_oracle(subject, prompts, intervention=intervention, freeze_norm=freeze_norm)
    one = torch.eye(len(oracle), dtype=torch.bool)
    denoising = intervention == "denoising"
    # Under denoising the base is the corrupt run, everything ablated, and an edge that is kept is patched.
    values = oracle(~one if denoising else one).mean(1)
    base = oracle(torch.full((1, len(oracle)), denoising)).mean()
    run = base_run(subject, prompts, intervention, freeze_norm=freeze_norm)
    effect = edge_effects(run, [run.measure("margin")])[0].mean(-1)
    torch.testing.assert_close(values - base, effect, atol=1e-10, rtol=0)
    assert effect.abs().mean() > 0.01


def test_some_edges_can_be_the_items_and_the_others_stay():
    subject, prompts = random_subject(7), random_prompts(8)
    edges = component_edges(subject.config).edges
    chosen = [edges[5], edges[40].name]
    part, whole = edge_oracle(subject, prompts, chosen), edge_oracle(subject, prompts)
    names = [edges[5].name, edges[40].name]
    torch.testing.assert_close(part.ablate(names), whole.ablate(names))
    assert part.names == tuple(names)


def test_small_chunks_give_the_same_values(monkeypatch):
    subject, prompts = random_subject(9), random_prompts(10)
    sets = torch.rand(7, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    whole = component_oracle(subject, prompts)(sets)
    monkeypatch.setattr(oracles, "_CHUNK", 1)
    torch.testing.assert_close(component_oracle(subject, prompts)(sets), whole, atol=1e-12, rtol=0)


def test_metrics_are_the_ones_asked_for():
    subject, prompts = random_subject(11), random_prompts(12)
    every = {
        m: component_oracle(subject, prompts, metric=m).ablate(["L0H0"]) for m in ("kl", "accuracy", "margin")
    }
    assert every["kl"].min() > 0
    torch.testing.assert_close(every["accuracy"], (every["margin"] > 0).double())
    assert component_oracle(subject, prompts, metric="kl").lower_is_better


def function(n: int, of, lower_is_better: bool = False) -> SetOracle:
    """An oracle of a function of the set of ablated indices, on two prompts."""

    def run(ablated: torch.Tensor) -> torch.Tensor:
        values = [of(frozenset(row.nonzero().squeeze(1).tolist())) for row in ablated]
        return torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 2)

    return SetOracle([f"i{k}" for k in range(n)], run, lower_is_better=lower_is_better)


def test_evaluations_are_counted_and_the_gap_is_run_once():
    oracle = function(3, lambda gone: 1.0 - (0 in gone))
    assert (oracle.gap().intact, oracle.gap().ablated, oracle.evaluations) == (1, 0, 2)
    oracle.ablate(["i0"], ["i1", "i2"])
    oracle.keep(["i0"])
    assert oracle.evaluations == 5


def test_kept_and_ablated_are_complements_and_parts_count_in_the_whole():
    oracle = function(4, lambda gone: float(sum(2**i for i in gone)))
    assert oracle.ablate(["i0", "i3"])[0, 0] == 9
    assert oracle.keep(["i0", "i3"])[0, 0] == 6
    part = oracle.among(["i3", "i0"])
    assert [float(part.ablate(x)[0, 0]) for x in ([], ["i3"], ["i0"])] == [0, 8, 1]
    assert float(oracle.among(["i3"], ablate_rest=True).ablate([])[0, 0]) == 7
    groups = oracle.grouped({"low": ["i0", "i1"], "odd": ["i1", "i3"]})
    assert [float(groups.ablate(x)[0, 0]) for x in (["low"], ["odd"], ["low", "odd"])] == [3, 10, 11]
    assert (oracle.evaluations, part.evaluations, groups.evaluations) == (9, 3, 3)


@pytest.mark.parametrize(
    ("of", "pair"),
    [
        (lambda gone: float(not gone >= {0, 1}), 1.0),  # alternatives
        (lambda gone: float(not gone & {0, 1}), -1.0),  # halves
        (lambda gone: 1 - 0.5 * (0 in gone) - 0.5 * (1 in gone), 0.0),  # summands
    ],
)
def test_the_sign_of_a_pair_tells_alternatives_from_halves(of, pair):
    found = interactions(function(3, of))
    assert found.pairs()[0, 1] == found.pairs()[1, 0] == pair
    assert found.pairs()[2].abs().max() == 0
    turned = interactions(function(3, lambda gone: -of(gone), lower_is_better=True))
    assert turned.pairs()[0, 1] == pair
    kind = {1.0: "OR, backup", -1.0: "AND", 0.0: "no clear sign"}[pair]
    assert kind in next(line for line in found.describe().splitlines() if line.startswith("i0 + i1"))


def test_triples_of_halves_are_positive_again_as_stated():
    halves = interactions(function(3, lambda gone: float(not gone)), order=3)
    alternatives = interactions(function(3, lambda gone: float(len(gone) < 3)), order=3)
    assert halves.value.tolist() == [1, 1, 1, -1, -1, -1, 1]
    assert alternatives.value.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_interactions_of_all_parts_sum_to_the_damage():
    table = torch.randn(16, generator=torch.Generator().manual_seed(0)).tolist()
    found = interactions(function(4, lambda gone: table[sum(2**i for i in gone)]), order=4)
    assert found.evaluations == 16
    for size in range(1, 5):
        for gone in itertools.combinations(range(4), size):
            names = {f"i{i}" for i in gone}
            total = sum(float(v) for s, v in zip(found.sets, found.value, strict=True) if set(s) <= names)
            assert total == pytest.approx(table[0] - table[sum(2**i for i in gone)])


def test_standard_errors_are_those_of_the_interaction_over_prompts():
    x, alone = torch.tensor([[0.0, 1.0, 5.0], [1.0, 3.0, 2.0]], dtype=torch.float64)

    def run(ablated: torch.Tensor) -> torch.Tensor:
        gone = ablated.double()
        return 1 - gone.prod(1)[:, None] * x - gone[:, :1] * alone - gone[:, 1:]

    found = interactions(SetOracle(["a", "b"], run))
    assert found.value.tolist() == pytest.approx([2, 1, 2])
    assert found.se.tolist() == pytest.approx([float(y.std()) / 3**0.5 for y in (alone, 0 * x, x)])
    table = found.to_pandas()
    assert table["items"].tolist() == ["a", "b", "a + b"]
    assert table["damage"].tolist() == pytest.approx([2, 1, 5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s, p: component_oracle(s, p, ["L0H0", "L0H7"]),
            "components: expected names of this subject's, got 'L0H7'. The subject has 8. "
            "Did you mean 'L0H1'?",
        ),
        (
            lambda s, p: neuron_oracle(s, p, [Neuron(layer=0, index=5)]),
            "neurons: expected names of this subject's, got 'MLP0.5'. The subject has 10. "
            "Did you mean 'MLP0.4'?",
        ),
        (
            lambda s, p: edge_oracle(s, p, ["L0H0->L0H1.q"]),
            "edges: expected names of this subject's, got 'L0H0->L0H1.q'. The subject has 61. "
            "Did you mean 'L0H0->L1H1.q'?",
        ),
        (lambda s, p: component_oracle(s, p, []), "items: expected at least one item, got none. Name some."),
        (
            lambda s, p: component_oracle(s, p, ["MLP0", "MLP0"]),
            "items: expected each item once, got ['MLP0'] twice. Name it once.",
        ),
        (
            lambda s, p: component_oracle(s, p).ablate(["MLP2"]),
            "items: expected a known item, got 'MLP2'. Name one of 8 items. Did you mean 'MLP1'?",
        ),
        (
            lambda s, p: component_oracle(s, p, ["position_embedding"], intervention="noising").gap(),
            None,
        ),
        (
            lambda s, p: neurons(s.config, 2),
            "layer: expected a block from 0 to 1, got 2. Name a block of this subject.",
        ),
        (
            lambda s, p: interactions(component_oracle(s, p), order=9),
            "order: expected a size from 1 to 8, got 9. Pairs have order 2.",
        ),
        (
            lambda s, p: interactions(function(200, lambda gone: 0.0), order=3),
            "interactions: expected at most 65536 evaluations, got 1333501 for 200 items at order 3. "
            "Name fewer items, group them, or lower the order.",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(call, message):
    subject, prompts = random_subject(13), random_prompts(14)
    with pytest.raises(InputError) as caught:
        call(subject, prompts)
    if message is None:
        assert str(caught.value).startswith(
            "items: expected items whose ablation, all together, worsens the "
        )
        assert str(caught.value).endswith("or another intervention: there is nothing to find.")
    else:
        assert str(caught.value) == message
