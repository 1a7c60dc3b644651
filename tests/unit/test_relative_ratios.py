"""Ratios of a component beside those of the others of its subject: by hand, in every gauge, after a cut."""

import math
from dataclasses import replace

import pytest
import torch

from metamodel.features.graph import graph_of
from metamodel.features.ratios import OWN_RATIOS, component_names, ratio_signature
from metamodel.features.registry import feature_names
from metamodel.features.relative import (
    WIDTH,
    description_of,
    is_ratio,
    matcher_features,
    matcher_names,
    relative_names,
    relative_ratios,
)
from metamodel.features.view import Shown
from metamodel.subjects.config import components
from tests.laws.test_gauge import SHAPES, disguise, random_subject


def shown_to(config) -> Shown:
    tokens = torch.randint(config.d_vocab, (6, 5), generator=torch.Generator().manual_seed(2))
    return Shown(tokens=tokens, position=torch.full((6,), 4))


def test_a_ratio_stands_over_the_median_of_the_others_and_has_a_place_among_them():
    subject = random_subject(3)
    signature = ratio_signature(subject)
    names = [node.name for node in signature.nodes]
    heads = [i for i, node in enumerate(signature.nodes) if node.kind == "head"]
    column = OWN_RATIOS.index("ov_over_subject")
    own = signature.own.clone()
    own[:, column] = torch.nan
    own[heads, column] = torch.arange(len(heads)).to(own) * 10
    found = relative_ratios(replace(signature, own=own))
    at = [relative_names().index(f"{how}.ov_over_subject") for how in ("ratio", "ratio_over_kind")]
    place = relative_names().index("ratio_place.ov_over_subject")
    last = heads[-1]
    others = sorted(10.0 * k for k in range(len(heads) - 1))
    middle = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
    assert found[last, at].tolist() == pytest.approx(
        [10.0 * (len(heads) - 1), 10.0 * (len(heads) - 1) - middle]
    )
    assert found[[last, heads[0]], place].tolist() == pytest.approx([1, -1])
    own[heads, column] = torch.arange(len(heads)).to(own) * WIDTH
    near = relative_ratios(replace(signature, own=own))[last, place]
    steps = [math.tanh(len(heads) - 1 - k) for k in range(len(heads) - 1)]
    assert float(near) == pytest.approx(sum(steps) / len(steps))
    mlp = names.index("MLP0")
    assert not found[mlp, [*at, place]].any(), "an MLP has no such ratio"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_no_gauge_moves_them_and_a_louder_head_does(shape):
    subject = random_subject(3, **shape)
    before = relative_ratios(ratio_signature(subject))
    for seed in (5, 6):
        element = disguise(subject, seed)
        after = relative_ratios(ratio_signature(element.subject))
        torch.testing.assert_close(before[element.node_order], after, atol=2e-4, rtol=0)
    weights = dict(subject.weights)
    weights["blocks.1.attn.W_O"] = weights["blocks.1.attn.W_O"].clone()
    weights["blocks.1.attn.W_O"][0] *= 20
    louder = relative_ratios(ratio_signature(subject.with_weights(weights)))
    names = [node.name for node in components(subject.config)]
    column = relative_names().index("ratio_over_kind.ov_over_qk")
    assert float(louder[names.index("L1H0"), column] - before[names.index("L1H0"), column]) > 1


def test_matchers_see_them_behind_what_readers_see():
    subject = random_subject(4)
    shown = shown_to(subject.config)
    found = matcher_features(subject, shown)
    assert found.shape == (len(components(subject.config)), len(matcher_names()))
    readers = graph_of(subject, "both", shown=shown).nodes
    n = len(feature_names("both"))
    assert matcher_names()[:n] == feature_names("both")
    assert torch.equal(found[:, :n], readers)
    assert torch.equal(matcher_features(subject, shown, ratios=False), readers)
    assert bool(found.isfinite().all())
    assert bool(found[:, n:].any())
    assert len(matcher_names()) == n + 3 * len(component_names()) == len(set(matcher_names()))


def test_names_say_what_a_matcher_is_described_by():
    assert [is_ratio(name) for name in (feature_names("both")[0], relative_names()[0])] == [False, True]
    assert description_of(()) == "edges"
    assert description_of(feature_names("both")) == "features"
    assert description_of(relative_names()) == "ratios"
    assert description_of(matcher_names()) == "both"
