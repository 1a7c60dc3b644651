"""Every task family keeps the promises of `Task`, whoever wrote it."""

import pytest
import torch

from data_gen.tasks import FAMILIES, make_task
from data_gen.tasks.base import BOS, D_VOCAB, UNSUPERVISED
from metamodel.config import InputError

INSTANCES = [(family, variant) for family, kind in FAMILIES.items() for variant in kind.variants]
PRIVATE = {"facts", "ioi", "ngram", "agreement"}
"""Families whose subjects have a truth of their own: tables, or what is a name or of a class."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_markers_of_families_differ():
    markers = [kind.marker for kind in FAMILIES.values()]
    assert len(set(markers)) == len(markers)


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_batches_have_one_length_known_tokens_and_supervised_positions(family, variant):
    task = make_task(family, variant, seed=1)
    batch = task.sample(seeded(), 300)
    assert batch.tokens.shape == batch.targets.shape == (300, task.n_pos)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert (batch.tokens >= 0).all()
    assert (batch.tokens < D_VOCAB).all()
    assert (batch.tokens[:, 0] == BOS).all()
    assert (batch.tokens[:, 1] == task.marker).all()
    asked = batch.targets != UNSUPERVISED
    assert asked.any(1).all()
    assert (batch.targets[asked] >= 0).all()
    assert (batch.targets[asked] < D_VOCAB).all()


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_answer_agrees_with_every_target(family, variant):
    task = make_task(family, variant, seed=1)
    batch = task.sample(seeded(), 300)
    for place in range(task.n_pos):
        asked = batch.targets[:, place] != UNSUPERVISED
        if asked.any():
            tokens = batch.tokens[asked]
            found = task.answer(tokens, torch.full((len(tokens),), place))
            assert torch.equal(found, batch.targets[asked, place])


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_clean_and_corrupt_share_positions_and_differ_in_their_right_answer(family, variant):
    task = make_task(family, variant, seed=1)
    prompts = task.prompts(seeded(), 300)
    assert prompts.clean.shape == prompts.corrupt.shape == (300, task.n_pos)
    assert torch.equal(task.answer(prompts.clean, prompts.position), prompts.answer)
    assert torch.equal(task.answer(prompts.corrupt, prompts.position), prompts.corrupt_answer)
    assert (prompts.answer != prompts.corrupt_answer).all()
    assert set(prompts.slice.tolist()) <= set(range(len(prompts.slice_names)))
    assert (prompts.corrupt[:, :2] == prompts.clean[:, :2]).all()


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_the_same_seed_draws_the_same_prompts_and_another_seed_others(family, variant):
    task = make_task(family, variant, seed=1)
    assert torch.equal(task.sample(seeded(), 50).tokens, task.sample(seeded(), 50).tokens)
    assert not torch.equal(task.sample(seeded(), 50).tokens, task.sample(seeded(9), 50).tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_of_a_subject_changes_its_private_truth_and_nothing_else(family):
    one, same, other = (make_task(family, "base", seed) for seed in (1, 1, 2))
    first, again, second = (task.sample(seeded(), 50) for task in (one, same, other))
    assert torch.equal(first.targets, again.targets)
    private = not (torch.equal(first.targets, second.targets) and torch.equal(first.tokens, second.tokens))
    assert private == (family in PRIVATE)


@pytest.mark.parametrize("variant", FAMILIES["repeated"].variants)
def test_no_two_fixed_distances_find_the_repetition(variant):
    batch = make_task("repeated", variant, seed=0).sample(seeded(), 500)
    asked = batch.targets != UNSUPERVISED
    place = torch.arange(batch.tokens.shape[1])
    # Where the answer stood last time, as a distance from the position that asks.
    seen = (batch.tokens[:, None, :] == batch.targets[:, :, None]) & (place <= place[:, None])
    distance = place - torch.where(seen, place, -1).amax(-1)
    counts = torch.bincount(distance[asked])
    assert counts.topk(2).values.sum() < 0.75 * counts.sum()


def test_indirect_objects_are_as_often_the_first_name_as_the_second():
    prompts = make_task("ioi", "base", seed=0).prompts(seeded(), 2000)
    second_is_repeated = prompts.slice % 2
    assert 0.4 < second_is_repeated.float().mean() < 0.6
    assert len(set(prompts.slice.tolist())) == len(prompts.slice_names)


def test_an_unknown_family_or_variant_is_answered_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"task\.family: expected one of \[.*\], got 'repeted'.*'repeated'\?"
    ):
        make_task("repeted", "base", 0)
    with pytest.raises(InputError, match=r"task\.repeated\.variant: expected .* got 'lnog'.*'long'\?"):
        make_task("repeated", "lnog", 0)
