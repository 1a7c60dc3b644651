"""The detector of head patterns: the scores that it gives, and that only their scale is learned."""

import importlib

import pytest
import torch
from sklearn.metrics import average_precision_score

from metamodel.baselines.detect_head import NAMES, Listened, detect_head, detected, said_twice
from metamodel.baselines.prior import Prior
from metamodel.subjects.config import KINDS
from metamodel.triples.schema import MASKED, POSITIVE


@pytest.fixture(scope="module")
def looks_back(make_subject):
    """A subject without embeddings of tokens whose head 0 attends one token back, and head 1 everywhere."""
    subject = make_subject(0, n_layers=1, d_head=8, n_ctx=8, d_mlp=0, normalization_type="none")
    weights = {key: torch.zeros_like(value) for key, value in subject.weights.items()}
    weights["pos_embed.W_pos"] = torch.eye(8).double()
    weights["blocks.0.attn.W_Q"][0] = 60 * torch.eye(8)
    weights["blocks.0.attn.W_K"][0] = torch.eye(8).roll(1, 1)  # position j answers to queries of j + 1
    return subject.with_weights(weights)


def test_the_detector_scores_a_head_that_looks_back(looks_back):
    """Seven positions: six of seven rows look back, the first at itself; uniform rows by their length."""
    score = detected(looks_back, "previous_token_head", exclude_bos=False)
    assert score[0, 0].item() == pytest.approx(6 / 7, abs=1e-6)
    assert score[0, 1].item() == pytest.approx(sum(1 / n for n in range(2, 8)) / 7, abs=1e-6)
    assert detected(looks_back, "induction_head", exclude_bos=False)[0, 0] < 0.2


@pytest.mark.parametrize("pattern", NAMES.values())
def test_the_detector_finds_in_our_forward_what_it_finds_in_a_bridge(make_subject, pattern):
    from transformer_lens.head_detector import detect_head as detector

    subject = make_subject(1, n_ctx=12).with_weights(
        {key: value.float() for key, value in make_subject(1, n_ctx=12).weights.items()}
    )
    bridge, ours = subject.to_bridge(), Listened(subject=subject)
    for prompt in said_twice(subject)[:2]:
        tokens = ours.to_tokens(prompt)
        _, cache = bridge.run_with_cache(tokens, remove_batch_dim=True)
        theirs = detector(ours, prompt, pattern, cache=cache)
        torch.testing.assert_close(detector(ours, prompt, pattern), theirs, atol=1e-5, rtol=1e-4)


def test_prompts_of_the_detector_say_random_tokens_twice(make_subject):
    subject = make_subject(0, n_ctx=12, d_vocab=30)
    prompts = [[int(word) for word in prompt.split()] for prompt in said_twice(subject)]
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert len(prompt) == 11
        assert prompt[0] == 0
        assert prompt[1:6] == prompt[6:]
        assert len(set(prompt[1:6])) == 5
        assert max(prompt) < 30


def test_detect_head_learns_only_the_scale_of_a_score(planted_examples, monkeypatch):
    """Heads whose detector score is high are positive; labels that it does not name keep the prior."""
    file = importlib.import_module("metamodel.baselines.detect_head")  # the package exports its function

    examples = {seed: planted_examples(12, seed=seed) for seed in (0, 1, 2)}
    planted_score = {
        id(seen.baseline_inputs.subject): seen.graph.nodes[seen.graph.kinds == KINDS.index("head"), 3]
        for group in examples.values()
        for seen, _ in group
    }
    monkeypatch.setattr(
        file, "detected", lambda subject, pattern, **_: planted_score[id(subject)].view(2, 4).exp()
    )
    reader, prior = detect_head(), Prior()
    reader.fit(examples[0], examples[1])
    prior.fit(examples[0], examples[1])
    y, said = [], []
    for seen, truth in examples[2]:
        known = truth.function_state[:, 0] != MASKED
        found, usual = reader.predict(seen), prior.predict(seen)
        y.append(truth.function_state[known, 0] == POSITIVE)
        said.append(found.function_probability[known, 0])
        assert torch.equal(found.function_probability[:, 1], usual.function_probability[:, 1])  # copying
        assert torch.equal(found.edge_member, usual.edge_member)
    assert average_precision_score(torch.cat(y), torch.cat(said)) == 1.0
