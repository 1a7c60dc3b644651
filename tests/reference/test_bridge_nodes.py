"""Nodes, paths and sets of bridges: against the subject of the same weights, or by laws without one."""

import pytest
import torch

from metamodel.circuits import (
    Dictionary,
    MLPBias,
    Neuron,
    Rest,
    component_edges,
    component_oracle,
    direction,
    edge_oracle,
    minimal_sets,
    neuron_oracle,
    node_edge_scores,
    node_outputs,
    node_scores,
    path_patch,
    principal_directions,
    score,
    singular_directions,
    span_scores,
    spans_per_position,
)
from metamodel.circuits.base_run import INTERVENTIONS
from metamodel.circuits.nodes import Node
from metamodel.config import InputError
from metamodel.subjects import Subject
from metamodel.subjects.config import Component, components
from metamodel.subjects.interchange import hooked
from tests.reference.bridges import OTHERS, SIZES, bridge_of, gpt2, hf

HEAD, MLP = Component(kind="head", layer=0, head=1), Component(kind="mlp", layer=1)


def nodes_of(network, prompts) -> list[Node]:
    """One of each kind, with vectors that do not depend on the network."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, network.config.d_model, generator=generator)
    one = direction(HEAD, vectors[0])
    encoded = Dictionary(component=MLP, vectors=vectors, encoder=lambda x: torch.relu(x[..., :3]))
    return [
        *components(network.config)[:-1],
        Neuron(layer=0, index=3),
        MLPBias(layer=1),
        one,
        Rest(of=(one,)),
        *Dictionary(component=HEAD, vectors=vectors).nodes,
        *encoded.nodes,
    ]


@pytest.mark.parametrize("freeze_norm", [False, True])
@pytest.mark.parametrize(
    ("action", "intervention"),
    [("ablate", "noising"), ("ablate", "zero"), ("ablate", "mean"), ("restore", "denoising")],
)
def test_every_kind_of_node_scores_as_in_the_subject(action, intervention, freeze_norm, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(1, subject.config, n_pos=8)
    ours, theirs = (
        node_scores(
            network,
            prompts,
            nodes_of(network, prompts),
            intervention=intervention,
            action=action,
            freeze_norm=freeze_norm,
        )
        for network in (subject, hooked(bridge))
    )
    torch.testing.assert_close(theirs.value, ours.value, atol=2e-4, rtol=0)
    assert theirs.base == pytest.approx(ours.base, abs=1e-4)
    assert (ours.value.abs() > 1e-2).float().mean() > 0.5


@pytest.mark.parametrize("action", ["project_out", "project_out_stream"])
def test_directions_are_projected_out_as_in_the_subject(action, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(2, subject.config, n_pos=8)
    vector = torch.randn(12, generator=torch.Generator().manual_seed(1))
    nodes = [direction(component, vector) for component in components(subject.config)[:-1]]
    ours, theirs = (node_scores(x, prompts, nodes, action=action).value for x in (subject, hooked(bridge)))
    torch.testing.assert_close(theirs, ours, atol=2e-4, rtol=0)
    assert ours.abs().max() > 1e-2
    found = [principal_directions(x, HEAD, prompts, 2) for x in (subject, hooked(bridge))]
    for mine, other in zip(*found, strict=True):
        assert float((mine.basis @ other.basis.T).abs()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_paths_are_those_of_the_subject(intervention, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(3, subject.config, n_pos=8)
    receivers = [d for d in component_edges(subject.config).destinations if d.component.layer == 1]
    nodes = [HEAD, Neuron(layer=0, index=3)]
    whole = hooked(bridge)
    for sender in nodes:
        ours, theirs = (
            path_patch(x, prompts, sender, receivers, intervention=intervention) for x in (subject, whole)
        )
        torch.testing.assert_close(theirs.per_prompt, ours.per_prompt, atol=2e-4, rtol=0)
        assert abs(ours.value) > 1e-3
    ours, theirs = (node_edge_scores(x, prompts, nodes, intervention=intervention) for x in (subject, whole))
    assert ours.to_pandas()["source"].nunique() == 2
    torch.testing.assert_close(theirs.value, ours.value, atol=2e-4, rtol=0)


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("oracle", [component_oracle, neuron_oracle, edge_oracle])
def test_sets_are_those_of_the_subject(oracle, intervention, make_prompts):
    bridge = gpt2()
    subject = Subject.from_bridge(bridge)
    prompts = make_prompts(4, subject.config, n_pos=8)
    ours, theirs = (oracle(x, prompts, intervention=intervention) for x in (subject, hooked(bridge)))
    assert theirs.names == ours.names
    sets = torch.rand(12, len(ours), generator=torch.Generator().manual_seed(2)) < 0.5
    torch.testing.assert_close(theirs(sets), ours(sets), atol=2e-4, rtol=0)
    assert ours(sets).std(0).max() > 1e-2


def test_minimal_sets_of_a_bridge(make_prompts):
    bridge = OTHERS["llama"]()
    prompts = make_prompts(7, hooked(bridge).config, n_pos=8)
    oracle = component_oracle(bridge, prompts, metric="kl")
    names = [name for name in oracle.names if name != "position_embedding"][:6]
    some = oracle.among(names)
    found, gap = minimal_sets(some), some.gap()
    assert found.sufficient
    for one in found.sufficient:
        without = [set(one) - {name} for name in one]
        share = gap.kept(some.keep(one, *without)).tolist()
        assert share[0] >= 0.5 > max(share[1:])


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_in_any_architecture_a_component_is_ablated_where_all_its_edges_are(make, make_prompts):
    bridge = make()
    whole = hooked(bridge)
    prompts = make_prompts(5, whole.config, n_pos=8)
    nodes = list(components(whole.config)[:-1])
    scores = node_scores(bridge, prompts, nodes)
    oracle = component_oracle(bridge, prompts)
    alone = oracle(torch.eye(len(nodes), dtype=torch.bool)).mean(-1) - scores.base
    torch.testing.assert_close(scores.value, alone, atol=1e-4, rtol=0)
    assert (scores.value.abs() > 1e-2).float().mean() > 0.5
    written = node_outputs(bridge, prompts, nodes)
    neurons = [Neuron(layer=0, index=i) for i in range(whole.config.d_mlp)]
    parts = node_outputs(bridge, prompts, [*neurons, MLPBias(layer=0)])
    mlp = nodes.index(Component(kind="mlp", layer=0))
    torch.testing.assert_close(parts.outputs.sum(0), written.outputs[mlp], atol=1e-4, rtol=1e-4)


def test_what_needs_a_subject_refuses_other_bridges(make_prompts):
    bridge = OTHERS["llama"]()
    prompts = make_prompts(9, hooked(bridge).config, n_pos=8)
    calls = {
        "position-resolved edges": lambda x: span_scores(x, prompts, spans_per_position(prompts)),
        "singular directions, which are read off its weights": lambda x: singular_directions(x, HEAD, 2),
    }
    for what, call in calls.items():
        call(gpt2())
        with pytest.raises(InputError, match=r"^bridge\.architecture: expected 'TransformerLensNative' or"):
            call(bridge)
        with pytest.raises(InputError) as caught:
            call(hooked(bridge))
        assert str(caught.value) == (
            f"subject: expected a subject, or a native or GPT-2 bridge, for {what}, got bridge, which is run "
            "through hooks. Score whole edges or nodes."
        )


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_in_any_architecture_edges_of_late_nodes_are_those_of_the_sweep(make, make_prompts):
    """What reads before them sees nothing, and nothing is run for it."""
    bridge = make()
    prompts = make_prompts(10, hooked(bridge).config, n_pos=8)
    edges, whole = node_edge_scores(bridge, prompts, [MLP]), score(bridge, prompts)
    names = [edge.name for edge in whole.edges.edges]
    for i, destination in enumerate(edges.destination.tolist()):
        name = f"{MLP.name}->{edges.destinations[destination].name}"
        assert float(edges.value[i]) == pytest.approx(float(whole.value[names.index(name)]), abs=1e-5)
    assert len(edges) == 1


def test_in_any_architecture_heads_beside_an_mlp_do_not_reach_it(make_prompts):
    bridge = OTHERS["gpt-neox"]()
    whole = hooked(bridge)
    prompts = make_prompts(6, whole.config, n_pos=8)
    destinations = {d.name: d for d in component_edges(whole.config).destinations}
    assert path_patch(bridge, prompts, HEAD, [destinations["MLP0"]]).value == 0
    assert path_patch(bridge, prompts, HEAD, [destinations["MLP1"]]).value != 0


def test_experts_have_no_neurons(make_prompts):
    bridge = bridge_of(
        hf.MixtralForCausalLM(hf.MixtralConfig(**SIZES, num_key_value_heads=3, num_local_experts=2))
    )
    prompts = make_prompts(8, hooked(bridge).config, n_pos=8)
    assert node_scores(bridge, prompts, [MLP]).value.abs() > 1e-3
    with pytest.raises(InputError) as caught:
        node_scores(bridge, prompts, [Neuron(layer=0, index=1)])
    assert str(caught.value) == (
        "bridge.blocks.0.mlp: expected an MLP of neurons, with one matrix behind them, got MoEBridge. Take "
        "the MLP whole."
    )
