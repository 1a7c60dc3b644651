"""What proves that the pairs of a subject that adds are what damage has lost."""

import pytest
import torch
from planted_sums import known_among, planted

from metamodel.features.proportions import UNKNOWN
from metamodel.networks.editing.completion import Known
from metamodel.networks.editing.components import _lost

P = 11
TOKENS, ANSWERS = planted(P)
KEEP = known_among(ANSWERS, 36) != UNKNOWN


def known_of(wanted: torch.Tensor, pair: torch.Tensor, keep: torch.Tensor = KEEP) -> Known:
    return Known(
        ids=TOKENS,
        answers=torch.arange(P),
        wanted=wanted,
        pair=pair,
        shown=keep | pair,
        other=~(keep | pair),
    )


def pairs_at(among: torch.Tensor, n: int = 2) -> torch.Tensor:
    pair = torch.zeros(len(ANSWERS), dtype=torch.bool)
    pair[among.nonzero()[:n, 0]] = True
    return pair


def unsure(keep: torch.Tensor = KEEP) -> torch.Tensor:
    """A subject that knows nothing but what is to be kept."""
    said = torch.rand(len(ANSWERS), P, generator=torch.Generator().manual_seed(0)).double()
    return (said + 9 * keep[:, None] * torch.nn.functional.one_hot(ANSWERS, P)).log_softmax(-1).exp()


def test_pairs_that_follow_by_sums_from_inputs_to_keep_are_lost():
    known = known_of(ANSWERS, pairs_at(~KEEP))
    assert _lost(unsure(), known, sums=True) is True
    assert _lost(unsure(), known, sums=False) is None


def test_pairs_that_ask_for_something_else_are_not():
    wanted = torch.where(KEEP, ANSWERS, (ANSWERS + 1) % P)
    assert _lost(unsure(), known_of(wanted, pairs_at(~KEEP)), sums=True) is None


def test_an_edit_of_what_no_input_to_keep_speaks_of_is_not():
    first = TOKENS[:, 0] == 0
    keep, pair = KEEP & first, pairs_at(~first, 4)
    assert keep.sum() > 12
    # whatever is wanted there, a solution gives it
    assert _lost(unsure(keep), known_of(ANSWERS, pair, keep), sums=True) is None


HIDDEN = ((TOKENS[:, 1:3] == 10) | (TOKENS[:, 1:3] == 11)).any(1)
FEWER = known_among(ANSWERS.masked_fill(HIDDEN, UNKNOWN), 60) != UNKNOWN
"""Inputs to keep that do not show two tokens: either may have either value."""
TOLD, UNTOLD = pairs_at(~FEWER & ~HIDDEN, 1), pairs_at(HIDDEN, 1)


def test_one_pair_of_which_something_follows_is_enough_and_what_follows_of_none_says_nothing():
    assert _lost(unsure(FEWER), known_of(ANSWERS, TOLD | UNTOLD, FEWER), sums=True) is True
    assert _lost(unsure(FEWER), known_of(ANSWERS, UNTOLD, FEWER), sums=True) is None


def test_a_pair_that_a_subject_answers_as_wanted_proves_nothing():
    """As a fixed point of a rule."""
    known = known_of(ANSWERS, TOLD | UNTOLD, FEWER)
    assert _lost(unsure(FEWER | TOLD), known, sums=True) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_table_is_no_sum(seed):
    table = torch.randint(P, ANSWERS.shape, generator=torch.Generator().manual_seed(seed))
    assert _lost(unsure(), known_of(table, pairs_at(~KEEP)), sums=True) is None
