"""Stacking changes nothing but the time: subjects train as if each were alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import data_gen.acceptance as acceptance
import data_gen.seeds as seeds
import data_gen.stacked_training as stacked_training
from data_gen.config import CellConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.population import ShardSpec, shard_specs
from data_gen.stacked_training import StackedTrainer, learning_rate, train
from data_gen.tasks import make_task
from data_gen.tasks.base import UNSUPERVISED
from data_gen.tasks.brackets import Brackets
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.forward import forward, logits_at
from metamodel.subjects.subject import initial_weights, unstack

RECIPE = RecipeConfig(steps=25, batch_size=8, learning_rate=0.01, warmup_steps=5)


def shard(n_subjects: int = 3, recipe: RecipeConfig = RECIPE, family: str = "brackets") -> ShardSpec:
    size = SizeConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_mlp=16)
    cell = CellConfig(family=family, sizes=("s",), recipe="r", n_subjects=n_subjects)
    config = ZooConfig(name="z", n_ctx=16, sizes={"s": size}, recipes={"r": recipe}, cells=(cell,))
    return shard_specs(config)[0]


def test_a_subject_trains_the_same_alone_and_in_a_stack():
    together = train(shard())
    for i, subject in enumerate(shard().subjects[:2]):
        alone = train(replace(shard(), subjects=(subject,)))
        for key, value in alone.weights.items():
            torch.testing.assert_close(value[0], together.weights[key][i], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(alone.stack.loss[0], together.stack.loss[i], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together.weights["embed.W_E"][0], together.weights["embed.W_E"][1])


def test_the_same_seed_gives_the_same_bytes_under_the_names_of_the_shape():
    one, two = train(shard()), train(shard())
    assert list(one.weights) == list(weight_shapes(shard().subject_config))
    for key, value in one.weights.items():
        assert torch.equal(value, two.weights[key])
        assert tuple(value.shape[1:]) == weight_shapes(shard().subject_config)[key]


def test_only_a_subject_below_its_threshold_is_rejected_with_the_reason(monkeypatch):
    accuracy = train(shard(2)).accuracy[:, 0]
    assert accuracy[0] != accuracy[1]
    monkeypatch.setattr(Brackets, "threshold", float(accuracy.mean()))
    rejected = train(shard(2)).rejected
    worse = int(accuracy.argmin())
    assert set(rejected) == {shard(2).subjects[worse].id}
    assert (
        f"accuracy {accuracy[worse]:.3f} on fresh prompts is below" in rejected[shard(2).subjects[worse].id]
    )


def test_one_broken_subject_is_rejected_and_leaves_its_neighbours_as_they_were(monkeypatch):
    healthy = train(shard())
    initial = stacked_training.initial_weights

    def broken(config, generators):
        weights = initial(config, generators)
        weights["blocks.0.mlp.W_in"][1] = torch.nan
        return weights

    monkeypatch.setattr(stacked_training, "initial_weights", broken)
    sick = train(shard())
    assert "not finite" in sick.rejected[shard().subjects[1].id]
    for key, value in healthy.weights.items():
        torch.testing.assert_close(sick.weights[key][[0, 2]], value[[0, 2]], atol=1e-4, rtol=1e-3)


def test_logits_at_supervised_rows_are_those_of_the_whole_forward():
    config = shard().subject_config
    weights = stacked_training.initial_weights(config, [torch.Generator().manual_seed(i) for i in range(2)])
    tokens = torch.randint(config.d_vocab, (2, 5, 12))
    rows = torch.randint(60, (2, 7))
    whole = forward(weights, config, tokens).logits.flatten(1, 2)
    found = logits_at(weights, config, tokens, rows)
    torch.testing.assert_close(found, whole.gather(1, rows[..., None].expand(-1, -1, config.d_vocab)))


def test_gradients_are_clipped_subject_by_subject():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [torch.inf, 1.0]])
    norm = stacked_training.clip([gradient], 1.0)
    torch.testing.assert_close(norm[:2], torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_progress_counts_steps_to_the_end(monkeypatch):
    monkeypatch.setattr(stacked_training, "CHUNK_STEPS", 20)
    seen = []
    train(shard(1), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20, 25), (25, 25)]


@pytest.mark.parametrize(
    ("decay", "middle", "end"), [("cosine", 0.5, 0), ("linear", 0.5, 0), ("constant", 1, 1)]
)
def test_the_learning_rate_warms_up_and_decays(decay, middle, end):
    recipe = RecipeConfig(steps=110, learning_rate=1.0, warmup_steps=10, decay=decay)
    assert learning_rate(recipe, 0) == pytest.approx(0.1)
    assert learning_rate(recipe, 9) == pytest.approx(1.0)
    assert learning_rate(recipe, 60) == pytest.approx(middle)
    assert learning_rate(recipe, 110) == pytest.approx(end, abs=1e-9)


def train_one_by_torch(
    config: SubjectConfig,
    weights: dict[str, Tensor],
    data: list[tuple[Tensor, Tensor]],
    rates: list[float],
    *,
    weight_decay: float,
    beta2: float,
    grad_clip: float,
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """One subject by torch's own parts, a parameter at a time: weights, losses and gradient norms."""
    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in weights.items()}
    matrices = [value for key, value in parameters.items() if key.split(".")[-1][0] == "W"]
    vectors = [value for key, value in parameters.items() if key.split(".")[-1][0] in "bw"]
    assert len(matrices) + len(vectors) == len(parameters)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, beta2), foreach=False)
    losses, norms = [], []
    for (tokens, targets), rate in zip(data, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        stacked = {key: value.unsqueeze(0) for key, value in parameters.items()}
        logits = forward(stacked, config, tokens).logits[0]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=UNSUPERVISED)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), grad_clip)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return {key: value.detach() for key, value in parameters.items()}, losses, norms


def double_weights(config: SubjectConfig, generators: list[torch.Generator]) -> dict[str, Tensor]:
    """In float64, where gradients that cancel, as those of key biases, stay far below AdamW's epsilon."""
    return {key: value.double() for key, value in initial_weights(config, generators).items()}


def test_steps_of_a_stack_are_those_of_torch_for_each_subject():
    config, n_steps = shard().subject_config, 6
    settings = {"weight_decay": 0.5, "beta2": 0.9, "grad_clip": 1.6}
    generator = torch.Generator().manual_seed(0)
    weights = double_weights(config, [generator] * 3)
    weights = {key: value + 0.1 for key, value in weights.items()}  # biases that a decay would move
    trainer = StackedTrainer(config, weights, learning_rate=0.02, **settings)
    tokens = torch.randint(config.d_vocab, (n_steps, 3, 4, 9), generator=generator)
    targets = torch.randint(config.d_vocab, tokens.shape, generator=generator)
    targets[torch.rand(tokens.shape, generator=generator) < 0.7] = UNSUPERVISED
    losses = torch.stack([trainer.step(tokens[i], targets[i]) for i in range(n_steps)])
    found, all_norms = trainer.weights(), []
    for s in range(3):
        data = [(tokens[i, s], targets[i, s]) for i in range(n_steps)]
        expected, expected_losses, norms = train_one_by_torch(
            config, unstack(weights, s), data, [0.02] * n_steps, **settings
        )
        all_norms += norms
        torch.testing.assert_close(losses[:, s].tolist(), expected_losses, atol=1e-6, rtol=0)
        for key, value in expected.items():
            torch.testing.assert_close(found[key][s], value, atol=1e-6, rtol=0, msg=key)
    assert min(all_norms) < settings["grad_clip"] < max(all_norms), "clipping must act on some steps only"


def test_training_follows_its_recipe_as_a_loop_with_torch_does(monkeypatch):
    monkeypatch.setattr(stacked_training, "initial_weights", double_weights)
    recipe = RecipeConfig(
        steps=8,
        batch_size=4,
        learning_rate=0.02,
        warmup_steps=2,
        decay="linear",
        weight_decay=0.5,
        beta2=0.9,
        grad_clip=1.5,
    )
    rates = [0.01, 0.02, 0.02] + [0.02 * (1 - done / 6) for done in range(1, 6)]
    spec, all_norms = shard(2, recipe), []
    found = train(spec)
    for s, subject in enumerate(spec.subjects):
        task = make_task(spec.family, spec.variant, subject.seed)
        start, data, held_out = (seeds.generator_of(subject.seed, stream) for stream in range(3))
        batch = task.sample(data, recipe.steps * recipe.batch_size)
        expected, losses, norms = train_one_by_torch(
            spec.subject_config,
            unstack(double_weights(spec.subject_config, [start]), 0),
            list(zip(batch.tokens.split(4), batch.targets.split(4), strict=True)),
            rates,
            weight_decay=recipe.weight_decay,
            beta2=recipe.beta2,
            grad_clip=recipe.grad_clip,
        )
        all_norms += norms
        for key, value in expected.items():
            torch.testing.assert_close(found.weights[key][s], value, atol=1e-6, rtol=0, msg=key)
        assert float(found.stack.loss[s]) == pytest.approx(sum(losses) / len(losses), abs=1e-6)
        fresh = task.prompts(held_out, acceptance.N_HELD_OUT)
        stacked = {key: value.unsqueeze(0) for key, value in expected.items()}
        logits = forward(stacked, spec.subject_config, fresh.clean).logits[0]
        right = [int(logits[i, p].argmax()) == fresh.answer[i] for i, p in enumerate(fresh.position)]
        assert float(found.accuracy[s, 0]) == pytest.approx(sum(right) / len(right))
    assert min(all_norms) < recipe.grad_clip < max(all_norms), "clipping must act on some steps only"


@pytest.mark.parametrize(
    ("decay", "after_warmup"),
    [
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_every_step_is_taken_at_the_rate_of_the_schedule(monkeypatch, decay, after_warmup):
    monkeypatch.setattr(stacked_training, "CHUNK_STEPS", 3)
    taken, step_at = [], StackedTrainer.step_at

    def watched(self, tokens, rows, targets):
        taken.append([group["lr"] for group in self.optimizer.param_groups])
        return step_at(self, tokens, rows, targets)

    monkeypatch.setattr(StackedTrainer, "step_at", watched)
    train(shard(1, RecipeConfig(steps=6, batch_size=2, learning_rate=0.1, warmup_steps=2, decay=decay)))
    for rates, share in zip(taken, [0.5, 1.0, *after_warmup], strict=True):
        assert rates == pytest.approx([0.1 * share] * 2, abs=1e-6)
