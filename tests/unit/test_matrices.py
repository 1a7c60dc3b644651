"""Matrices of circuits, entry by entry, against plain loops over the canonical form."""

import math

import pytest
import torch

from metamodel.circuits.graph import component_edges
from metamodel.features.matrices import FOLLOWED, Matrices, matrices_of
from metamodel.features.view import View, normalised, view
from metamodel.subjects import Subject, SubjectConfig, components, initial_weights, unstack

SHAPE = SubjectConfig(n_layers=2, n_heads=2, d_model=24, d_head=12, d_mlp=16, d_vocab=9, n_ctx=6)


@pytest.fixture(scope="module")
def made() -> tuple[View, Matrices]:
    generator = torch.Generator().manual_seed(0)
    weights = unstack(initial_weights(SHAPE, [generator]), 0)
    rough = {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    v = view(Subject(config=SHAPE, weights=rough, name="one"))
    return v, matrices_of(v)


def centred(rows: list[list[float]]) -> torch.Tensor:
    x = torch.tensor(rows, dtype=torch.float64)
    x = x - x.mean(0) - x.mean(1, keepdim=True) + x.mean()
    return x / x.pow(2).mean().sqrt()


def test_a_heads_token_circuits(made):
    v, m = made
    head = [node.name for node in components(SHAPE)].index("L1H1")
    Q, K, V, W_O, b = v.W_Q[1, 1], v.W_K[1, 1], v.W_V[1, 1], v.W_O[1, 1], v.b_Q[1, 1]
    qk = centred([[float((v.E[i] @ Q + b) @ (v.E[j] @ K)) for j in range(9)] for i in range(9)])
    ov = centred([[float(v.E[i] @ V @ W_O @ v.U[:, j]) for j in range(9)] for i in range(9)])
    torch.testing.assert_close(m.tokens[head, 0].double(), qk, atol=1e-5, rtol=0)
    torch.testing.assert_close(m.tokens[head, 1].double(), ov, atol=1e-5, rtol=0)


def test_a_heads_position_circuit_is_its_softmax_on_average_tokens(made):
    v, m = made
    head = [node.name for node in components(SHAPE)].index("L0H1")
    Q, K, b = v.W_Q[0, 1], v.W_K[0, 1], v.b_Q[0, 1]
    for i in range(6):
        scores = [
            float(((v.P[i] + v.E.mean(0)) @ Q + b) @ (v.P[j] @ K)) / math.sqrt(12) for j in range(i + 1)
        ]
        soft = torch.tensor(scores).softmax(0)
        torch.testing.assert_close(m.positions[head, 1, i, : i + 1], soft, atol=1e-5, rtol=0)
        assert (m.positions[head, :2, i, i + 1 :] == 0).all(), "the future is not seen"


def test_virtual_circuits_follow_a_token_through_the_source(made):
    v, m = made
    names = [node.name for node in components(SHAPE)]
    edges = component_edges(SHAPE)
    pairs = sorted(set(zip(edges.source_node, edges.destination_node, strict=True)))
    assert len(m.followed) == len(pairs)
    some = torch.linspace(0, 8, FOLLOWED).round().long()
    E = v.E[some]
    moved = normalised(E @ v.W_V[0, 0] @ v.W_O[0, 0], SHAPE)
    at = pairs.index((names.index("L0H0"), names.index("L1H1")))
    n = len(some)
    k = centred(
        [[float((E[i] @ v.W_Q[1, 1]) @ (moved[j] @ v.W_K[1, 1])) for j in range(n)] for i in range(n)]
    )
    q = centred(
        [[float((moved[i] @ v.W_Q[1, 1]) @ (E[j] @ v.W_K[1, 1])) for j in range(n)] for i in range(n)]
    )
    torch.testing.assert_close(m.followed[at, 0].double(), q, atol=1e-5, rtol=0)
    torch.testing.assert_close(m.followed[at, 1].double(), k, atol=1e-5, rtol=0)


def test_only_mlps_have_neurons(made):
    _, m = made
    for i, node in enumerate(components(SHAPE)):
        assert bool((m.neurons[i] != 0).any()) == (node.kind == "mlp"), node.name
    assert m.neurons.shape[1] == 16
