"""Families given by a rule: each against a naive one in plain Python, and the promises of `RuleTask`."""

import inspect
from collections import Counter
from pathlib import Path

import pytest
import torch

from data_gen.tasks import FAMILIES, make_task, ordinal
from data_gen.tasks.base import BOS, FIRST_SYMBOL, PAD, QUERY, SEP, UNSUPERVISED
from data_gen.tasks.docstring import N_ARGUMENTS
from data_gen.tasks.rule import RuleTask
from metamodel.config import InputError

RULES = {name: kind for name, kind in FAMILIES.items() if issubclass(kind, RuleTask)}
INSTANCES = [(family, variant) for family, kind in RULES.items() for variant in kind.variants]
MOST_LINES = 80
ROOT = Path(__file__).parents[2]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ngram(task, words):
    n = task.table.shape[2]
    context, *symbols = (word - FIRST_SYMBOL for word in words)
    if not symbols:
        return None
    before = symbols[-2] if len(symbols) > 1 else n
    return FIRST_SYMBOL + int(task.table[context - n, before, symbols[-1]])


def copying(task, words):
    if SEP not in words:
        return None
    end = words.index(SEP)
    listed = [word for word in words[:end] if word != PAD]
    if task.backwards:
        listed.reverse()
    n_put_out = len(words) - end - 1
    return listed[n_put_out] if n_put_out < len(listed) else None


def selecting(task, words):
    since = words[len(words) - words[::-1].index(SEP) :] if SEP in words else words
    letters = [word for word in since if word < FIRST_SYMBOL + 16]
    if not letters:
        return None
    if task.which != "most_frequent":
        return letters[0 if task.which == "first" else -1]
    ranked = Counter(letters).most_common()
    return None if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def histogram(task, words):
    return FIRST_SYMBOL + task.n_symbols + min(words.count(words[-1]), task.cap) - 1


def ordinal_next(task, words):
    items = [(i, number) for i, size in enumerate(ordinal.LISTS) for number in range(size)]
    (which, number), step = items[words[-1] - FIRST_SYMBOL], task.steps[0]
    size = ordinal.LISTS[which]
    if len(words) > 1:
        other, before = items[words[-2] - FIRST_SYMBOL]
        for one in task.steps:
            if other == which and (before + one) % size == number:
                step = one
    return FIRST_SYMBOL + items.index((which, (number + step) % size))


def agreement(task, words):
    n = len(task.classes)
    if words[-1] < FIRST_SYMBOL + n:
        return None
    nouns = [
        word
        for i, word in enumerate(words)
        if FIRST_SYMBOL <= word < FIRST_SYMBOL + n and (i == 0 or words[i - 1] != SEP)
    ]
    return FIRST_SYMBOL + n + 4 + task.classes[nouns[-1] - FIRST_SYMBOL]


def movers(task, words):
    for question, step in ((QUERY, -1), (SEP, 1)):
        if question in words:
            return None if words[-1] == question else words[words.index(words[-1]) + step]
    kinds = ["anvf"[(word - FIRST_SYMBOL) // 14] for word in words]
    return words[-2] if kinds[-2:] in (["a", "n"], ["n", "v"]) else None


def recall(task, words):
    if len(words) % 2:
        return None
    known = {}
    for first, second in zip(words[:-2:2], words[1:-2:2], strict=True):
        if first != QUERY:
            known[first] = second
    return known.get(words[-1]) if words[-2] == QUERY else words[-2]


def dyck(task, words):
    stack = []
    for word in words:
        kind = word - FIRST_SYMBOL
        if kind < task.kinds:
            stack.append(word + task.kinds)
        elif not stack or stack.pop() != word:
            return None
    return stack[-1] if stack else None


def shortest(task, words):
    if SEP not in words:
        return None
    end = words.index(SEP)
    first, second = [word for word in words[:end] if word != PAD], words[end + 1 :]
    if not second or len(first) == len(second):
        return None
    by_length = sorted((first, second), key=len)
    return by_length[1 if task.longest else 0][0]


def docstring(task, words):
    if words[-1] != SEP:
        return None
    defined = [word for word in words[: words.index(SEP)] if word < FIRST_SYMBOL + N_ARGUMENTS]
    return defined[words.count(SEP) - 1]


NAIVE = {
    "ngram": ngram,
    "copying": copying,
    "selecting": selecting,
    "histogram": histogram,
    "ordinal": ordinal_next,
    "agreement": agreement,
    "movers": movers,
    "recall": recall,
    "dyck": dyck,
    "shortest": shortest,
    "docstring": docstring,
}
"""What must follow the words behind the header, or None."""


def naive_answer(task, prompt: list[int], position: int) -> int:
    answer = NAIVE[task.family](task, prompt[2 : position + 1])
    return UNSUPERVISED if answer is None else answer


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_targets_and_answers_follow_the_rule_wherever_it_says_something(family, variant):
    task = make_task(family, variant, seed=3)
    batch = task.sample(seeded(), 25)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert targets[:2] == [UNSUPERVISED, UNSUPERVISED]
        assert targets[2:] == [naive_answer(task, tokens, place) for place in range(2, task.n_pos)]
    prompts = task.prompts(seeded(1), 40)
    for tokens, answers in ((prompts.clean, prompts.answer), (prompts.corrupt, prompts.corrupt_answer)):
        for row, place, answer in zip(
            tokens.tolist(), prompts.position.tolist(), answers.tolist(), strict=True
        ):
            assert answer == naive_answer(task, row, place)


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_no_target_depends_on_what_follows_it(family, variant):
    task = make_task(family, variant, seed=3)
    one, other = task.sample(seeded(), 60).tokens, task.sample(seeded(1), 60).tokens
    targets = task.targets(one)
    for cut in range(3, task.n_pos, 3):
        mixed = torch.cat([one[:, :cut], other[:, cut:]], dim=1)
        assert torch.equal(task.targets(mixed)[:, :cut], targets[:, :cut])
    assert not torch.equal(task.targets(torch.cat([one[:, :3], other[:, 3:]], dim=1)), targets)


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_every_corruption_changes_the_answer_by_a_change_before_it(family, variant):
    task = make_task(family, variant, seed=3)
    changed = {}
    for name in task.corruptions:
        prompts = task.prompts_of(name, seeded(1), 60)
        differs = prompts.clean != prompts.corrupt
        place = torch.arange(task.n_pos)
        assert differs.any(1).all()
        assert not (differs & ((place > prompts.position[:, None]) | (place < 2))).any()
        assert (prompts.answer != prompts.corrupt_answer).all()
        assert (prompts.corrupt_answer != UNSUPERVISED).all()
        changed[name] = differs.long().sum(0).tolist(), differs.sum(1).tolist()
    assert len(set(map(str, changed.values()))) == len(changed), "two corruptions change the same"


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_outputs_before_the_answer_stay_right_in_corrupt_prompts(family, variant):
    task = make_task(family, variant, seed=3)
    prompts = task.prompts(seeded(1), 80)
    before = torch.arange(task.n_pos - 1) < prompts.position[:, None]
    targets = task.targets(prompts.clean)[:, :-1]
    right = (targets == prompts.clean[:, 1:]) & before
    still = task.targets(prompts.corrupt)[:, :-1] == prompts.corrupt[:, 1:]
    if task.causal_only:
        assert right.any()
        assert still[right].all()
    else:
        # No prompt tells more than chance: a symbol may happen to be the answer.
        asked = (targets != UNSUPERVISED) & before
        assert right.sum() < 0.5 * asked.sum()


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_every_slice_has_its_share_of_the_prompts(family, variant):
    task = make_task(family, variant, seed=3)
    prompts = task.prompts(seeded(1), 240)
    counts = torch.bincount(prompts.slice, minlength=len(prompts.slice_names))
    assert prompts.slice_names == tuple(task.battery)
    assert (counts > 0.25 * 240 / len(counts)).all(), dict(
        zip(prompts.slice_names, counts.tolist(), strict=True)
    )


@pytest.mark.parametrize(("family", "variant"), INSTANCES)
def test_prompts_ask_often_fit_the_context_and_keep_the_marker_to_themselves(family, variant):
    task = make_task(family, variant, seed=3)
    batch = task.sample(seeded(), 200)
    assert task.n_pos <= 16
    assert (batch.tokens[:, 2:] != task.marker).all()
    assert (batch.tokens[:, 2:] != BOS).all()
    assert (batch.targets != UNSUPERVISED).sum(1).float().mean() > 2


@pytest.mark.parametrize(("family", "variant"), [i for i in INSTANCES if i[0] not in ("ngram", "histogram")])
def test_the_best_position_for_each_question_seldom_holds_the_answer(family, variant):
    batch = make_task(family, variant, seed=3).sample(seeded(), 500)
    asked, held = batch.targets != UNSUPERVISED, 0
    for place in asked.any(0).nonzero()[:, 0].tolist():
        rows = asked[:, place]
        held += (batch.tokens[rows, : place + 1] == batch.targets[rows, place, None]).sum(0).amax().item()
    assert held < 0.8 * asked.sum()


@pytest.mark.parametrize("family", RULES)
def test_prompts_mix_all_corruptions(family, monkeypatch):
    task, corrupt, used = make_task(family, "base", seed=3), RULES[family].corrupt, []

    def watched(self, name, generator, tokens, position):
        used.append(name)
        return corrupt(self, name, generator, tokens, position)

    monkeypatch.setattr(RULES[family], "corrupt", watched)
    assert len(task.prompts(seeded(), 120)) == 120
    assert set(used) == set(task.corruptions)


def test_an_unknown_corruption_is_answered_with_the_nearest_name():
    with pytest.raises(InputError, match=r"task\.recall\.corruption: expected one of value, key, got 'vale'"):
        make_task("recall", "base", 0).prompts_of("vale", seeded(), 3)


def test_a_corruption_that_never_changes_the_answer_is_refused(monkeypatch):
    monkeypatch.setattr(RULES["recall"], "corrupt", lambda self, name, generator, tokens, position: tokens)
    with pytest.raises(
        InputError, match=r"task\.recall\.corrupt\('key'\): expected 3 pairs .* got 0 in 50 draws"
    ):
        make_task("recall", "base", 0).prompts_of("key", seeded(), 3)


@pytest.mark.parametrize("family", RULES)
def test_a_family_is_one_short_file_and_documented(family):
    file = Path(inspect.getfile(RULES[family]))
    assert file.stem == family
    assert len(file.read_text().splitlines()) < MOST_LINES
    row = next(
        line for line in (ROOT / "docs/tasks.md").read_text().splitlines() if f"| `{family}` |" in line
    )
    for word in (*RULES[family].variants, *(a.name for a in RULES[family].algorithms)):
        assert word in row


def test_dyck_words_are_balanced_in_every_kind_and_reach_their_depth():
    task = make_task("dyck", "deep", seed=0)
    for prompt in task.sample(seeded(), 100).tokens.tolist():
        stack = []
        for word in prompt[2:]:
            if word < FIRST_SYMBOL + task.kinds:
                stack.append(word)
            else:
                assert stack.pop() + task.kinds == word
            assert len(stack) <= task.deepest


def test_agreement_classes_are_even_and_private():
    one, other = (make_task("agreement", "base", seed=seed) for seed in (1, 2))
    assert set(Counter(one.classes).values()) == {4}
    assert one.classes != other.classes
