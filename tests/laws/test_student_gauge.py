"""A change of basis moves neither trainable edges nor the distance of circuits; a real change moves both."""

import pytest
import torch

from metamodel.analogy.graph import edge_matrix
from metamodel.circuits.weight_gradients import StackedPrompts, edge_shares
from metamodel.losses.circuit import circuit_loss
from metamodel.subjects.gauge import gauge_element
from metamodel.subjects.subject import Subject


def edges(subject: Subject, prompts) -> torch.Tensor:
    names = ("clean", "corrupt", "position", "answer")
    stacked = StackedPrompts(**{name: getattr(prompts, name)[None] for name in names})
    return edge_matrix(subject.config, edge_shares(subject.stacked, subject.config, stacked)[0])


@pytest.mark.parametrize("shape", [{}, {"normalization_type": "none"}, {"d_mlp": 0, "n_heads": 4}])
def test_edges_move_with_their_nodes_and_circuits_stay_where_they_are(make_subject, make_prompts, shape):
    subject = make_subject(1, **shape)
    prompts = make_prompts(2, subject.config, n=12)
    here = edges(subject, prompts)
    moved = gauge_element(subject, torch.Generator().manual_seed(3))
    there, order = edges(moved.subject, prompts), moved.node_order
    assert torch.allclose(there, here[:, order][:, :, order], atol=1e-3 * float(here.max()))
    assert float(circuit_loss(here, there, tau=0.5)) < 1e-4
    key = "blocks.0.attn.W_V"
    changed = subject.with_weights({**subject.weights, key: subject.weights[key].flip(1)})
    assert float(circuit_loss(here, edges(changed, prompts), tau=0.5)) > 0.02
