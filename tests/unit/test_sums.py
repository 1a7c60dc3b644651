"""Sums modulo a prime, planted, and what is no sum."""

import itertools

import pytest
import torch
from planted_sums import COEFFICIENTS, inputs_of, known_among, planted

from metamodel.features.proportions import UNKNOWN
from metamodel.features.sums import Sums, reduced, sums


@pytest.mark.parametrize("p", [5, 7, 11, 13])
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_the_whole_table_follows_from_a_part_of_it(p, name):
    tokens, answers = planted(p, COEFFICIENTS[name])
    said = known_among(answers, 3 * p + 6)
    found = sums(tokens, said, p)
    assert found is not None
    told = found.follows != UNKNOWN
    assert not (told & (said != UNKNOWN)).any()
    assert told[said == UNKNOWN].double().mean() > 0.7
    assert torch.equal(found.follows[told], answers[told])


def test_it_hangs_neither_on_the_order_of_examples_nor_on_numbers_of_answers_tokens_and_places():
    p = 11
    tokens, answers = planted(p)
    said = known_among(answers, 36)
    generator = torch.Generator().manual_seed(2)
    order, name, number = (torch.randperm(n, generator=generator) for n in (len(tokens), p, 30))
    renamed = number[tokens][:, [2, 3, 0, 1]]
    says = torch.where(torch.rand(len(answers), generator=generator) < 0.5, answers, 0)
    found = sums(tokens, said, p)
    other = sums(renamed[order], torch.where(said == UNKNOWN, UNKNOWN, name[said])[order], p)
    assert found is not None
    assert other is not None
    for here, there in (
        (found.follows, other.follows),
        (found.settled(says), other.settled(name[says][order])),
    ):
        told = here != UNKNOWN
        assert told.any()
        assert torch.equal(there != UNKNOWN, told[order])
        assert torch.equal(there[told[order]], name[here][order][told[order]])


def test_one_wrong_answer_and_nothing_solves_the_equations():
    tokens, answers = planted(11)
    said = known_among(answers, 40)
    at = int((said != UNKNOWN).nonzero()[0])
    said[at] = (said[at] + 1) % 11
    assert sums(tokens, said, 11) is None


def test_an_input_with_two_answers_is_no_sum_in_whatever_order():
    tokens, answers = planted(11)
    said = known_among(answers, 40)
    at = int((said != UNKNOWN).nonzero()[0])
    twice = torch.cat([tokens, tokens[at : at + 1]])
    for first in (0, 1):
        both = torch.cat([said, (said[at : at + 1] + 1 - first) % 11])
        both[at] = (said[at] + first) % 11
        assert sums(twice, both, 11) is None
    assert sums(twice, torch.cat([said, said[at : at + 1]]), 11) is not None


def test_too_few_answers_tell_nothing():
    tokens, answers = planted(11)
    for n in (0, 1, 8):
        assert sums(tokens, known_among(answers, n), 11) is None


def test_what_is_no_sum_is_never_taken_for_one():
    generator = torch.Generator().manual_seed(0)
    for p, trial in itertools.product((5, 7, 11), range(8)):
        tokens = inputs_of(p)
        lines = torch.stack([torch.randperm(p, generator=generator) for _ in range(2 * p)]).flatten()
        for answers in (torch.randint(p, (len(tokens),), generator=generator), lines):
            found = sums(tokens, known_among(answers, 4 * p, seed=trial), p)
            assert found is None or (found.settled(answers) == UNKNOWN).all()


@pytest.mark.parametrize("p", [7, 11])
def test_what_is_shown_in_both_orders_is_no_more_evidence(p):
    """Of a table that is symmetric, but no sum."""
    tokens = inputs_of(p, 1)
    a, b = tokens[:, 1] - 10, tokens[:, 2] - 10
    for seed, answers in enumerate((torch.maximum(a, b), a * b % p)):
        for n in range(p, 3 * p):
            pairs = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))[:n]
            both = (a[:, None] == a[pairs]) & (b[:, None] == b[pairs])
            both |= (a[:, None] == b[pairs]) & (b[:, None] == a[pairs])
            found = sums(tokens, torch.where(both.any(1), answers, UNKNOWN), p)
            assert found is None or (found.follows == UNKNOWN).all()


@pytest.mark.parametrize("n_answers", [2, 3, 8, 9, 16])
def test_few_answers_and_those_modulo_no_prime_are_passed_over(n_answers):
    tokens, answers = planted(n_answers)
    assert sums(tokens, answers, n_answers) is None


def test_more_operators_than_can_be_tried_are_passed_over():
    tokens, answers = planted(11, ((1, 1), (1, 2), (2, 1)))
    assert sums(tokens, answers, 11) is None


def solved_without(
    n_hidden: int, n_known: int = 120
) -> tuple[Sums, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Modulo 11, where nothing is known of some tokens; what is known, the truth, and inputs with these."""
    tokens, answers = planted(11)
    hidden = ((tokens[:, 1:3] >= 10) & (tokens[:, 1:3] < 10 + n_hidden)).any(1)
    said = known_among(answers, n_known).masked_fill(hidden, UNKNOWN)
    found = sums(tokens, said, 11)
    assert found is not None
    return found, said, answers, hidden


def test_the_last_token_has_the_last_value():
    found, _, answers, hidden = solved_without(1, 100)
    assert torch.equal(found.follows[hidden], answers[hidden])


def test_tokens_that_nothing_shows_are_settled_by_what_a_subject_says_where_it_is_right_often_enough():
    p = 11
    found, said, answers, hidden = solved_without(3)
    assert (found.follows[hidden] == UNKNOWN).any()
    generator = torch.Generator().manual_seed(4)
    for right, settled in ((0.6, True), (0.0, False)):
        wrong = (answers + torch.randint(1, p, answers.shape, generator=generator)) % p
        correct = (torch.rand(len(answers), generator=generator) < right) | (said != UNKNOWN)
        then = found.settled(torch.where(correct, answers, wrong))
        told = then != UNKNOWN
        assert bool(told[said == UNKNOWN].all()) is settled
        assert torch.equal(then[told], answers[told])


def test_a_subject_that_says_one_thing_wherever_it_does_not_know_settles_nothing():
    """As if tokens that nothing shows had one value."""
    found, _, answers, hidden = solved_without(5)
    for constant in range(11):
        then = found.settled(torch.where(hidden, constant, answers))
        told = then != UNKNOWN
        assert torch.equal(then[told], answers[told])


def test_where_chance_could_solve_the_equations_what_a_subject_says_must_bear_the_solution_out():
    p = 13
    tokens, answers = planted(p, COEFFICIENTS["add, subtract"])
    found = (sums(tokens, known_among(answers, n), p) for n in range(34, 26, -1))
    unsure = [one for one in found if one is not None and (one.follows == UNKNOWN).all()]
    assert unsure
    wrong = torch.rand(len(answers), generator=torch.Generator().manual_seed(5)) < 0.4
    for one in unsure:
        then = one.settled(torch.where(wrong, (answers + 1) % p, answers))
        told = then != UNKNOWN
        assert told.double().mean() > 0.9
        assert torch.equal(then[told], answers[told])
        assert (one.settled((answers + 1) % p) == UNKNOWN).all()


def test_one_answer_more_rules_chance_out():
    tokens, answers = planted(13, COEFFICIENTS["add, subtract"])
    for n, told in ((32, False), (33, True)):
        found = sums(tokens, known_among(answers, n), 13)
        assert found is not None
        assert len(found.spaces) == 1
        assert bool((found.follows != UNKNOWN).any()) is told


def test_of_many_solutions_one_agrees_with_anything():
    p = 11
    tokens, answers = planted(p, COEFFICIENTS["add, subtract"])
    said = known_among(answers, 17, seed=3)
    found = sums(tokens, said, p)
    assert found is not None
    for seed in range(15):
        chance = torch.randint(p, answers.shape, generator=torch.Generator().manual_seed(seed))
        # what is known is right anyway
        assert (found.settled(torch.where(said == UNKNOWN, chance, answers)) == UNKNOWN).all()


def test_two_answers_that_would_be_the_same_sum_are_no_solution():
    p = 11
    tokens, answers = planted(p)
    said = known_among(answers.masked_fill(answers == 1, UNKNOWN), 70)
    twice = (said == 0).nonzero()[:, 0]
    said[twice[: len(twice) // 2]] = 1
    found = sums(tokens, said, p)
    assert found is not None
    assert (found.settled(answers) == UNKNOWN).all()


def test_what_a_subject_says_settles_only_what_it_tells_apart():
    found, _, answers, hidden = solved_without(3)
    then = found.settled(torch.where(hidden, (answers + 1) % 11, answers))
    assert torch.equal(then == UNKNOWN, found.follows == UNKNOWN)
    assert (then[hidden] == UNKNOWN).any()


@pytest.mark.parametrize("p", [3, 5])
def test_reduced_systems_have_the_rank_that_counting_solutions_says(p):
    generator = torch.Generator().manual_seed(p)
    rows = torch.randint(p, (6, 3, 4), generator=generator)
    rows[3:, 2] = (rows[3:, 0] + 2 * rows[3:, 1]) % p
    solved, ranks, pivots = reduced(rows, p)
    every = torch.cartesian_prod(*[torch.arange(p)] * 4)
    for one, form, rank, pivot in zip(rows, solved, ranks.tolist(), pivots, strict=True):
        zero = (every @ one.T % p == 0).all(1)
        assert int(zero.sum()) == p ** (4 - rank)
        # the same solutions, one pivot each
        assert torch.equal((every @ form.T % p == 0).all(1), zero)
        assert int(pivot.sum()) == rank
        assert torch.equal(form[:rank][:, pivot], torch.eye(rank, dtype=torch.long))
        assert (form[rank:] == 0).all()
