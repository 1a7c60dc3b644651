"""The gauge law for circuit methods beside the exact sweep: equal networks get equal scores, others do not.

ACDC and random subsets are left out: their sweep and their draws follow the order of heads.
"""

import pytest
import torch

from metamodel.circuits import EAP, EAPIG, Prompts, WeightNorm, component_edges
from metamodel.config import InputError
from metamodel.subjects.gauge import GaugeElement, gauge_element
from metamodel.subjects.subject import Subject

SHAPES = {
    "LN": {"n_heads": 3},
    "LN, attention only": {"n_heads": 3, "d_mlp": 0},
    "no norm": {"n_heads": 3, "normalization_type": "none"},
}
METHODS = [EAP(), EAP(freeze_norm=True), EAPIG(), EAPIG(over="activations"), WeightNorm()]


def disguise(subject: Subject) -> tuple[GaugeElement, torch.Tensor]:
    """An element that changes the order of heads, and the old index of each new edge."""
    generator = torch.Generator().manual_seed(0)
    element = gauge_element(subject, generator)
    while torch.equal(element.node_order, torch.arange(len(element.node_order))):
        element = gauge_element(subject, generator)
    edges, order = component_edges(subject.config), element.node_order.tolist()
    channels = [edge.destination.channel for edge in edges.edges]
    ends = list(zip(edges.source_node, edges.destination_node, channels, strict=True))
    index = {end: i for i, end in enumerate(ends)}
    return element, torch.tensor([index[order[s], order[d], channel] for s, d, channel in ends])


def changed(subject: Subject) -> Subject:
    noise = torch.randn(subject.config.d_model, subject.config.d_head).double()
    weights = dict(subject.weights)
    weights["blocks.0.attn.W_V"] = weights["blocks.0.attn.W_V"].clone()
    weights["blocks.0.attn.W_V"][0] += 0.3 * noise
    return subject.with_weights(weights)


@pytest.mark.parametrize("intervention", ["noising", "denoising", "zero", "mean"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_scores_follow_the_edges_and_see_a_real_change(
    shape, method, intervention, make_subject, make_prompts
):
    torch.manual_seed(0)
    subject = make_subject(1, **shape)
    prompts: Prompts = make_prompts(2, subject.config)
    element, order = disguise(subject)
    before = method.score(subject, prompts, "margin", intervention)
    after = method.score(element.subject, prompts, "margin", intervention)
    torch.testing.assert_close(after.value, before.value[order], atol=1e-6, rtol=1e-6)
    assert (after.value - before.value).abs().max() > 1e-3, "the order of heads did not matter"
    other = method.score(changed(subject), prompts, "margin", intervention)
    assert (other.value - before.value).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_post_norm_subject_is_refused(method, make_subject, make_prompts):
    subject = make_subject(3, norm_position="post", act_fn="gelu")
    with pytest.raises(InputError) as caught:
        method.score(subject, make_prompts(4, subject.config))
    assert str(caught.value) == (
        "subject.norm_position: expected 'pre' to run a subject, got 'post'. "
        "Post-norm encoders can be read on the weights track only."
    )
