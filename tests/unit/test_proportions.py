"""Proportions of planted behaviors, and the rules that follow from them."""

import itertools

import pytest
import torch

from metamodel.features.proportions import (
    LEAST_SHARE,
    LEAST_WITNESSES,
    UNKNOWN,
    _fourth,
    known_share,
    proportions,
)
from metamodel.networks.editing.closure import closure, extended, told

P = 7


def table(said, *, n_operators: int = 2, modulus: int = P):
    """Inputs (operator, a, b) and what is said of each."""
    inputs = torch.cartesian_prod(torch.arange(n_operators), torch.arange(modulus), torch.arange(modulus))
    tokens = torch.cat([torch.zeros(len(inputs), 1, dtype=torch.long), inputs + 10], dim=1)
    return tokens, said(*inputs.T) % modulus


def adding(modulus: int = P):
    return table(lambda o, a, b: a + (1 - 2 * o) * b, modulus=modulus)


def read(tokens, said, n_answers: int = P):
    everything, mask = torch.ones(1, len(said), dtype=torch.bool), torch.ones(1, n_answers, dtype=torch.bool)
    return proportions(tokens[None], everything, said[None], mask)


def of_addition(modulus: int = P):
    a, b, c = (torch.arange(modulus).view(shape) for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
    return (b - a + c) % modulus


def seen_of(pairs, n_answers: int = P):
    seen = torch.zeros(1, n_answers, n_answers)
    for old, new in pairs:
        seen[0, old, new] += 1
    return seen


def follows(fourth, pairs):
    n = len(fourth)
    return closure(fourth[None], seen_of(pairs, n), torch.ones(1, n, dtype=torch.bool))


def test_a_subject_that_adds_and_subtracts_has_every_proportion_and_expects_what_it_says():
    tokens, said = adding()
    found = read(tokens, said)
    assert torch.equal(found.fourth[0], of_addition())
    assert torch.equal(found.expected[0], said)


def test_unrelated_facts_have_only_the_proportions_that_hold_of_any_answers():
    generator = torch.Generator().manual_seed(0)
    tokens, said = table(lambda o, a, b: torch.randint(11, a.shape, generator=generator), modulus=11)
    fourth = read(tokens, said, 11).fourth[0]
    a, b, c = torch.cartesian_prod(*[torch.arange(11)] * 3).T
    any_answers = (a == b) | (a == c)
    assert (fourth[a, b, c] != UNKNOWN)[~any_answers].float().mean() < 0.05
    assert (fourth[a, b, c] == torch.where(a == b, c, b))[any_answers].all()


@pytest.mark.parametrize("noisy", [False, True])
def test_the_names_of_answers_and_the_order_of_examples_carry_no_information(noisy):
    tokens, said = adding()
    generator = torch.Generator().manual_seed(1)
    if noisy:
        some = torch.randperm(len(said), generator=generator)[: len(said) // 2]
        tokens, said = tokens[some], said[some]
        said[:8] = (said[:8] + 2) % P
    names, order = torch.randperm(P, generator=generator), torch.randperm(len(said), generator=generator)
    found, renamed = read(tokens, said), read(tokens[order], names[said][order])
    a, b, c = torch.cartesian_prod(*[torch.arange(P)] * 3).T
    again = torch.cat([names, torch.tensor([UNKNOWN])])  # the last is that of UNKNOWN
    assert torch.equal(renamed.fourth[0][names[a], names[b], names[c]], again[found.fourth[0][a, b, c]])
    assert torch.equal(renamed.expected[0], again[found.expected[0]][order])


def test_the_vote_is_that_of_a_count_by_hand():
    """One operator, few inputs: substitutions of a and of b, each counted one by one."""
    generator = torch.Generator().manual_seed(2)
    _, said = table(lambda o, a, b: a + b, n_operators=1, modulus=5)
    wrong = torch.randperm(len(said), generator=generator)[:3]
    said[wrong] = (said[wrong] + 1) % 5
    square = said.view(5, 5)
    votes = torch.zeros(5, 5, 5, 5)
    for lines in (square, square.T):
        for one, other in itertools.permutations(lines, 2):
            carried = {(int(x), int(y)) for x, y in zip(one, other, strict=True)}
            for (x, y), (z, w) in itertools.product(carried, repeat=2):
                votes[x, y, z, w] += 1
    fourth = _fourth([square[None]], 5, said.device)
    for a, b, c in itertools.product(range(5), repeat=3):
        if a in (b, c):
            continue
        most = votes[a, b, c].max()
        agreed = most >= LEAST_WITNESSES and most > LEAST_SHARE * votes[a, b, c].sum()
        assert int(fourth[a, b, c]) == (int(votes[a, b, c].argmax()) if agreed else UNKNOWN)


@pytest.mark.parametrize(
    "said",
    [
        lambda o, a, b: torch.randint(11, a.shape, generator=torch.Generator().manual_seed(5)),
        lambda o, a, b: torch.maximum(a, b),
        lambda o, a, b: (torch.rand(a.shape, generator=torch.Generator().manual_seed(6)) < 0.15) * a,
    ],
    ids=["unrelated", "many to one", "one answer common"],
)
def test_of_a_subject_without_proportions_nothing_is_expected(said):
    assert (read(*table(said, modulus=11), 11).expected == UNKNOWN).all()


def test_a_paraphrase_is_no_second_witness():
    """Facts of their own, one-to-one, each asked for in three words."""
    generator = torch.Generator().manual_seed(7)
    word, relation, key = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(11)).T
    facts = torch.stack([torch.randperm(11, generator=generator) for _ in range(4)])
    fourth = read(torch.stack([word, relation, key], dim=1), facts[relation, key], 11).fourth[0]
    assert known_share(fourth) < 0.05


def test_a_word_that_changes_nothing_does_not_hide_the_table_of_the_others():
    tokens, said = adding()
    words = torch.cat([tokens, tokens])
    words[len(tokens) :, 0] = 1
    twice = torch.cat([said, said])
    twice[3] = (said[3] + 1) % P
    found = read(words, twice)
    assert torch.equal(found.fourth[0], of_addition())
    assert torch.equal(found.expected[0], torch.cat([said, said]))


def test_inputs_of_two_places_and_of_one_and_none_at_all():
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).T
    said = (a + b) % P
    assert torch.equal(read(torch.stack([a, b], dim=1), said).fourth[0], of_addition())
    assert known_share(read(a[:, None], said).fourth[0]) == 0
    nothing = torch.zeros(1, 4, 2, dtype=torch.long)
    found = proportions(nothing, nothing[..., 0] > 0, nothing[..., 0], torch.ones(1, P, dtype=torch.bool))
    assert (found.expected == UNKNOWN).all()


def test_a_few_wrong_answers_are_expected_to_be_right_and_many_are_not_known():
    tokens, said = adding(11)
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(len(said), generator=generator)
    few, many = said.clone(), said.clone()
    few[order[:15]] = (few[order[:15]] + 3) % 11
    many[order[:180]] = torch.randint(11, (180,), generator=generator)
    expected = read(tokens, few, 11).expected[0]
    assert (expected == said).float().mean() > 0.98
    assert torch.equal(expected[expected != UNKNOWN], said[expected != UNKNOWN])
    assert (read(tokens, many, 11).fourth[0] == of_addition(11)).float().mean() < 0.5


def test_half_of_a_table_is_enough_and_a_tenth_is_not():
    tokens, said = adding(11)
    order = torch.randperm(len(said), generator=torch.Generator().manual_seed(4))
    half, tenth = order[: len(said) // 2], order[: len(said) // 10]
    found = read(tokens[half], said[half], 11)
    assert torch.equal(found.fourth[0], of_addition(11))
    expected = found.expected[0]
    assert (expected == said[half]).float().mean() > 0.9
    assert torch.equal(expected[expected != UNKNOWN], said[half][expected != UNKNOWN])
    assert (read(tokens[tenth], said[tenth], 11).expected == UNKNOWN).all()


def test_padding_and_company_change_nothing():
    tokens, said = adding()
    others, theirs = adding(5)
    alone, other = read(tokens, said), read(others, theirs, 5)
    shown = torch.zeros(2, len(said) + 3, dtype=torch.bool)
    shown[0, : len(said)], shown[1, : len(theirs)] = True, True
    both, all_said = torch.zeros(2, len(said) + 3, 4, dtype=torch.long), torch.zeros(2, len(said) + 3).long()
    both[0, : len(said)], both[1, : len(theirs)] = tokens, others
    all_said[0, : len(said)], all_said[1, : len(theirs)] = said, theirs
    found = proportions(both, shown, all_said, torch.arange(P + 2)[None] < torch.tensor([[P], [5]]))
    assert torch.equal(found.fourth[0, :P, :P, :P], alone.fourth[0])
    assert torch.equal(found.fourth[1, :5, :5, :5], other.fourth[0])
    assert torch.equal(found.expected[1, : len(theirs)], other.expected[0])
    assert (found.expected[1, len(theirs) :] == UNKNOWN).all()
    assert (found.fourth[0, P:] == UNKNOWN).all()


def test_what_is_corrected_is_what_the_subject_says_where_nothing_else_is_expected():
    tokens, said = adding()
    old = torch.nn.functional.one_hot(said, P).float()[None]
    wrong = old.clone()
    wrong[0, 5] = old[0, 5].roll(1)
    found = read(tokens, wrong[0].argmax(-1))
    assert torch.equal(found.corrected(wrong), old)
    assert torch.equal(found.hidden().corrected(wrong), wrong)


@pytest.mark.parametrize(("factor", "shift"), [(1, 3), (-1, 2), (2, 0), (3, 5)])
def test_two_pairs_determine_every_map_that_keeps_proportions_modulo_a_prime(factor, shift):
    to = (factor * torch.arange(P) + shift) % P
    found = follows(of_addition(), [(1, int(to[1])), (4, int(to[4]))])
    assert torch.equal(found.to[0].argmax(-1), to)
    assert found.to.sum() == P
    assert found.trust == 1


def test_one_pair_is_taken_for_a_shift():
    found = follows(of_addition(), [(2, 6)])
    assert torch.equal(found.to[0].argmax(-1), (torch.arange(P) + 4) % P)


def test_modulo_a_number_that_is_no_prime_only_what_follows_is_said():
    found = follows(of_addition(6), [(0, 1), (2, 3)])
    assert found.to[0].sum(1).tolist() == [1, 0, 1, 0, 1, 0]
    assert found.trust == pytest.approx(0.5)


def test_without_proportions_nothing_follows_but_what_was_told():
    nothing = torch.full((P, P, P), UNKNOWN)
    found = follows(nothing, [(1, 2), (3, 0), (3, 0), (3, 4), (5, 1), (5, 2)])
    assert found.to[0].nonzero().tolist() == [[1, 2], [3, 0]]
    assert found.looks[0, 0] == 0
    assert torch.equal(extended(nothing, told(seen_of([])[0])), torch.full((P,), UNKNOWN))


def test_pairs_that_keep_no_proportions_are_not_trusted():
    kept = follows(of_addition(), [(x, (x + 2) % P) for x in (0, 1, 3, 4)])
    broken = follows(of_addition(), [(0, 5), (1, 1), (3, 2), (4, 0)])
    assert kept.trust == 1
    assert broken.trust < 0.5


def test_a_pair_that_contradicts_the_others_is_outvoted():
    pairs = [(x, (3 - x) % P) for x in (0, 1, 3, 5)] + [(6, 6)]
    to = extended(of_addition(), told(seen_of(pairs)[0]))
    assert to.tolist() == [3, 2, 1, 0, 6, 5, 6]


def test_the_share_of_known_proportions_tells_a_subject_that_adds_whatever_the_padding():
    tokens, said = adding()
    facts = torch.randint(P, said.shape, generator=torch.Generator().manual_seed(0))
    both, mask = torch.stack([said, facts]), torch.arange(P + 3)[None].expand(2, -1) < P
    everything = torch.ones_like(both, dtype=torch.bool)
    found = proportions(torch.stack([tokens, tokens]), everything, both, mask)
    share = found.share(mask)
    assert share[0] == 1 == read(tokens, said).share(mask[:1, :P])[0]
    assert share[1] < 0.05
    assert not found.hidden().share(mask).any()
