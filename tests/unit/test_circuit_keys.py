"""The circuit loss as a key of the reader and of the editor: values, gradients, and what 0 leaves."""

import pytest
import torch

from metamodel.config.editing import EditingConfig, EditorConfig, EditTrainingConfig
from metamodel.config.edits import FAR, IN_SCOPE, NEAR
from metamodel.config.errors import InputError
from metamodel.config.function import TrainingConfig
from metamodel.losses.function import edge_mass_loss
from metamodel.losses.kept_circuit import kept_circuit_loss, kept_prompts
from metamodel.objectives.editing import EditingObjective
from metamodel.subjects import SubjectConfig, initial_weights
from metamodel.training.episodes import Episodes
from metamodel.training.fit_editing import sizes_of

NAN = float("nan")
MASS = torch.tensor([[[NAN, 3.0, 0.0], [NAN, NAN, 1.0], [NAN, NAN, NAN]]])
"""Edges of three components: one strong, one of no effect, one weak."""
SHAPE = SubjectConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=0, d_vocab=7, n_ctx=5)


def logit(share: float) -> float:
    return float(torch.tensor(share).logit())


def test_edges_in_the_right_proportion_cost_nothing_and_the_weak_one_alone_almost_everything():
    right = torch.zeros(1, 3, 3)
    right[0, 0, 1], right[0, 0, 2], right[0, 1, 2] = logit(0.6), -40.0, logit(0.2)
    assert float(edge_mass_loss(right, MASS)) == pytest.approx(0, abs=1e-5)
    wrong = right.clone()
    wrong[0, 0, 1], wrong[0, 1, 2] = -40.0, logit(0.6)
    assert float(edge_mass_loss(wrong, MASS)) == pytest.approx(1 - 1 / 10**0.5, abs=1e-5)


def test_only_edges_that_exist_are_taught_and_in_the_direction_of_their_mass():
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    edge_mass_loss(logits, MASS).backward()
    assert logits.grad is not None
    known = ~MASS.isnan()
    assert (logits.grad[~known] == 0).all()
    assert logits.grad[0, 0, 1] < 0 < logits.grad[0, 0, 2]
    assert logits.grad[0, 1, 2] > 0  # at equal probabilities the weak edge has too much of the mass


def test_a_subject_without_measured_edges_costs_nothing():
    both = torch.cat([MASS, torch.full_like(MASS, NAN)])
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    alone = edge_mass_loss(logits[:1], MASS)
    torch.testing.assert_close(edge_mass_loss(logits, both), alone)
    assert torch.autograd.grad(edge_mass_loss(logits, both), logits)[0][1].abs().max() == 0
    assert float(edge_mass_loss(logits, torch.full_like(both, NAN))) == 0


def kept(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(7, (2, 20, 5), generator=generator)
    before = torch.randn(2, 20, 7, generator=generator)
    scope = torch.full((2, 20), IN_SCOPE)
    scope[0, :6], scope[0, 6:9] = NEAR, FAR
    return tokens, before, scope


def test_prompts_are_inputs_that_stay_and_their_corruptions_have_another_answer():
    tokens, before, scope = kept()
    prompts, able = kept_prompts(tokens, before, scope, 40)
    assert able.tolist() == [True, False]
    stays = {
        tuple(row.tolist()): int(a) for row, a in zip(tokens[0, :9], before[0, :9].argmax(-1), strict=True)
    }
    other = 0
    for clean, corrupt, answer in zip(prompts.clean[0], prompts.corrupt[0], prompts.answer[0], strict=True):
        assert stays[tuple(clean.tolist())] == answer
        other += stays[tuple(corrupt.tolist())] != answer
    assert other >= 38
    assert (prompts.position == 4).all()


@pytest.fixture
def weights():
    return initial_weights(SHAPE, [torch.Generator().manual_seed(i) for i in range(2)])


def test_an_edit_of_nothing_keeps_the_circuit_and_a_broken_head_does_not(weights):
    prompts, _ = kept_prompts(*kept(), 12)
    louder = {key: value * (4 if "W_" in key else 1) for key, value in weights.items()}
    same = kept_circuit_loss(louder, louder, SHAPE, prompts)
    torch.testing.assert_close(same, torch.zeros(2), atol=1e-5, rtol=0)
    broken = dict(louder)
    broken["blocks.1.attn.W_O"] = louder["blocks.1.attn.W_O"] * -1.0
    moved = kept_circuit_loss(louder, broken, SHAPE, prompts)
    assert (moved > 0.05).all()
    assert (moved <= 1).all()


def test_the_gradient_of_the_kept_circuit_is_that_of_finite_differences(weights):
    double = {key: value.double() * (4 if "W_" in key else 1) for key, value in weights.items()}
    prompts, _ = kept_prompts(*kept(), 6)
    name = "blocks.1.attn.W_O"
    start = double[name] * 0.5

    def loss(value):
        return kept_circuit_loss(double, double | {name: value}, SHAPE, prompts).sum()

    leaf = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    way = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    step = 1e-6
    slope = (loss(start + step * way) - loss(start - step * way)) / (2 * step)
    assert float(slope.abs()) > 1e-3
    torch.testing.assert_close((gradient * way).sum(), slope.detach(), rtol=1e-4, atol=1e-7)


def editing(**training) -> EditingObjective:
    config = EditingConfig(
        editor=EditorConfig(width=8, map_width=4, map_layers=1, n_steps=2, training_steps=2),
        training=EditTrainingConfig(batch_size=2, inputs=24, shown=24, **training),
    )
    torch.manual_seed(0)
    objective = EditingObjective(sizes_of(config).network(), config)
    objective.log_dict = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    return objective


def test_the_editors_key_adds_the_term_on_its_steps_and_nothing_at_0(taught):
    batch = next(iter(Episodes([taught], batch_size=2, n_inputs=24, n_shown=24, n_maps=0, seed=0)))

    def total(step: int, **training) -> torch.Tensor:
        objective = editing(**training)
        torch.manual_seed(1)
        return objective.training_step(batch, step).detach()

    plain = total(0)
    with_term = total(0, loss_circuit=1.0, circuit_every=4)
    assert with_term > plain + 1e-4
    torch.testing.assert_close(total(1, loss_circuit=1.0, circuit_every=4), plain)
    once = total(0, loss_circuit=1.0, circuit_every=1)
    torch.testing.assert_close(with_term - plain, 4 * (once - plain), rtol=1e-3, atol=1e-5)


def test_the_editor_learns_from_the_term(taught):
    batch = next(iter(Episodes([taught], batch_size=2, n_inputs=24, n_shown=24, n_maps=0, seed=0)))
    objective = editing(
        loss_circuit=1.0, circuit_every=1, loss_edit=0.0, loss_keep=0.0, loss_scope=0.0, loss_wanted=0.0,
        loss_map=0.0, loss_forecast=0.0, loss_size=0.0,
    )  # fmt: skip
    objective.training_step(batch, 0).backward()
    sizes = [p.grad.abs().max() for p in objective.editor.parameters() if p.grad is not None]
    assert max(sizes) > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrainingConfig(loss_circuit_mass=-1.0), r"training\.loss_circuit_mass: expected 0.* got -1"),
        (lambda: EditTrainingConfig(loss_circuit=-1.0), r"training\.loss_circuit: expected 0.* got -1"),
        (lambda: EditTrainingConfig(circuit_every=0), r"training\.circuit_every: expected 1.* got 0"),
    ],
)
def test_a_key_out_of_range_is_one_line(make, words):
    with pytest.raises(InputError, match=words):
        make()
