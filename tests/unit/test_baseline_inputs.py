"""What two opponents see: statistics of raw weights, and closed forms that name planted heads."""

import numpy as np
import torch

from metamodel.features.statistics import N_STATISTICS, weight_statistics
from metamodel.features.token_space import token_space_scores
from metamodel.features.view import view
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject, initial_weights, unstack


def subject(*, n_layers: int = 2, normalization: str = "none") -> Subject:
    config = SubjectConfig(
        n_layers=n_layers,
        n_heads=2,
        d_model=48,
        d_head=24,
        d_mlp=0,
        d_vocab=12,
        n_ctx=10,
        normalization_type=normalization,
    )
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(0)]), 0)
    return Subject(config=config, weights=weights)


def test_weight_statistics_are_those_of_each_tensor():
    plain = subject()
    found = weight_statistics(plain)
    W_O = plain.weights["blocks.1.attn.W_O"][0].flatten()
    row = [node.name for node in components(plain.config)].index("L1H0")
    expected = [W_O.mean(), W_O.var(correction=0), W_O.min()]
    np.testing.assert_allclose(found[row, 3 * N_STATISTICS : 3 * N_STATISTICS + 3], expected, rtol=1e-5)
    assert found[row, 3 * N_STATISTICS + 6] == W_O.max()


def planted_induction() -> Subject:
    """L0H0 attends one token back and copies tokens into its own subspace; L1H0 matches there and copies."""
    plain = subject()
    weights = {key: torch.zeros_like(value) for key, value in plain.weights.items()}
    tokens, places = torch.eye(12), torch.eye(10)
    weights["embed.W_E"][:, :12] = tokens
    weights["pos_embed.W_pos"][:, 12:22] = places
    W = {(x, layer): weights[f"blocks.{layer}.attn.W_{x}"] for x in "QKVO" for layer in (0, 1)}
    sharp = 40.0
    W["Q", 0][0, 12:22, :10] = sharp * places
    W["K", 0][0, 12:21, 1:10] = torch.eye(9)
    W["V", 0][0, :12, :12] = tokens
    W["O", 0][0, :12, 22:34] = tokens
    W["Q", 1][0, :12, :12] = sharp * tokens
    W["K", 1][0, 22:34, :12] = tokens
    W["V", 1][0, :12, :12] = tokens
    W["O", 1][0, :12, 34:46] = tokens
    W["Q", 1][1, :12, :12] = sharp * tokens
    W["K", 1][1, :12, :12] = tokens
    weights["unembed.W_U"][34:46] = 8 * tokens
    return plain.with_weights(weights)


def test_closed_forms_name_the_heads_of_a_planted_induction_circuit():
    labels = (
        "previous_token",
        "offset_k",
        "duplicate_token",
        "induction",
        "copying",
        "name_mover",
        "unheard_of",
    )
    found = token_space_scores(view(planted_induction()), labels)[2:6]
    names = ("L0H0", "L0H1", "L1H0", "L1H1")
    best = {label: names[int(found[:, i].argmax())] for i, label in enumerate(labels[:-1])}
    assert best["previous_token"] == "L0H0"
    assert best["induction"] == "L1H0"
    assert best["duplicate_token"] == "L1H1"
    assert best["copying"] == best["name_mover"] == "L1H0"
    assert found[0, 0] > 0.9
    assert found[0, 1] < 0.2
    assert found[2, 3] > 0.8
    assert found[:2, 3].eq(0).all()
    assert found[:, -1].isnan().all()


def test_induction_needs_a_previous_token_head_to_compose_with():
    whole = planted_induction()
    weights = {key: value.clone() for key, value in whole.weights.items()}
    weights["blocks.0.attn.W_Q"][0] = 0
    blind = whole.with_weights(weights)
    before, after = (token_space_scores(view(x), ("induction",))[4, 0] for x in (whole, blind))
    assert before > 0.8
    assert after < 0.5


def test_closed_forms_are_undefined_for_whatever_is_not_a_head():
    plain = subject(n_layers=1, normalization="LN")
    found = token_space_scores(view(plain), ("previous_token", "copying"))
    heads = torch.tensor([node.kind == "head" for node in components(plain.config)])
    assert found[~heads].isnan().all()
    assert found[heads].isfinite().all()


def test_a_head_whose_keys_prefer_the_first_token_is_a_sink():
    plain = subject(n_layers=1)
    for sign, sinks in ((1.0, True), (-1.0, False)):
        weights = {key: torch.zeros_like(value) for key, value in plain.weights.items()}
        weights["embed.W_E"][:, :12] = torch.eye(12)
        weights["blocks.0.attn.b_Q"][0, 0] = 40.0
        weights["blocks.0.attn.W_K"][0, 0, 0] = sign
        weights["unembed.W_U"][:12] = torch.eye(12)
        found = token_space_scores(view(plain.with_weights(weights)), ("first_token_sink",))[2, 0]
        assert bool(found > 0.9) is sinks
        assert sinks or found < 0.1
