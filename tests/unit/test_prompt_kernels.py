"""Bags of tokens, and tokens that a subject does not tell apart, against planted truth."""

import torch

from metamodel.features.prompt_kernels import LEAST_CONTEXTS, bag_kernels, merged, token_ids

WORDS, ROWS, COLUMNS = (1, 2), range(3, 7), range(7, 11)


def grid(n_rows: int = 4) -> torch.Tensor:
    """Every word, row and column; behind the second word rows and columns change places."""
    rows = []
    for row in list(ROWS)[:n_rows]:
        for column in COLUMNS:
            rows += [[WORDS[0], row, column], [WORDS[1], column, row]]
    return torch.tensor(rows)[None]


def ids_of(tokens: torch.Tensor) -> torch.Tensor:
    return token_ids(tokens, torch.full(tokens.shape[:2], tokens.shape[2] - 1))


def answered(tokens: torch.Tensor, *, words_matter: bool) -> torch.Tensor:
    """A private answer of each row and column."""
    low, high = tokens.sort(-1).values[..., -2:].unbind(-1)
    return (5 * low + 3 * high + words_matter * tokens[..., 0]) % 17


def classes(ids: torch.Tensor, found: torch.Tensor) -> set[frozenset[int]]:
    """Ids that became one."""
    pairs = set(zip(found.flatten().tolist(), ids.flatten().tolist(), strict=True))
    return {frozenset(i for first, i in pairs if first == one) for one, _ in pairs}


def test_words_that_change_no_answer_are_taken_for_one_and_nothing_else_is():
    tokens = grid()
    ids = ids_of(tokens)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    same = classes(ids, merged(ids, answered(tokens, words_matter=False), mask))
    assert {len(one) for one in same} == {1, 2}
    assert frozenset(ids[0, :2, 0].tolist()) in same
    other = classes(ids, merged(ids, answered(tokens, words_matter=True), mask))
    assert {len(one) for one in other} == {1}


def test_few_contexts_prove_nothing_and_padding_counts_for_none():
    few = grid(1)
    assert len(few[0]) // 2 < LEAST_CONTEXTS
    ids = ids_of(few)
    mask = torch.ones(few.shape[:2], dtype=torch.bool)
    assert torch.equal(merged(ids, answered(few, words_matter=False), mask), ids)
    whole = grid()
    shown = torch.zeros(whole.shape[:2], dtype=torch.bool)
    shown[:, : len(few[0])] = True
    ids = ids_of(whole)
    assert torch.equal(merged(ids, answered(whole, words_matter=False), shown), ids)


def test_the_same_fact_in_other_words_is_the_same_bag_once_words_are_one():
    tokens = grid()
    ids, mask = ids_of(tokens), torch.ones(tokens.shape[:2], dtype=torch.bool)
    one = merged(ids, answered(tokens, words_matter=False), mask)
    n = len(tokens[0])
    as_they_are, as_told = (bag_kernels(x, n, mask, mask, torch.float64)[0, 0] for x in (ids, one))
    assert as_told[0, 1] == 1
    assert (as_told[0, 2:] < 1).all()
    assert as_they_are[0, 1] < 1
    assert as_they_are[0, 1] == as_they_are[0, 2]  # another column in the same words looks no less alike
