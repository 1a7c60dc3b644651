"""Opponents that learn from raw weights, run the subject or detect heads: each keeps the symmetries of its
method and only those, finds what is planted, and falls back to the prior."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from metamodel.baselines import opponents
from metamodel.baselines.detect_head import NAMES, Listened, detect_head, detected, said_twice
from metamodel.baselines.neuron_graph import NeuronGraph, neuron_graph
from metamodel.baselines.neurons import neuron_inputs
from metamodel.baselines.prior import Prior
from metamodel.baselines.probegen import LENGTH, ProbeGen, canonical_weights, probegen
from metamodel.baselines.raw_weights import raw_weights
from metamodel.baselines.trained import Setting, TrainedPredictor, _group_of, _groups
from metamodel.baselines.transformer_nfn import TransformerNfn, transformer_nfn
from metamodel.features.examples import BaselineInputs
from metamodel.subjects.config import KINDS, components
from metamodel.subjects.gauge import gauge_element
from metamodel.triples.schema import MASKED, NEGATIVE, POSITIVE

METHODS = {
    "transformer_nfn": (raw_weights, TransformerNfn),
    "neuron_graph": (neuron_inputs, NeuronGraph),
    "probegen": (canonical_weights, ProbeGen),
}
QUICK = (Setting(lr=5e-3, width=16, dropout=0.3, epochs=1),)


def quick(name: str) -> TrainedPredictor:
    """The opponent, with one small setting and the fewest steps."""
    describe, encoder = METHODS[name]
    return TrainedPredictor(name, describe=describe, encoder=encoder, settings=QUICK)


def with_subject(example, subject):
    seen, truth = example
    return replace(seen, baseline_inputs=replace(seen.baseline_inputs, subject=subject)), truth


def planted(examples, seed: int, *, noise: bool = False):
    """Heads whose values are four times as large are positive for label 0 and in the circuit, with all edges
    from them; with `noise` other heads are."""
    rng = np.random.default_rng(seed)
    found = []
    for seen, truth in examples:
        nodes = components(seen.config)
        heads = torch.tensor([node.kind == "head" for node in nodes])
        chosen = torch.tensor(rng.random(len(nodes)) < 0.4) & heads
        large = torch.tensor(rng.random(len(nodes)) < 0.4) & heads if noise else chosen
        weights = dict(seen.baseline_inputs.subject.weights)
        for node, grows in zip(nodes, large, strict=True):
            if grows:
                key = f"blocks.{node.layer}.attn.W_V"
                weights[key] = weights[key].clone()
                weights[key][node.head] *= 4
        state = truth.function_state.clone()
        state[:, 0] = torch.where(heads, torch.where(chosen, POSITIVE, NEGATIVE), MASKED)
        labelled = replace(
            truth,
            function_state=state,
            node_member=chosen,
            edge_member=truth.edge_exists & chosen[:, None],
        )
        subject = seen.baseline_inputs.subject.with_weights(weights)
        found.append(with_subject((seen, labelled), subject))
    return found


def precisions(reader, examples) -> dict[str, float]:
    """Average precision above the base rate: of label 0, of nodes, of edges."""
    asked: dict[str, list] = {"label": [], "node": [], "edge": []}
    for seen, truth in examples:
        said, known = reader.predict(seen), truth.function_state[:, 0] != MASKED
        asked["label"].append(
            (truth.function_state[known, 0] == POSITIVE, said.function_probability[known, 0])
        )
        asked["node"].append((truth.node_member[known], said.node_member[known]))
        asked["edge"].append((truth.edge_member[truth.edge_exists], said.edge_member[truth.edge_exists]))
    found = {}
    for name, pairs in asked.items():
        y, p = (torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
        found[name] = float(average_precision_score(y, p) - y.mean())
    return found


@pytest.fixture(scope="module")
def fitted(planted_examples) -> dict[str, TrainedPredictor]:
    train, validation = planted(planted_examples(24, seed=0), 0), planted(planted_examples(6, seed=1), 1)
    found = {}
    for name in METHODS:
        found[name] = quick(name)
        found[name].fit(train, validation)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_planted_size_of_weights_is_found_in_subjects_never_seen(fitted, planted_examples, name):
    found = precisions(fitted[name], planted(planted_examples(12, seed=2), 2))
    assert found["label"] > 0.3
    assert found["node"] > 0.3
    assert found["edge"] > 0.3


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_found_in_noise(fitted, planted_examples, name):
    found = precisions(fitted[name], planted(planted_examples(30, seed=3), 3, noise=True))
    assert found["label"] < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_fitting_again_gives_the_same_answers_whatever_was_drawn_before(fitted, planted_examples, name):
    train, validation = planted(planted_examples(24, seed=0), 0), planted(planted_examples(6, seed=1), 1)
    again = quick(name)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again.fit(train, validation)
    assert torch.equal(before, torch.get_rng_state())
    seen = planted_examples(1, seed=4)[0][0]
    one, other = again.predict(seen), fitted[name].predict(seen)
    assert torch.equal(one.function_probability, other.function_probability)
    assert torch.equal(one.edge_member, other.edge_member)


@pytest.mark.parametrize("name", METHODS)
def test_subjects_read_together_are_read_as_alone(fitted, planted_examples, name):
    examples = planted_examples(5, seed=5)
    describe, _ = METHODS[name]
    reader = fitted[name]._reader
    [group] = _groups(examples, describe)
    together = reader(group)
    for row, (seen, _) in enumerate(examples):
        alone = reader(_group_of([(seen, describe(seen))], None))
        torch.testing.assert_close(together.label[row], alone.label[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.edge_member[row], alone.edge_member[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together.label[0], together.label[1], atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_what_training_does_not_show_is_answered_by_the_prior(fitted, planted_examples, name):
    seen, truth = planted_examples(1, seed=6, size=(3, 2), family="another")[0]
    prior = Prior()
    prior.fit(planted(planted_examples(24, seed=0), 0), [])
    said, usual = fitted[name].predict(seen), prior.predict(seen)
    assert torch.equal(said.function_probability[:, 2], usual.function_probability[:, 2])
    assert not torch.equal(said.function_probability[:, 0], usual.function_probability[:, 0])
    assert torch.equal(said.slice_accuracy, usual.slice_accuracy)
    assert torch.equal(said.probe_answer, usual.probe_answer)
    assert not said.edge_member[~truth.edge_exists].any()
    assert said.function_score.isfinite().all()


def test_training_weights_of_positives_do_not_distort_probabilities(fitted, planted_examples):
    """Of rare positives in noise, the mean answer is their frequency."""
    reader = quick("transformer_nfn")
    train = planted_examples(24, seed=0, noise=True)
    reader.fit(train, [])
    known = [(t.function_state[:, 1] != MASKED, t) for _, t in train]
    said = torch.cat(
        [reader.predict(s).function_probability[k, 1] for (k, _), (s, _) in zip(known, train, strict=True)]
    )
    truth = torch.cat([t.function_state[k, 1] == POSITIVE for k, t in known])
    assert said.mean().item() == pytest.approx(truth.float().mean().item(), abs=0.1)


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


def test_probes_are_learnt_with_their_reader(fitted, planted_examples):
    train = _groups(planted_examples(4, seed=0), canonical_weights)
    reader = fitted["probegen"]._reader
    reader.zero_grad()
    with torch.enable_grad():
        reader.loss(train[0]).backward()
    for weight in reader.encoder.generator.parameters():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0


def test_subjects_that_cannot_be_run_are_answered_by_the_prior(fitted, planted_examples):
    seen, _ = planted_examples(1, seed=0)[0]
    post = replace(seen.config, norm_position="post")
    subject = replace(seen.baseline_inputs.subject, config=post)
    seen = replace(seen, config=post, baseline_inputs=replace(seen.baseline_inputs, subject=subject))
    usual = fitted["probegen"]._prior.predict(seen)
    assert torch.equal(fitted["probegen"].predict(seen).function_probability, usual.function_probability)
    assert detected(subject, "induction_head", exclude_bos=False) is None
    weights_only = fitted["neuron_graph"].predict(seen).function_probability
    assert not torch.equal(weights_only[:, 0], usual.function_probability[:, 0])


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


def test_opponents_that_run_the_subject_stand_beside_readers_of_activations_only():
    names = {
        track: [reader.name for reader in opponents(track)] for track in ("weights", "activations", "both")
    }
    assert names["activations"] == names["both"] == [reader.name for reader in opponents()]
    assert set(names["both"]) - set(names["weights"]) == {"probegen"}
    for method in (transformer_nfn(), neuron_graph(), probegen(), detect_head()):
        assert method.name in names["both"]


def test_examples_for_baselines_name_their_labels():
    assert "labels" in BaselineInputs.__dataclass_fields__
