"""Opponents that need both subjects: what they see in a gauged copy, and of which pairs they say nothing."""

import math
from dataclasses import replace

import pytest
import torch

from metamodel.analogy.graph import CHANNELS, CircuitGraph
from metamodel.analogy.pairs import MatchedPair, blank_side
from metamodel.baselines.matching.activations import Activations, linear_cka, norm_correlation, written
from metamodel.baselines.matching.plain import Similarity
from metamodel.baselines.matching.tuning import Choice, Tuned
from metamodel.baselines.matching.weight_matching import WeightMatching
from metamodel.evaluation.matching.contenders import Contender
from metamodel.evaluation.matching.source import once
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, components, depth_fraction, kind_indices
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject, initial_weights

CONFIG = SubjectConfig(n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=16, d_vocab=9, n_ctx=6)
TOKENS = torch.randint(9, (24, 6), generator=torch.Generator().manual_seed(5))


def subject_at(seed: int, config: SubjectConfig = CONFIG) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    weights = {key: value[0] for key, value in initial_weights(config, [generator]).items()}
    return Subject(config=config, weights=weights, name=f"s{seed}")


def circuit_of(config: SubjectConfig) -> CircuitGraph:
    nodes = components(config)
    return CircuitGraph(
        edges=torch.zeros(len(CHANNELS), len(nodes), len(nodes)),
        features=torch.zeros(len(nodes), 0),
        kinds=torch.tensor(kind_indices(config)),
        depth=torch.tensor([depth_fraction(node, config) for node in nodes]),
        names=tuple(node.name for node in nodes),
    )


def pair_of(
    first: CircuitGraph, second: CircuitGraph, ids: tuple[str, str] = ("one", "other")
) -> MatchedPair:
    sides = [blank_side(len(graph), id=id) for graph, id in zip((first, second), ids, strict=True)]
    return MatchedPair(
        first=first,
        second=second,
        truth=None,
        kind="natural",
        split="validation",
        first_side=sides[0],
        second_side=sides[1],
    )


@pytest.mark.parametrize("compare", [norm_correlation, linear_cka])
def test_a_copy_in_another_gauge_is_seen_through_and_another_subject_is_not(compare):
    one = subject_at(0)
    element = gauge_element(one, torch.Generator().manual_seed(1), condition=3.0)
    pair = pair_of(circuit_of(CONFIG), circuit_of(CONFIG))
    subjects = {"one": one, "other": element.subject}
    alike = Activations(compare, subjects.get, {"one": TOKENS}.get)(pair)
    assert alike is not None
    inner = (~pair.first.is_anchor).nonzero().squeeze(1)
    place = torch.empty(len(pair.first), dtype=torch.long)
    place[element.node_order] = torch.arange(len(element.node_order))
    torch.testing.assert_close(alike[inner, place[inner]], torch.ones(len(inner)), atol=1e-2, rtol=0)
    subjects["other"] = subject_at(7)
    other = Activations(compare, subjects.get, {"one": TOKENS}.get)(pair)
    assert other is not None
    assert other[inner][:, inner].max() < 0.99


def test_cka_by_hand():
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    moved = 2.5 * x @ turn + 3.0
    assert linear_cka(x, moved).diagonal().tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    flat = torch.ones(1, 50, 3)
    assert float(linear_cka(x, flat).abs().max()) == 0.0
    a, b = (torch.tensor([[[v] for v in values]]) for values in ([1.0, 0.0, -1.0], [1.0, -2.0, 1.0]))
    assert float(linear_cka(a, b)) == pytest.approx(0.0, abs=1e-6)
    c = torch.tensor([[[1.0], [1.0], [-2.0]]])
    # for one column each it is the squared correlation: r = 3 / √(2 · 6)
    assert float(linear_cka(a, c)) == pytest.approx((3 / math.sqrt(12)) ** 2)


def test_what_components_write_adds_up_to_the_stream():
    subject = subject_at(3)
    names = tuple(node.name for node in components(CONFIG))
    outputs = written(subject, TOKENS, names)
    assert outputs.shape == (len(names), TOKENS.numel(), CONFIG.d_model)
    assert not outputs[-1].any()
    subject = canonical(subject)
    stream = subject.run(TOKENS, taps=["blocks.1.hook_resid_post"]).taps["blocks.1.hook_resid_post"][0]
    bias = sum(subject.weights[f"blocks.{layer}.attn.b_O"] for layer in range(2))
    torch.testing.assert_close(outputs.sum(0) + bias, stream.flatten(0, 1), atol=1e-5, rtol=1e-4)
    turned = written(subject, TOKENS, names[::-1])
    torch.testing.assert_close(turned, outputs.flip(0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(turned, outputs)


def test_pairs_that_cannot_be_run_are_left_blank():
    graph, one = circuit_of(CONFIG), subject_at(0)
    small = replace(CONFIG, d_vocab=8)
    wide = replace(CONFIG, d_model=16)
    strange = replace(graph, names=("stranger0", *graph.names[1:]))
    subjects = {
        "one": one,
        "other": subject_at(1),
        "small": subject_at(2, small),
        "wide": subject_at(2, wide),
    }
    tokens = {"one": TOKENS}
    for of_activations in (norm_correlation, linear_cka):
        alike = Activations(of_activations, subjects.get, tokens.get)
        assert alike(pair_of(graph, graph)) is not None
        assert alike(pair_of(graph, graph, ("one", "gone"))) is None
        assert alike(pair_of(graph, graph, ("other", "one"))) is None  # no inputs
        assert alike(pair_of(graph, graph, ("one", "small"))) is None
        assert alike(pair_of(graph, strange)) is None
        assert alike(pair_of(graph, graph, ("one", "wide"))) is not None
    weights = WeightMatching(subjects.get)
    assert weights(pair_of(graph, graph)) is not None
    assert weights(pair_of(graph, graph, ("one", "wide"))) is None
    assert weights(pair_of(strange, graph)) is None


def test_an_opponent_can_do_what_its_similarity_is_at_hand_for_and_asks_once():
    graph, asked = circuit_of(CONFIG), []

    def weights(pair: MatchedPair) -> torch.Tensor | None:
        asked.append(pair)
        known = pair.second_side.id == "other"
        return torch.zeros(len(pair.first), len(pair.second)) if known else None

    named = {"weights": once(weights)}
    opponent = Similarity("weight_matching", "weights")
    of = Contender(
        tuned=Tuned(opponent=opponent, choice=Choice(source="weights"), partial_f1=0.0), presence="own"
    )
    with_both, without = pair_of(graph, graph), pair_of(graph, graph, ("one", "gone"))
    assert of.can(with_both, named)
    assert of.can(with_both, named)
    assert not of.can(without, named)
    assert not of.can(with_both, {})
    assert len(of.match(with_both, named).pairs) == len(graph)
    assert asked == [with_both, without]
