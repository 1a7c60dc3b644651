"""What is measured of models that others trained: planted heads are found, other heads are not."""

import math

import pytest
import torch
from attention_scores import attention_scores, copying_scores, labels_of
from foreign_model import ForeignModel
from transformers import GPT2Config, GPT2LMHeadModel

N_CTX, D_HEAD = 16, 16
EVERYWHERE = ("previous_token", "offset_k", "self", "first_token_sink")


def looking_back(offset: int, folder) -> ForeignModel:
    """A GPT-2 of transformers: head 0 attends `offset` tokens back by positions alone, head 1 uniformly."""
    d_model = 2 * D_HEAD
    config = GPT2Config(
        vocab_size=40, n_positions=N_CTX, n_embd=d_model, n_layer=1, n_head=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    module = GPT2LMHeadModel(config)
    block = module.transformer.h[0].attn.c_attn
    with torch.no_grad():
        module.transformer.wte.weight.mul_(0.01)
        module.transformer.wpe.weight.zero_()
        module.transformer.wpe.weight[:, :N_CTX] = torch.eye(N_CTX)
        block.weight.zero_()
        for position in range(N_CTX):
            block.weight[position, position] = 6.0  # query of head 0
            if position + offset < N_CTX:
                block.weight[position, d_model + position + offset] = 6.0  # its key
    module.save_pretrained(folder)
    return ForeignModel.open(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return looking_back(1, tmp_path_factory.mktemp("one"))


def scores(model: ForeignModel, seed: int = 0) -> dict[str, torch.Tensor]:
    tokens, _ = model.random(6, seed=seed)
    return attention_scores(model.attention(tokens), tokens, "causal", EVERYWHERE)


def test_a_head_that_looks_one_token_back_is_a_previous_token_head_and_its_neighbour_is_not(model):
    found = scores(model)
    chance = sum(1 / (i + 1) for i in range(2, N_CTX)) / (N_CTX - 2)
    assert found["previous_token"][0, 0] == pytest.approx(1 - chance, abs=0.02)
    assert found["previous_token"][0, 1] == pytest.approx(0, abs=1e-5)
    for label in ("offset_k", "self", "first_token_sink"):
        assert found[label].amax() < 0.05


def test_the_score_does_not_hang_on_which_random_tokens_are_drawn_but_on_where_the_head_looks(
    model, tmp_path
):
    torch.testing.assert_close(scores(model)["previous_token"], scores(model, 1)["previous_token"], atol=0.01, rtol=0)  # fmt: skip  # noqa: E501
    moved = scores(looking_back(2, tmp_path))
    assert moved["offset_k"][0, 0] > 0.8
    assert moved["previous_token"][0, 0] < 0


def test_repetition_is_scored_by_hand():
    tokens = torch.tensor([[9, 1, 2, 3, 1, 2, 3]])
    pattern = torch.zeros(1, 1, 3, 7, 7)
    for query, (duplicate, following) in {4: (1, 2), 5: (2, 3), 6: (3, 4)}.items():
        pattern[0, 0, 0, query, duplicate] = 1
        pattern[0, 0, 1, query, following] = 1
    pattern[0, 0, 2] = torch.ones(7, 7).tril() / torch.arange(1, 8)[:, None]
    found = attention_scores(pattern, tokens, "causal", ("duplicate_token", "induction"))
    chance = (1 / 5 + 1 / 6 + 1 / 7) / 3
    torch.testing.assert_close(found["duplicate_token"], torch.tensor([[1, 0, chance]]) - chance)
    torch.testing.assert_close(found["induction"], torch.tensor([[0, 1, chance]]) - chance)


def test_induction_is_asked_of_causal_models_alone_and_nothing_is_said_without_repetition():
    assert set(labels_of("causal")) - set(labels_of("bidirectional")) == {"induction"}
    tokens = torch.arange(5)[None]
    pattern = torch.full((1, 1, 2, 5, 5), 0.2)
    found = attention_scores(pattern, tokens, "causal", ("duplicate_token", "self"))
    assert found["duplicate_token"].isnan().all()
    assert not found["self"].isnan().any()


def test_prompts_repeat_symbols_only_where_they_are_meant_to(model):
    random, repeated = model.random(4, seed=0)
    assert repeated is not None
    assert random.shape == repeated.shape == (4, N_CTX)
    assert (random[:, 0] == 0).all()
    assert all(len(set(row.tolist())) == N_CTX for row in random)
    assert all(len(set(row.tolist())) < N_CTX for row in repeated)


def test_a_head_that_writes_the_token_that_it_reads_copies_and_its_negative_does_not(make_subject):
    subject = make_subject(0, n_layers=1, n_heads=3, d_head=8, d_vocab=30)
    weights = dict(subject.weights)
    draw = torch.Generator().manual_seed(0)
    weights["embed.W_E"] = torch.randn(30, 8, generator=draw).double()
    weights["unembed.W_U"] = weights["embed.W_E"].T
    one = torch.eye(8).double()
    weights["blocks.0.attn.W_V"] = torch.stack([one, one, weights["blocks.0.attn.W_V"][2]])
    weights["blocks.0.attn.W_O"] = torch.stack([one, -one, weights["blocks.0.attn.W_O"][2]])
    copies, negates, other = copying_scores(subject.with_weights(weights), seed=0)[0].tolist()
    assert copies > 0.9
    assert negates < -0.9
    assert abs(other) < 0.9
    assert not math.isclose(other, 0)
