"""The gauge law for nodes, paths and spans: other weights, the same scores; a real change, others."""

import pytest
import torch

from metamodel.circuits import (
    Prompts,
    Rest,
    component_edges,
    mlp_parts,
    node_edge_scores,
    node_scores,
    path_patch,
    principal_directions,
    singular_directions,
    span_scores,
    spans_at,
)
from metamodel.subjects.config import Component, components
from metamodel.subjects.gauge import GaugeElement, gauge_element
from metamodel.subjects.subject import Subject
from tests.reference import slow

NORMS = ["LN", "none"]
CARRIED = [("noising", "ablate"), ("zero", "ablate"), ("mean", "ablate"), ("denoising", "restore")]


def random_subject(seed: int, **shape) -> Subject:
    return slow.random_subject(seed, n_heads=3, **shape).double()


def disguise(subject: Subject, seed: int) -> GaugeElement:
    """A gauge element that changes the order of heads, so that nothing holds by accident."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        element = gauge_element(subject, generator)
        if (element.node_order != torch.arange(len(element.node_order))).any():
            return element


def changed(subject: Subject) -> Subject:
    """A real change: one value matrix and one neuron's reader are others."""
    weights = dict(subject.weights)
    noise = torch.randn(weights["blocks.0.attn.W_V"].shape, generator=torch.Generator().manual_seed(2))
    weights["blocks.0.attn.W_V"] = weights["blocks.0.attn.W_V"] + 0.3 * noise
    return subject.with_weights(weights)


def assert_moved(subject: Subject, score, value: torch.Tensor) -> None:
    assert (score(changed(subject)) - value).abs().max() > 1e-3, "a real change must move the scores"


@pytest.mark.parametrize(("intervention", "action"), CARRIED)
@pytest.mark.parametrize("norm", NORMS)
def test_scores_follow_components_and_neurons_through_the_whole_group(norm, intervention, action):
    subject = random_subject(1, normalization_type=norm)
    prompts, element = slow.random_prompts(2, subject.config), disguise(subject, 3)

    def of_components(one: Subject) -> torch.Tensor:
        nodes = components(one.config)[:-1]
        return node_scores(one, prompts, nodes, "margin", intervention, action).value

    def of_neurons(one: Subject) -> torch.Tensor:
        """In the order of their size: the element does not tell where neurons went."""
        nodes = mlp_parts(one.config, 1)
        return node_scores(one, prompts, nodes, "margin", intervention, action).value.sort().values

    before, after = of_components(subject), of_components(element.subject)
    torch.testing.assert_close(after, before[element.node_order[:-1]], atol=1e-7, rtol=0)
    assert (after - before).abs().max() > 1e-3, "the order of heads did not matter"
    torch.testing.assert_close(of_neurons(element.subject), of_neurons(subject), atol=1e-7, rtol=0)
    assert_moved(subject, of_components, before)
    assert_moved(subject, of_neurons, of_neurons(subject))


@pytest.mark.parametrize(("intervention", "action"), CARRIED)
def test_scores_follow_each_neuron_through_order_and_scale(intervention, action):
    subject = random_subject(4)
    prompts = slow.random_prompts(5, subject.config)
    generator = torch.Generator().manual_seed(6)
    order = torch.randperm(12, generator=generator)
    scale = torch.rand(12, generator=generator, dtype=torch.float64) + 0.5
    weights, mlp = dict(subject.weights), "blocks.0.mlp"
    weights[f"{mlp}.W_in"] = (weights[f"{mlp}.W_in"] * scale)[:, order]
    weights[f"{mlp}.b_in"] = (weights[f"{mlp}.b_in"] * scale)[order]
    weights[f"{mlp}.W_out"] = (weights[f"{mlp}.W_out"] / scale[:, None])[order]
    nodes = mlp_parts(subject.config, 0)[:-1]
    before = node_scores(subject, prompts, nodes, "margin", intervention, action).value
    after = node_scores(subject.with_weights(weights), prompts, nodes, "margin", intervention, action).value
    torch.testing.assert_close(after, before[order], atol=1e-9, rtol=0)
    assert (after - before).abs().max() > 1e-3, "the order of neurons did not matter"
    edges, moved = (
        node_edge_scores(one, prompts, nodes, "margin", intervention).value.view(12, -1)
        for one in (subject, subject.with_weights(weights))
    )
    torch.testing.assert_close(moved, edges[order], atol=1e-9, rtol=0)


def of_directions(subject: Subject, prompts: Prompts, heads: tuple[int, ...]) -> torch.Tensor:
    """Scores of singular and principal directions and of their rests, under all actions."""
    found = []
    for component in (
        Component(kind="token_embedding"),
        *(Component(kind="head", layer=0, head=head) for head in heads),
        Component(kind="mlp", layer=0),
    ):
        singular = singular_directions(subject, component, 2)
        principal = principal_directions(subject, component, prompts, 2)
        for directions in (singular, principal):
            for words in (*CARRIED, ("zero", "project_out"), ("zero", "project_out_stream")):
                found.append(node_scores(subject, prompts, directions, "margin", *words).value)
            found.append(node_scores(subject, prompts, [Rest(of=directions)]).value)
    return torch.cat(found)


def test_directions_that_a_subject_supplies_have_the_same_scores_in_every_gauge_under_layer_norm():
    subject = random_subject(7)
    prompts, element = slow.random_prompts(8, subject.config), disguise(subject, 9)
    new = (0, 1, 2)
    old = tuple(int(element.node_order[2 + head]) - 2 for head in new)
    before = of_directions(subject, prompts, old)
    torch.testing.assert_close(of_directions(element.subject, prompts, new), before, atol=1e-7, rtol=0)
    assert_moved(subject, lambda one: of_directions(one, prompts, old), before)


def test_without_a_norm_what_is_orthogonal_depends_on_the_gauge():
    """Any invertible map may change the residual stream there: only directions of one gauge compare."""
    subject = random_subject(10, normalization_type="none")
    prompts, element = slow.random_prompts(11, subject.config), disguise(subject, 12)
    mlp = Component(kind="mlp", layer=0)
    before, after = (
        node_scores(one, prompts, singular_directions(one, mlp, 2)).value
        for one in (subject, element.subject)
    )
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("intervention", ["noising", "zero", "mean", "denoising"])
@pytest.mark.parametrize("norm", NORMS)
def test_spans_and_paths_follow_their_edges(norm, intervention):
    subject = random_subject(13, normalization_type=norm)
    prompts, element = slow.random_prompts(14, subject.config), disguise(subject, 15)
    edges, order = component_edges(subject.config), element.node_order.tolist()
    spans = spans_at(prompts, {"early": slice(0, 3), "late": slice(3, None)})
    where = {
        (edges.source_node[i], edges.destination_node[i], edge.destination.channel): i
        for i, edge in enumerate(edges.edges)
    }
    old = [
        where[
            order[edges.source_node[i]],
            order[edges.destination_node[i]],
            edge.destination.channel,
        ]
        for i, edge in enumerate(edges.edges)
    ]

    def score(one: Subject, chosen) -> torch.Tensor:
        picked = [edges.edges[i] for i in chosen]
        return span_scores(one, prompts, spans, picked, "margin", intervention).value

    every = range(len(edges))
    before = score(subject, old)
    torch.testing.assert_close(score(element.subject, every), before, atol=1e-7, rtol=0)
    assert (score(subject, every) - before).abs().max() > 1e-3, "the order of heads did not matter"
    assert_moved(subject, lambda one: score(one, old), before)

    first = [i for i in every if edges.source_node[i] == 0 and edges.edges[i].destination.channel == "q"][:2]
    there, here = ([edges.edges[chosen[i]].destination for i in first] for chosen in (old, every))

    def path(one: Subject, receivers) -> torch.Tensor:
        return path_patch(one, prompts, edges.sources[0], receivers, "margin", intervention).per_prompt

    torch.testing.assert_close(path(element.subject, here), path(subject, there), atol=1e-7, rtol=0)
    assert_moved(subject, lambda one: path(one, there), path(subject, there))
