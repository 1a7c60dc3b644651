"""Facts, modular addition, brackets and sorting: each rule against a naive one, and what each must offer."""

from collections import Counter

import pytest
import torch

from data_gen.tasks import brackets, facts, make_task, modular, sorting
from data_gen.tasks.base import QUERY, SEP, UNSUPERVISED

INSTANCES = [
    (family, variant)
    for family, variants in (
        ("facts", facts.VARIANTS),
        ("modular", modular.VARIANTS),
        ("brackets", brackets.VARIANTS),
        ("sorting", sorting.VARIANTS),
    )
    for variant in variants
]


def naive_answer(task, prompt: list[int], position: int) -> int:
    """The answer by plain Python, from the description of the family."""
    p, first = task.parameters, task.parameters.first_symbol
    match task.family:
        case "facts":
            words = prompt[position - 3 : position]
            (key,) = [w - first for w in words if first <= w < first + p.n_keys]
            (relation,) = [w - first - p.n_keys for w in words if w >= first + p.n_keys]
            value = task.table[relation][key]
            return first + (task.table[relation][value] if facts.TWICE in words else value)
        case "modular":
            operator, a, b = prompt[position - 2 : position + 1]
            return (
                first
                + ((a - first) + {modular.PLUS: 1, modular.MINUS: -1}[operator] * (b - first)) % p.modulus
            )
        case "sorting":
            values = sorted(prompt[2 : 2 + p.length], reverse=p.descending)
            return values[position - prompt.index(SEP)]
    depth, broken, answer = Counter(), False, -1
    for token in prompt[2 : position + 1]:
        if token == QUERY:
            balanced = not broken and not any(depth.values())
            return task.broken + (1 if balanced else 2)
        kind, closes = divmod(token - first, 2)
        depth[kind] += -1 if closes else 1
        broken = broken or depth[kind] < 0
        answer = task.broken if broken else task.first_depth + min(depth[kind], p.cap)
    return answer


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_supervised_targets_and_answers_follow_the_rule(family, variant):
    task = make_task(family, variant, seed=3)
    batch = task.sample(torch.Generator().manual_seed(0), 60)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        for position, target in enumerate(targets):
            if target != UNSUPERVISED:
                assert target == naive_answer(task, tokens, position)
    prompts = task.prompts(torch.Generator().manual_seed(1), 100)
    for tokens, answers in ((prompts.clean, prompts.answer), (prompts.corrupt, prompts.corrupt_answer)):
        for row, position, answer in zip(
            tokens.tolist(), prompts.position.tolist(), answers.tolist(), strict=True
        ):
            assert answer == naive_answer(task, row, position)


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_a_corrupt_prompt_differs_in_one_place_before_its_answer_and_in_its_answer(family, variant):
    task = make_task(family, variant, seed=3)
    prompts = task.prompts(torch.Generator().manual_seed(1), 300)
    seen = torch.arange(task.n_pos)[None] <= prompts.position[:, None]
    assert (((prompts.clean != prompts.corrupt) & seen).sum(1) == 1).all()
    assert (prompts.answer != prompts.corrupt_answer).all()


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_every_slice_has_prompts(family, variant):
    task = make_task(family, variant, seed=3)
    prompts = task.prompts(torch.Generator().manual_seed(1), 400)
    counts = torch.bincount(prompts.slice, minlength=len(prompts.slice_names))
    assert (counts >= 4).all(), dict(zip(prompts.slice_names, counts.tolist(), strict=True))


def test_subjects_have_facts_of_their_own_and_the_same_seed_the_same_facts():
    tables = [make_task("facts", "base", seed=seed).table for seed in (1, 1, 2)]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_a_fact_does_not_depend_on_the_other_questions_of_its_prompt():
    task = make_task("facts", "base", seed=1)
    tokens = task.sample(torch.Generator().manual_seed(0), 50).tokens
    mixed = torch.cat([tokens[:, :6], tokens.flip(0)[:, 6:]], dim=1)
    position = torch.full((50,), 5)
    assert torch.equal(task.answer(tokens, position), task.answer(mixed, position))
    values = torch.tensor(task.table) + task.parameters.first_symbol
    assert not torch.isin(tokens[:, 5], values).any(), "values are asked for, not told"


@pytest.mark.parametrize("variant", facts.VARIANTS)
def test_no_table_has_one_value_only_even_after_two_hops(variant):
    for seed in range(50):
        for row in make_task("facts", variant, seed=seed).table:
            assert len({row[value] for value in row}) > 1


def test_facts_are_asked_in_every_template_and_corrupted_by_key_and_by_relation():
    task = make_task("facts", "base", seed=1)
    prompts = task.prompts(torch.Generator().manual_seed(0), 400)
    first_relation = task.parameters.first_symbol + task.parameters.n_keys
    kinds = (prompts.clean[:, 2:5] >= first_relation).long() + 2 * (prompts.clean[:, 2:5] <= facts.TWICE)
    assert len(kinds.unique(dim=0)) == len(task.parameters.templates)
    changed = prompts.clean[prompts.clean != prompts.corrupt]
    share = (changed >= first_relation).float().mean()
    assert 0.15 < share < 0.35


@pytest.mark.parametrize("variant", modular.VARIANTS)
def test_training_covers_the_whole_domain_of_both_operators(variant):
    task = make_task("modular", variant, seed=0)
    batch = task.sample(torch.Generator().manual_seed(0), 2000)
    problems = batch.tokens[:, 2:].unflatten(1, (-1, 3)).flatten(0, 1)
    assert len(problems.unique(dim=0)) == 2 * task.parameters.modulus**2


@pytest.mark.parametrize("variant", brackets.VARIANTS)
def test_brackets_show_every_depth_and_balance_is_not_told_by_counts(variant):
    task = make_task("brackets", variant, seed=0)
    batch = task.sample(torch.Generator().manual_seed(0), 2000)
    classes = batch.targets[:, 2:].unique()
    assert len(classes) == task.parameters.cap + 4
    balanced = batch.targets[:, -1] == task.broken + 1
    assert 0.4 < balanced.float().mean() < 0.75
    closing = (batch.tokens[:, 2:-1] - task.parameters.first_symbol) % 2
    even = closing.sum(1) == task.parameters.length // 2
    assert (even & ~balanced).float().mean() > 0.13


def test_two_kinds_of_brackets_have_depths_of_their_own():
    task = make_task("brackets", "two_kinds", seed=0)
    first = task.parameters.first_symbol
    string = [first, first + 2, first + 1, first + 3] + [first, first + 1] * (
        (task.parameters.length - 4) // 2
    )
    tokens = torch.tensor([[0, task.marker, *string, QUERY]])
    depths = [task.answer(tokens, torch.tensor([2 + i])).item() - task.first_depth for i in range(4)]
    assert depths == [1, 1, 0, 0]
    assert task.answer(tokens, torch.tensor([task.n_pos - 1])).item() == task.broken + 1


def test_training_also_closes_a_kind_of_bracket_while_only_the_other_is_open():
    task = make_task("brackets", "two_kinds", seed=0)
    batch = task.sample(torch.Generator().manual_seed(0), 2000)
    first = task.parameters.first_symbol
    only_other = (batch.tokens[:, 2] == first) & (batch.tokens[:, 3] == first + 3)
    assert only_other.float().mean() > 0.01
    assert (batch.targets[only_other, 3] == task.broken).all()


def test_sorting_puts_repeated_values_out_as_often_as_they_stand_in_the_list():
    task = make_task("sorting", "repeats", seed=0)
    batch = task.sample(torch.Generator().manual_seed(0), 500)
    lists, outputs = batch.tokens[:, 2 : task.separator], batch.targets[:, task.separator :]
    again = (outputs[:, 1:] == outputs[:, :-1]).any(1)
    assert 0.3 < again.float().mean() < 1
    for values, output in zip(lists.tolist(), outputs.tolist(), strict=True):
        assert Counter(values) == Counter(output)
