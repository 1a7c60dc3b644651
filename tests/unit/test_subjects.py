"""A subject refuses what it would otherwise compute wrongly without a word: settings, tokens, positions."""

import importlib.util
import inspect

import pytest
import torch

from metamodel.config import InputError
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.forward import forward, logits_at

SIZES = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 6, "d_vocab": 7, "n_ctx": 5}
FIT = "Choose tokens that fit the subject's vocabulary."


def subject(**changes: object) -> Subject:
    config = SubjectConfig(**(SIZES | changes))
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(0)]), 0)
    return Subject(config=config, weights=weights, name="it")


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def unhooked() -> type[SubjectConfig]:
    """The configuration without the suite's hook, which refuses wrong types before the class itself can."""
    spec = importlib.util.spec_from_file_location("unhooked", inspect.getfile(SubjectConfig))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SubjectConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalization_type": "RMS"},
            "normalization_type: expected 'LN' or 'none', got 'RMS'. Choose one of them.",
        ),
        (
            {"norm_position": "pree"},
            "norm_position: expected 'pre' or 'post', got 'pree'. Choose one of them. Did you mean 'pre'?",
        ),
        (
            {"attention_dir": "casual"},
            "attention_dir: expected 'causal' or 'bidirectional', got 'casual'. Choose one of them. "
            "Did you mean 'causal'?",
        ),
        (
            {"act_fn": "geluu"},
            "act_fn: expected 'relu' or 'gelu' or 'gelu_new', got 'geluu'. Choose one of them. "
            "Did you mean 'gelu'?",
        ),
        (
            {"act_fn": None},
            "act_fn: expected 'relu' or 'gelu' or 'gelu_new', got None. Choose one of them.",
        ),
        ({"n_layers": "2"}, "n_layers: expected a whole number, got '2'. Set an int."),
        ({"n_heads": True}, "n_heads: expected a whole number, got True. Set an int."),
        ({"d_mlp": 6.0}, "d_mlp: expected a whole number, got 6.0. Set an int."),
        ({"d_mlp": -1}, "d_mlp: expected at least 0, got -1. Set 0 for no MLP."),
        ({"n_ctx": 0}, "n_ctx: expected at least 1, got 0. Set a positive size."),
        ({"eps": "x"}, "eps: expected > 0, got 'x'. TransformerLens uses 1e-5."),
        ({"eps": float("nan")}, "eps: expected > 0, got nan. TransformerLens uses 1e-5."),
    ],
    ids=str,
)
def test_a_setting_that_a_subject_does_not_know_is_refused(unhooked, changes, message):
    assert refusal(lambda: unhooked(**(SIZES | changes))) == f"subject.{message}"
    assert unhooked.from_dict(SIZES | {"act_fn": "gelu", "normalization_type": "none"}).act_fn == "gelu"


@pytest.mark.parametrize("token", [-1, 7])
def test_tokens_that_a_subject_does_not_know_are_refused_when_it_is_run(token: int):
    tokens = torch.tensor([[0, 6, 3], [1, 2, 5]])
    assert subject().run(tokens).logits.shape == (1, 2, 3, 7)
    tokens[1, 1] = token
    said = refusal(lambda: subject().run(tokens))
    assert said == f"tokens: expected tokens from 0 to 6, those it knows, got {token}. {FIT}"


@pytest.mark.parametrize("n_ctx", [1, 5])
def test_positions_that_a_subject_does_not_embed_are_refused(n_ctx: int):
    one = subject(n_ctx=n_ctx)
    shared, own = torch.zeros(2, n_ctx + 1).long(), torch.zeros(1, 2, n_ctx + 1).long()
    message = (
        f"tokens: expected at most {n_ctx} positions, those the subject embeds, got {n_ctx + 1}. "
        "Shorten the prompts."
    )
    for tokens in (shared, own):
        assert refusal(lambda tokens=tokens: forward(one.stacked, one.config, tokens)) == message
        forward(one.stacked, one.config, tokens[..., 1:])
    rows = torch.zeros(1, 1).long()
    assert refusal(lambda: logits_at(one.stacked, one.config, own, rows)) == message
    assert refusal(lambda: one.run(shared)) == message
