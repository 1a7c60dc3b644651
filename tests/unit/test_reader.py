"""The function reader learns what is planted, is masked where nothing is asked, and resumes its training."""

import copy
import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from metamodel.config import InputError
from metamodel.config.function import FunctionConfig, OptimConfig, TrainerConfig, TrainingConfig, TrunkConfig
from metamodel.features.batch import UNKNOWN_SLICE, pad_seen
from metamodel.features.evidence import evidence
from metamodel.features.examples import Seen, Truth
from metamodel.features.graph import graph_of_view
from metamodel.features.registry import feature_names
from metamodel.features.view import view
from metamodel.losses.function import (
    NO_ANSWER,
    answer_loss,
    edge_mass_loss,
    masked_cross_entropy,
    masked_regression,
    pad_truth,
    positive_weights,
)
from metamodel.networks.member import TRUST, ClosedForms
from metamodel.subjects import Subject, SubjectConfig, components, initial_weights, unstack
from metamodel.training.fit import fit
from metamodel.training.trainer import RESUME
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, LabelDefinition

SHAPE = SubjectConfig(n_layers=1, n_heads=4, d_model=16, d_head=4, d_mlp=8, d_vocab=12, n_ctx=6)
TINY = FunctionConfig(
    trunk=TrunkConfig(width=16, n_layers=1, n_heads=2, edge_width=8, members=2),
    training=TrainingConfig(epochs=30, batch_size=8),
    optim=OptimConfig(lr=1e-2, ema=0.8),
    trainer=TrainerConfig(accelerator="cpu", progress=False),
)
LABELS = tuple(
    LabelDefinition(name=name, description="", statistics=(f"raw_{name}",), effect_size=0.0, twin="")
    for name in ("planted", "absent")
)


def example(seed: int) -> tuple[Seen, Truth]:
    """A random subject whose heads are positive where one of their features is."""
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(SHAPE, [generator]), 0)
    v = view(Subject(config=SHAPE, weights=weights))
    graph = graph_of_view(v, "both")
    n = len(components(SHAPE))
    is_head = torch.tensor([node.kind == "head" for node in components(SHAPE)])
    cause = graph.nodes[:, feature_names("both").index("head.ov_eigenvalue_positivity")]
    state = torch.where(cause > 0.0, POSITIVE, NEGATIVE)
    state = torch.stack([state, torch.full_like(state, NEGATIVE)], dim=1)
    state[~is_head] = MASKED
    score = torch.stack([cause, torch.full_like(cause, math.nan)], dim=1)
    tokens = torch.randint(SHAPE.d_vocab, (3, 5), generator=generator)
    position = torch.full((3,), 4)
    said = evidence(v, tokens, position, "both")
    seen = Seen(
        id=str(seed),
        config=SHAPE,
        graph=graph,
        family="secret",
        variant="secret",
        slice_names=("easy", "hard"),
        probe_tokens=tokens,
        probe_position=position,
        probe_slice=torch.zeros(3, dtype=torch.long),
        evidence=said,
    )
    exists = graph.edges[..., 0] > 0
    truth = Truth(
        lineage=str(seed),
        function_score=score,
        function_state=state,
        node_member=cause > 0.0,
        edge_member=exists & (cause > 0.0)[:, None],
        edge_exists=exists,
        slice_accuracy=torch.tensor([0.9, math.nan]),
        probe_answer=tokens[:, 4],
        probe_right_answer=tokens[:, 4],
    )
    assert n == len(graph.kinds)
    return seen, truth


@pytest.fixture(scope="module")
def examples() -> list[tuple[Seen, Truth]]:
    return [example(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def fitted(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    reader, slices, _ = fit(TINY, examples[:18], examples[18:], labels=LABELS, folder=folder)
    return reader, slices, folder


def test_a_planted_label_is_learned_and_read_from_new_subjects(fitted, examples):
    reader, slices, _ = fitted
    fresh = [example(seed) for seed in range(100, 112)]
    said = reader.answers(pad_seen([seen for seen, _ in fresh], slices))
    heads = torch.tensor([node.kind == "head" for node in components(SHAPE)])
    truth = torch.stack([t.function_state[heads, 0] == POSITIVE for _, t in fresh])
    probability = said.function_probability[:, heads, 0]
    assert probability[truth].mean() > probability[~truth].mean() + 0.25
    assert said.function_probability[:, heads, 1].max() < 0.2
    assert (said.slice_accuracy[:, 0] - 0.9).abs().max() < 0.15
    right = torch.stack([t.probe_answer for _, t in fresh])
    assert float((said.answer.argmax(-1) == right).float().mean()) > 0.6
    assert reader.asked[2].tolist() == [True, True]
    assert not reader.asked[3].any()


def test_answers_are_the_same_beside_a_subject_of_a_larger_vocabulary(fitted, examples):
    reader, slices, _ = fitted
    (small, _), (other, _) = examples[:2]
    n_probe, n_node, n_token, n_channel = other.evidence.shape
    generator = torch.Generator().manual_seed(0)
    more = torch.randn(n_probe, n_node, 8, n_channel, generator=generator)
    large = dataclasses.replace(other, evidence=torch.cat([other.evidence, more], dim=2))
    alone = reader.answers(pad_seen([small], slices)).answer[0]
    beside = reader.answers(pad_seen([small, large], slices)).answer
    torch.testing.assert_close(beside[0, :, :n_token], alone)
    assert (beside[0, :, n_token:] == 0).all()
    assert (beside[1, :, n_token:] > 0).all()


def test_subjects_of_two_vocabularies_train_together(fitted, examples):
    reader = copy.deepcopy(fitted[0]).train()
    (small, _), (other, truth) = examples[:2]
    large = dataclasses.replace(other, evidence=other.evidence.repeat(1, 1, 2, 1))
    right = truth.probe_answer.expand(2, -1)
    members = reader(pad_seen([small, large], ("easy", "hard")))
    torch.stack([answer_loss(answers.answer_logits, right) for answers in members]).sum().backward()
    gradients = [p.grad for p in reader.parameters() if p.grad is not None]
    assert any(bool(g.any()) for g in gradients)
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_the_normaliser_knows_training_subjects_only(fitted, examples):
    reader, _, _ = fitted
    column = feature_names("both").index("head.ov_log_norm")
    values = [seen.graph.nodes[seen.graph.kinds == 2, column] for seen, _ in examples[:18]]
    assert reader.normaliser.centre[2, column] == torch.cat(values).quantile(0.5)
    assert not reader.normaliser.used[3, column], "a column belongs to one kind"


def test_training_writes_curves_and_a_state_that_loads_without_pickle(fitted):
    _, _, folder = fitted
    assert (folder / "metrics.csv").is_file()
    state = torch.load(folder / RESUME, weights_only=True)
    assert state["hyper_parameters"]["config"]["optim"]["lr"] == 1e-2


def test_an_interrupted_training_goes_on_where_it_stopped(examples, tmp_path, capfd):
    def with_epochs(n: int) -> FunctionConfig:
        return dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, epochs=n))

    fit(with_epochs(5), examples[:18], examples[18:], labels=LABELS, folder=tmp_path)
    assert torch.load(tmp_path / RESUME, weights_only=True)["epoch"] == 4
    fit(with_epochs(10), examples[:18], examples[18:], labels=LABELS, folder=tmp_path)
    state = torch.load(tmp_path / RESUME, weights_only=True)
    assert state["epoch"] == 9
    assert state["global_step"] == 10 * 3
    # the curves of the first attempt are kept beside those of the second
    assert {path.name for path in tmp_path.glob("metrics*.csv")} == {"metrics.csv", "metrics-1.csv"}
    said = capfd.readouterr()
    assert said.out == "", "adverts"
    assert said.err == ""


def test_training_refuses_a_label_whose_statistic_is_a_feature(examples, tmp_path):
    leaking = dataclasses.replace(LABELS[0], statistics=("attention_entropy",))
    with pytest.raises(InputError, match=r"label planted: .* got head.attention_entropy"):
        fit(TINY, examples[:2], examples[2:4], labels=(leaking, LABELS[1]), folder=tmp_path)


def test_masked_labels_and_pattern_only_count_as_they_should(examples):
    _, truth = examples[0]
    states = truth.function_state.clone()
    states[2, 0], states[3, 0], states[4, 0] = MASKED, PATTERN_ONLY, POSITIVE
    positive = pad_truth([dataclasses.replace(truth, function_state=states)]).positive[0, :, 0]
    assert positive[2].isnan()
    assert positive[3] == 0
    assert positive[4] == 1


def test_what_is_not_asked_costs_nothing_and_gives_no_gradient():
    nan = math.nan
    logits = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    loss = masked_cross_entropy(logits, torch.tensor([1.0, nan, 0.0]), 3.0)
    by_hand = (3 * math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(2.0))) / 4
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[1] == 0
    assert (gradient[[0, 2]] != 0).all()
    nothing = torch.full((3,), nan)
    assert masked_cross_entropy(logits, nothing).item() == 0
    assert masked_regression(logits, nothing).item() == 0
    assert masked_regression(logits, torch.tensor([0.3, nan, 2.5])).item() == pytest.approx(0.0625)
    unasked = torch.full((1, 2), NO_ANSWER)
    padded_logits = torch.randn(1, 2, 5).masked_fill(torch.arange(5) > 3, -torch.inf)
    assert float(answer_loss(padded_logits, unasked)) == 0


def test_rare_positives_weigh_more_up_to_a_limit():
    column = torch.tensor([1.0] + [0.0] * 16)
    common = torch.tensor([1.0] * 9 + [0.0] * 8)
    never = torch.tensor([math.nan] * 17)
    weights = positive_weights(torch.stack([column, common, never], dim=1), power=0.5, most=3.0)
    assert weights.tolist() == [3.0, 1.0, 1.0]
    assert positive_weights(column[:, None], power=0.5, most=9.0).tolist() == [4.0]


def test_importing_the_package_is_quick_and_pulls_in_nothing_heavy():
    code = "import sys, metamodel; print([m for m in ('torch', 'lightning', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_of_slices_are_sometimes_forgotten_in_training_and_never_in_use(fitted, examples):
    reader = copy.deepcopy(fitted[0])
    batch = pad_seen([seen for seen, _ in examples[:8]], fitted[1])
    assert not bool((batch.slices == UNKNOWN_SLICE).any())
    for training in (True, False):
        reader.train(training).zero_grad()
        torch.manual_seed(0)
        torch.stack([answers.slice_logits.sum() for answers in reader(batch)]).sum().backward()
        gradient = reader.members[0].slice.query.weight.grad[UNKNOWN_SLICE]
        assert bool((gradient != 0).any()) is training


def test_logits_and_scores_start_from_the_closed_form_of_their_label_where_it_has_one():
    forms = ClosedForms((3, -1))
    features = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    on_logits, on_scores = forms(features)
    for added, trust in zip((on_logits, on_scores), TRUST, strict=True):
        torch.testing.assert_close(added[..., 0], features[..., 3] * math.log(1 + math.exp(trust)))
        assert bool((added[..., 1] == 0).all())


def test_a_member_adds_its_closed_forms_to_what_it_answers(fitted, examples):
    member = copy.deepcopy(fitted[0]).members[0].eval()
    batch = pad_seen([seen for seen, _ in examples[:2]], fitted[1])
    member.closed_forms = ClosedForms((3, -1))
    features = torch.randn(*batch.nodes.shape, generator=torch.Generator().manual_seed(0))
    relations = torch.zeros(*batch.edges.shape)
    encoded = fitted[0].encoder(batch)
    before = member(features, relations, encoded, batch, features)
    member.closed_forms.trust.data += 1.0
    after = member(features, relations, encoded, batch, features)
    for name in ("function_logits", "function_score"):
        change = getattr(after, name) - getattr(before, name)
        assert bool((change[..., 0].abs() > 1e-4).all())
        assert bool((change[..., 1] == 0).all())


def with_mass(some):
    """The planted truth: one relation says what an edge weighs."""
    return [
        (seen, dataclasses.replace(truth, edge_mass=seen.graph.edges[..., 1].abs() * truth.edge_exists))
        for seen, truth in some
    ]


def test_a_reader_with_the_key_of_circuit_mass_shares_out_mass_better_than_one_without(examples, tmp_path):
    known, found = with_mass(examples), {}
    for weight in (0.0, 4.0):
        training = dataclasses.replace(TINY.training, loss_circuit_mass=weight)
        config = dataclasses.replace(TINY, training=training)
        folder = tmp_path / str(weight)
        reader, slices, _ = fit(config, known[:18], known[18:], labels=LABELS, folder=folder)
        said = reader(pad_seen([seen for seen, _ in known[18:]], slices))[0].edge_member
        found[weight] = float(
            edge_mass_loss(said.detach(), pad_truth([truth for _, truth in known[18:]]).edge_mass)
        )
    assert found[4.0] < found[0.0] - 0.02, found
