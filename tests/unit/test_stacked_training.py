"""Stacking changes nothing but the time: subjects train as if each were alone."""

from dataclasses import replace

import pytest
import torch

import data_gen.stacked_training as stacked_training
from data_gen.config import CellConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.population import ShardSpec, shard_specs
from data_gen.stacked_training import learning_rate, train
from data_gen.tasks.brackets import Brackets
from metamodel.subjects.config import weight_shapes
from metamodel.subjects.forward import forward, logits_at

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
        torch.testing.assert_close(alone.loss[0], together.loss[i], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together.weights["embed.W_E"][0], together.weights["embed.W_E"][1])


def test_the_same_seed_gives_the_same_bytes_under_the_names_of_the_shape():
    one, two = train(shard()), train(shard())
    assert list(one.weights) == list(weight_shapes(shard().subject_config))
    for key, value in one.weights.items():
        assert torch.equal(value, two.weights[key])
        assert tuple(value.shape[1:]) == weight_shapes(shard().subject_config)[key]


def test_only_a_subject_below_its_threshold_is_rejected_with_the_reason(monkeypatch):
    accuracy = train(shard(2)).accuracy
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
