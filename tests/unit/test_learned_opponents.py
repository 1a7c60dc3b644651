"""Opponents that learn from raw weights or run the subject find what is planted, else the prior answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from learned import METHODS, with_subject
from sklearn.metrics import average_precision_score

from metamodel.baselines import opponents
from metamodel.baselines.detect_head import detect_head, detected
from metamodel.baselines.neuron_graph import neuron_graph
from metamodel.baselines.prior import Prior
from metamodel.baselines.probegen import canonical_weights, probegen
from metamodel.baselines.trained import Setting, TrainedPredictor, _group_of, _groups
from metamodel.baselines.transformer_nfn import transformer_nfn
from metamodel.features.examples import BaselineInputs
from metamodel.subjects.config import components
from metamodel.triples.schema import MASKED, NEGATIVE, POSITIVE

QUICK = (Setting(lr=5e-3, width=16, dropout=0.3, epochs=1),)


def quick(name: str) -> TrainedPredictor:
    """The opponent, with one small setting and the fewest steps."""
    describe, encoder = METHODS[name]
    return TrainedPredictor(name, describe=describe, encoder=encoder, settings=QUICK)


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
