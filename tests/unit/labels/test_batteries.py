"""Batteries repeat as they say, entries are those counted by hand, and the registry is complete."""

from collections.abc import Callable

import torch

from data_gen.labels.batteries import Batteries
from data_gen.labels.entries import answer_entries, attention_entries, offset_entries
from data_gen.labels.registry import LABELS


def test_every_entry_of_the_registry_is_complete():
    names = [label.name for label in LABELS]
    assert len(set(names)) == len(names) == 21
    for label in LABELS:
        assert label.statistics
        assert label.twin
        assert label.description.endswith(".")
        assert 0 < label.effect_size < 1
    determined = [label.name for label in LABELS if label.determined_by]
    assert determined == ["copying", "q_composition", "k_composition", "v_composition", "token_lookup"]


def test_entries_are_those_counted_by_hand():
    tokens = torch.tensor([[0, 5, 6, 5, 6]])
    causal = attention_entries("duplicate_token", tokens, "causal")[0].nonzero().tolist()
    assert causal == [[3, 1], [4, 2]]
    both = attention_entries("duplicate_token", tokens, "bidirectional")[0].nonzero().tolist()
    assert both == [[1, 3], [2, 4], [3, 1], [4, 2]]
    assert attention_entries("induction", tokens, "causal")[0].nonzero().tolist() == [[3, 2], [4, 3]]
    assert offset_entries(tokens, 2, "causal")[0].nonzero().tolist() == [[3, 1], [4, 2]]
    assert attention_entries("first_token_sink", tokens, "causal")[0].sum() == 4
    answers = answer_entries(tokens, torch.tensor([3]), torch.tensor([6]))
    assert answers[0].nonzero().tolist() == [[3, 2]]


def test_repeated_prompts_repeat_with_several_periods_and_starts(battery: Callable[..., Batteries]):
    tests = battery(64)
    assert tests.repeated is not None
    assert all(len(set(row)) == len(row) for row in tests.random.tolist())
    periods, starts = set(), set()
    for row in tests.repeated[:, 1:].tolist():
        start = next(i for i in range(len(row)) if row[i] in row[i + 1 :])
        periods.add(row.index(row[start], start + 1) - start if row[start] in row[start + 1 :] else 0)
        starts.add(start)
    assert periods == {3, 4, 5, 6}
    assert len(starts) > 3
