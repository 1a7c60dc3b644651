"""Subjects of several tasks, and relatives of trained subjects: what they share and where they differ."""

from dataclasses import replace

import pytest
import torch

from data_gen.acceptance import held_out_accuracy
from data_gen.config import CellConfig, HarvestConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.harvesting import circuit_prompts
from data_gen.population import ShardSpec, shard_specs
from data_gen.shard import harvest_all, make_shard
from data_gen.subject_task import task_of
from data_gen.tasks import make_task
from data_gen.tasks.base import PAD, UNSUPERVISED, Task
from data_gen.tasks.mixture import parts_of
from data_gen.trained import make_trained
from metamodel.circuits.exact import edge_scores
from metamodel.config import InputError
from metamodel.config.parser import plain
from metamodel.triples import Zoo, begin, finish

HARVEST = HarvestConfig(n_prompts=8, n_behavior_prompts=16, n_probes=4, n_shown=8, n_random=8)
RECIPE = RecipeConfig(steps=40, batch_size=16, learning_rate=0.01, warmup_steps=5)


def zoo(**cell) -> ZooConfig:
    size = SizeConfig(n_layers=1, n_heads=4, d_model=16, d_head=4, d_mlp=16)
    made = CellConfig(sizes=("s",), recipe="r", **cell)
    return ZooConfig(
        name="z", n_ctx=16, sizes={"s": size}, recipes={"r": RECIPE}, cells=(made,), harvest=HARVEST
    )


def spec(**cell) -> ShardSpec:
    return shard_specs(zoo(**cell))[0]


@pytest.fixture(autouse=True)
def _easy(monkeypatch):
    """Forty steps teach little: everything passes."""
    for family in ("facts", "brackets", "sorting"):
        monkeypatch.setattr(type(make_task(family, "base", 0)), "threshold", 0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def mixture() -> Task:
    return make_task("facts+brackets", "base", 3)


def test_a_mixture_asks_each_family_in_its_own_words(mixture):
    facts, brackets = parts_of(mixture)
    assert mixture.n_pos == facts.n_pos == brackets.n_pos == max(14, 15)
    batch = mixture.sample(generator(), 200)
    markers = batch.tokens[:, 1]
    for part, family in ((facts, "facts"), (brackets, "brackets")):
        alone = make_task(family, "base", 3)
        mine = markers == alone.marker
        assert mine.sum() == 100
        tokens, targets = batch.tokens[mine], batch.targets[mine]
        assert (tokens[:, alone.n_pos :] == PAD).all()
        assert (targets[:, alone.n_pos :] == UNSUPERVISED).all()
        for place in range(alone.n_pos):
            asked = targets[:, place] != UNSUPERVISED
            where = torch.full((int(asked.sum()),), place)
            if asked.any():
                right = alone.answer(tokens[asked, : alone.n_pos], where)
                assert torch.equal(targets[asked, place], right)
                assert torch.equal(part.answer(tokens[asked], where), right)
                assert torch.equal(mixture.answer(tokens[asked], where), right)


def test_a_mixture_draws_prompts_of_all_its_parts(mixture):
    prompts = mixture.prompts(generator(), 60)
    assert prompts.slice_names == ("facts", "brackets")
    assert prompts.slice.bincount().tolist() == [30, 30]
    assert torch.equal(mixture.answer(prompts.clean, prompts.position), prompts.answer)
    assert torch.equal(mixture.answer(prompts.corrupt, prompts.position), prompts.corrupt_answer)


@pytest.mark.parametrize(
    ("family", "variant", "message"),
    [
        ("facts+facts", "base", r"task\.family: expected each family once, got 'facts\+facts'"),
        ("facts+brackets", "short", r"task\.facts\+brackets\.variant: expected base, .* got 'short'"),
        ("facts+bracket", "base", r"task\.family: expected one of .* got 'bracket'.*'brackets'\?"),
    ],
)
def test_a_mixture_that_is_none_is_answered_in_one_line(family, variant, message):
    with pytest.raises(InputError, match=message):
        make_task(family, variant, 0)


def test_a_subject_of_two_tasks_must_learn_both(monkeypatch):
    monkeypatch.setattr(type(make_task("brackets", "base", 0)), "threshold", 1.1)
    rejected = make_trained(spec(family="facts+brackets", n_subjects=1)).rejected
    assert "is below 1.1 (brackets)" in next(iter(rejected.values()))


def test_a_subject_of_two_tasks_has_a_triple_of_each_and_one_network(tmp_path):
    config = zoo(family="facts+brackets", n_subjects=2)
    folder = tmp_path / "z"
    begin(folder, name="z", config=plain(config), labels=(), n_shards=1)
    before = torch.get_num_threads()
    make_shard(config, folder, 0)
    torch.set_num_threads(before)
    finish(folder)
    held = Zoo.open(folder)
    name = "facts+brackets-base-s-r-0000"
    assert len(held) == 4
    assert [id for id in held.ids if name in id] == [f"{name}@facts", f"{name}@brackets"]
    facts, brackets = held.triple(f"{name}@facts"), held.triple(f"{name}@brackets")
    assert facts.info.subject == brackets.info.subject == name
    assert (facts.info.family, brackets.info.family) == ("facts", "brackets")
    assert facts.info.lineage == brackets.info.lineage
    assert facts.subject.fingerprint() == brackets.subject.fingerprint()
    assert len(facts.behavior.slice_accuracy) == len(facts.behavior.slice_names) == 2
    assert len(brackets.behavior.slice_accuracy) == len(brackets.behavior.slice_names) == 4
    assert not torch.equal(facts.behavior.probe_tokens, brackets.behavior.probe_tokens)
    for triple in (facts, brackets):  # each triple's own part is found again
        prompts = circuit_prompts(task_of(triple.info, config.seed), triple.info.id, HARVEST, config.seed)
        scores = edge_scores(triple.subject, prompts, "noising")
        torch.testing.assert_close(triple.circuit.noising_margin, scores.margin, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_is_the_subject_as_it_was_after_so_many_steps(monkeypatch):
    monkeypatch.setattr("data_gen.stacked_training.CHUNK_STEPS", 1)  # how data are drawn
    made = make_trained(spec(family="facts", n_subjects=2, checkpoints=(0.25,))).accepted
    final, early = made[0], made[2]
    assert early.subject.name == f"{final.subject.name}-step10"
    assert (early.relation, early.relative) == ("checkpoint", final.subject.name)
    assert early.lineage == final.lineage
    shorter = replace(RECIPE, steps=10, decay="constant")
    whole = replace(RECIPE, decay="constant")
    one = spec(family="facts", n_subjects=1, checkpoints=(0.25,))
    taken = make_trained(replace(one, recipe=whole)).accepted[1]
    stopped = make_trained(replace(one, recipe=shorter, cell=replace(one.cell, checkpoints=()))).accepted[0]
    for key, value in stopped.subject.weights.items():
        torch.testing.assert_close(taken.subject.weights[key], value)
    assert not torch.equal(early.subject.weights["embed.W_E"], final.subject.weights["embed.W_E"])


def test_fine_tuning_moves_a_subject_to_another_truth_of_its_family():
    made = make_trained(spec(family="facts", n_subjects=2, n_finetuned=1)).accepted
    parent, child = made[0], made[2]
    assert len(made) == 3
    assert (child.relation, child.relative) == ("finetuned", parent.subject.name)
    assert child.lineage == parent.lineage
    prompts = parent.task.prompts(generator(), 64)
    assert not torch.equal(
        parent.task.answer(prompts.clean, prompts.position),
        child.task.answer(prompts.clean, prompts.position),
    )
    loss = [accuracy_of(one.subject, child.task) for one in (parent, child)]
    assert loss[1] > loss[0]


def accuracy_of(subject, task) -> float:
    return float(held_out_accuracy(subject.stacked, subject.config, [task], [0]))


def test_pruning_removes_half_of_the_heads_and_those_that_cost_least():
    made = make_trained(spec(family="brackets", n_subjects=1, n_pruned=1)).accepted
    parent, child = made
    removed = child.subject.weights["blocks.0.attn.W_O"].abs().sum((1, 2)) == 0
    assert removed.sum() == 2
    kept = {k: v for k, v in child.subject.weights.items() if ".attn." not in k}
    for key, value in kept.items():
        assert torch.equal(value, parent.subject.weights[key])
    for key in ("W_Q", "W_K", "W_V", "W_O"):
        name = f"blocks.0.attn.{key}"
        assert torch.equal(child.subject.weights[name][~removed], parent.subject.weights[name][~removed])
    weights = {key: value.clone() for key, value in parent.subject.weights.items()}
    # What the removed heads write on average stays, so that the logits hardly move on average.
    tokens = parent.task.prompts(generator(5), 200).clean
    site = "blocks.0.hook_attn_out"
    before, after = (one.subject.run(tokens, taps=[site]).taps[site][0] for one in (parent, child))
    own = before.mean((0, 1)).norm()
    assert (before.mean((0, 1)) - after.mean((0, 1))).norm() < 0.1 * max(own, before.std())
    weights["blocks.0.attn.W_O"][~removed] = 0
    other = accuracy_of(replace(parent.subject, weights=weights), parent.task)
    assert accuracy_of(child.subject, parent.task) >= other


def test_a_copy_that_lost_its_task_is_rejected_with_the_reason(monkeypatch):
    one = spec(family="brackets", n_subjects=1, n_pruned=1)

    def mute(parent):
        return {key: torch.zeros_like(value) for key, value in parent.subject.weights.items()}

    monkeypatch.setattr("data_gen.trained.without_least", mute)
    monkeypatch.setattr(type(make_task("brackets", "base", 0)), "threshold", 0.01)
    made = make_trained(one)
    assert len(made.accepted) == 1
    assert list(made.rejected) == ["brackets-base-s-r-0000-pruned"]
    assert "on fresh prompts is below" in made.rejected["brackets-base-s-r-0000-pruned"]


def test_relatives_are_harvested_like_any_subject():
    one = spec(family="facts", n_subjects=1, checkpoints=(0.5,), n_finetuned=1, n_pruned=1)
    triples = harvest_all(one, make_trained(one).accepted, HARVEST, 0)
    assert [t.info.relation for t in triples] == ["none", "checkpoint", "finetuned", "pruned"]
    assert len({t.info.lineage for t in triples}) == 1
    assert len({t.info.id for t in triples}) == 4
    assert triples[3].circuit.member.shape == triples[0].circuit.member.shape


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"checkpoints": (1.0,)}, r"checkpoints: expected shares between 0 and 1, got \[1.0\]"),
        ({"n_pruned": 3}, "expected at most 2 copies, one a subject, got 3"),
        ({"origin": "siit", "n_pruned": 1}, "origin: expected 'trained' for subjects with checkpoints"),
    ],
)
def test_relatives_that_cannot_be_are_answered_in_one_line(cell, message):
    with pytest.raises(InputError, match=message):
        spec(family="facts", n_subjects=2, **cell)
