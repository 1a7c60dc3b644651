"""Encoders of raw weights keep the symmetries of their method, and only those."""

from dataclasses import replace

import pytest
import torch
from learned import METHODS, with_subject

from metamodel.baselines.probegen import LENGTH, canonical_weights
from metamodel.subjects.gauge import gauge_element


def encoded(encoder, describe, example):
    """Embedding of every component of one subject."""
    seen, _ = example
    return encoder(seen.config, {name: value[None] for name, value in describe(seen).items()})[0].detach()


def encoder_of(name: str):
    torch.manual_seed(0)
    return METHODS[name][1](16, 0.0).eval()


def changed(example, change):
    """The example with other weights; `change` is given a mutable copy of them."""
    subject = example[0].baseline_inputs.subject
    weights = {key: value.clone() for key, value in subject.weights.items()}
    change(weights)
    return with_subject(example, subject.with_weights(weights))


def permuted_coordinates(weights):
    order = torch.randperm(weights["embed.W_E"].shape[1], generator=torch.Generator().manual_seed(0))
    for key, value in weights.items():
        leaf = key.rsplit(".", 1)[1]
        if leaf in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            weights[key] = value[..., order]
        elif leaf in ("w", "b"):
            weights[key] = value[order]
        elif leaf in ("W_Q", "W_K", "W_V"):
            weights[key] = value[:, order]
        elif leaf in ("W_in", "W_U"):
            weights[key] = value[order]


def permuted_neurons(weights):
    mlp = "blocks.1.mlp"
    order = torch.randperm(len(weights[f"{mlp}.b_in"]), generator=torch.Generator().manual_seed(0))
    weights[f"{mlp}.W_in"], weights[f"{mlp}.b_in"] = (
        weights[f"{mlp}.W_in"][:, order],
        weights[f"{mlp}.b_in"][order],
    )
    weights[f"{mlp}.W_out"] = weights[f"{mlp}.W_out"][order]


def permuted_tokens(weights):
    order = torch.randperm(len(weights["embed.W_E"]), generator=torch.Generator().manual_seed(0))
    weights["embed.W_E"], weights["unembed.b_U"] = weights["embed.W_E"][order], weights["unembed.b_U"][order]
    weights["unembed.W_U"] = weights["unembed.W_U"][:, order]


def permuted_units(weights):
    for name in ("W_Q", "W_K", "b_Q"):
        weights[f"blocks.0.attn.{name}"] = weights[f"blocks.0.attn.{name}"].flip(-1)


def permuted_heads(weights):
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
        weights[f"blocks.0.attn.{name}"] = weights[f"blocks.0.attn.{name}"].roll(1, 0)


def mapped_heads(weights):
    """A general linear map inside every head, its bias included."""
    generator = torch.Generator().manual_seed(0)
    for attn in ("blocks.0.attn", "blocks.1.attn"):
        for read, write in (("Q", "K"), ("V", "O")):
            inside = torch.randn(weights[f"{attn}.W_Q"].shape[-1], 2, generator=generator)
            inverse = torch.linalg.inv(inside)
            weights[f"{attn}.W_{read}"] = weights[f"{attn}.W_{read}"] @ inside
            weights[f"{attn}.b_{read}"] = weights[f"{attn}.b_{read}"] @ inside
            if write == "K":
                weights[f"{attn}.W_K"] = weights[f"{attn}.W_K"] @ inverse.T
                weights[f"{attn}.b_K"] = weights[f"{attn}.b_K"] @ inverse.T
            else:
                weights[f"{attn}.W_O"] = inverse @ weights[f"{attn}.W_O"]


def swapped_entries(weights):
    """A real change: the rows of one head's keys and of its values stand in another order."""
    for name in ("blocks.0.attn.W_K", "blocks.0.attn.W_V"):
        weights[name][0] = weights[name][0].roll(1, dims=0)


@pytest.fixture
def biased(planted_examples):
    """An example whose subject has biases and gains everywhere."""
    generator = torch.Generator().manual_seed(3)

    def shake(weights):
        for key, value in weights.items():
            if key.rsplit(".", 1)[1][0] in "bw":
                weights[key] = value + 0.3 * torch.randn(value.shape, generator=generator)

    return changed(planted_examples(1, seed=7)[0], shake)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("neuron_graph", permuted_coordinates),
        ("neuron_graph", permuted_neurons),
        ("neuron_graph", permuted_tokens),
        ("neuron_graph", permuted_units),
        ("transformer_nfn", mapped_heads),
        ("transformer_nfn", permuted_neurons),
        ("probegen", mapped_heads),
        ("probegen", permuted_coordinates),
    ],
)
def test_symmetries_of_a_method_change_nothing(biased, name, change):
    encoder, describe = encoder_of(name), METHODS[name][0]
    before, after = encoded(encoder, describe, biased), encoded(encoder, describe, changed(biased, change))
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("neuron_graph", mapped_heads),
        ("neuron_graph", swapped_entries),
        ("transformer_nfn", permuted_coordinates),
        ("transformer_nfn", swapped_entries),
        ("probegen", permuted_tokens),
        ("probegen", swapped_entries),
    ],
)
def test_what_is_no_symmetry_of_a_method_changes_its_embeddings(biased, name, change):
    encoder, describe = encoder_of(name), METHODS[name][0]
    before, after = encoded(encoder, describe, biased), encoded(encoder, describe, changed(biased, change))
    assert (after - before).abs().max() > 1e-2 * before.abs().mean()


@pytest.mark.parametrize("name", METHODS)
def test_permuted_heads_permute_their_embeddings(biased, name):
    encoder, describe = encoder_of(name), METHODS[name][0]
    before = encoded(encoder, describe, biased)
    after = encoded(encoder, describe, changed(biased, permuted_heads))
    order = torch.tensor([0, 1, 5, 2, 3, 4, *range(6, len(before))])
    torch.testing.assert_close(after, before[order], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(before[2], before[3], atol=1e-2)


@pytest.mark.parametrize("shape", [{}, {"normalization_type": "none"}, {"n_ctx": LENGTH + 3, "d_mlp": 0}])
def test_probegen_does_not_see_the_gauge(make_subject, planted_examples, shape):
    subject = make_subject(0, **shape)
    seen, truth = planted_examples(1, seed=0)[0]
    seen = replace(seen, config=subject.config)
    encoder = encoder_of("probegen")
    before = encoded(encoder, canonical_weights, with_subject((seen, truth), subject))
    moved = gauge_element(subject, torch.Generator().manual_seed(1))
    after = encoded(encoder, canonical_weights, with_subject((seen, truth), moved.subject))
    torch.testing.assert_close(after, before[moved.node_order], atol=2e-4, rtol=2e-4)
    louder = dict(subject.weights)
    louder["blocks.0.attn.W_O"] = subject.weights["blocks.0.attn.W_O"] * 1.5
    other = encoded(encoder, canonical_weights, with_subject((seen, truth), subject.with_weights(louder)))
    assert (other[2:4] - before[2:4]).abs().max() > 1e-3
