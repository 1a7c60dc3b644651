"""Encoders of circuits: order of tokens and neurons does not matter, padding neither, and entries do."""

import dataclasses

import pytest
import torch

from metamodel.features.batch import pad_seen
from metamodel.features.examples import Seen, unasked
from metamodel.features.graph import graph_of
from metamodel.networks.exchangeable import CircuitEncoder, CrossedEncoder, NeuronEncoder, SquareEncoder
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack

SMALL = SubjectConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_mlp=8, d_vocab=7, n_ctx=5)
LARGE = SubjectConfig(n_layers=2, n_heads=3, d_model=24, d_head=8, d_mlp=70, d_vocab=40, n_ctx=16)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def square() -> SquareEncoder:
    torch.manual_seed(0)
    return SquareEncoder(2, 6, 4)


def test_a_square_matrix_is_read_alike_in_any_order_of_its_items():
    x, mask, order = drawn(3, 5, 5, 2), torch.ones(3, 5, dtype=torch.bool), torch.tensor([3, 0, 4, 1, 2])
    encoder = square()
    together = x[:, order][:, :, order]
    torch.testing.assert_close(encoder(together, mask), encoder(x, mask), atol=1e-5, rtol=0)
    rows_alone = x[:, order]
    assert float((encoder(rows_alone, mask) - encoder(x, mask)).abs().max()) > 1e-3


def test_a_square_matrix_is_told_from_its_transpose():
    x, mask = drawn(1, 5, 5, 2), torch.ones(1, 5, dtype=torch.bool)
    encoder = square()
    assert float((encoder(x.transpose(1, 2), mask) - encoder(x, mask)).abs().max()) > 1e-3


@pytest.mark.parametrize("value", [0.0, 50.0, -50.0])
def test_padding_is_not_read(value):
    x = drawn(2, 4, 4, 2)
    padded = torch.full((2, 6, 6, 2), value)
    padded[:, :4, :4] = x
    encoder = square()
    mask = torch.arange(6).lt(4).expand(2, 6)
    torch.testing.assert_close(
        encoder(padded, mask), encoder(x, torch.ones(2, 4, dtype=torch.bool)), atol=1e-5, rtol=0
    )


def test_rows_and_columns_of_different_items_may_be_ordered_each_on_its_own():
    torch.manual_seed(0)
    encoder = CrossedEncoder(2, 6, 4)
    x = drawn(1, 4, 5, 2)
    rows, columns = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    shuffled = x[:, [2, 0, 3, 1]][:, :, [4, 1, 0, 2, 3]]
    torch.testing.assert_close(encoder(shuffled, rows, columns), encoder(x, rows, columns), atol=1e-5, rtol=0)
    gathered = x.flatten(1, 2).sort(dim=1).values.view_as(x)
    assert float((encoder(gathered, rows, columns) - encoder(x, rows, columns)).abs().max()) > 1e-3


def test_neurons_are_a_set():
    torch.manual_seed(0)
    encoder = NeuronEncoder(3, 6, 4)
    x, mask = drawn(1, 6, 3), torch.tensor([[True] * 5 + [False]])
    order = torch.tensor([4, 2, 0, 1, 3, 5])
    torch.testing.assert_close(encoder(x[:, order], mask), encoder(x, mask), atol=1e-6, rtol=0)
    changed = x.clone()
    changed[:, 5] += 10
    assert torch.equal(encoder(changed, mask), encoder(x, mask))
    changed[:, 2] += 1
    assert not torch.allclose(encoder(changed, mask), encoder(x, mask))


def seen_of(config: SubjectConfig, seed: int = 0) -> Seen:
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(seed)]), 0)
    graph = graph_of(Subject(config=config, weights=weights, name="one"), "weights")
    return unasked(graph, config, id="one", n_evidence=10)


def test_a_subject_is_encoded_alike_alone_and_beside_a_larger_one():
    torch.manual_seed(0)
    encoder = CircuitEncoder(6, 5, 4)
    small, large = seen_of(SMALL), seen_of(LARGE)
    for one, at in ((small, 0), (large, 1)):
        alone = encoder(pad_seen([one], ()))
        together = encoder(pad_seen([small, large], ()))
        n = len(one.graph.kinds)
        torch.testing.assert_close(together[0][at, :n], alone[0][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together[1][at, :n, :n], alone[1][0], atol=1e-5, rtol=0)
    assert (together[0][0, len(small.graph.kinds) :] == 0).all()


@pytest.mark.parametrize("name", ["tokens", "positions", "crossed", "followed", "neurons"])
def test_every_kind_of_matrix_is_read(name):
    torch.manual_seed(0)
    encoder = CircuitEncoder(6, 5, 4)
    seen = seen_of(LARGE)
    matrices = seen.graph.matrices
    assert matrices is not None
    changed = dataclasses.replace(matrices, **{name: getattr(matrices, name) * -1.5})
    other = dataclasses.replace(seen, graph=dataclasses.replace(seen.graph, matrices=changed))
    before, after = encoder(pad_seen([seen], ())), encoder(pad_seen([other], ()))
    moved = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    assert moved > 1e-3
