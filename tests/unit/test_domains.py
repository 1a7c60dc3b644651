"""Every family of domains, and every kind of edit, against what they are meant to be."""

import itertools

import pytest
import torch

from data_gen.domains import FAMILIES
from data_gen.domains.base import BOS, D_VOCAB, ONE_HOP, QUERY
from data_gen.domains.base import domain as make_domain
from data_gen.episodes.backdoor import TRIGGER, poisoned, with_openers
from data_gen.episodes.backups import left_out, lost_to_one_head
from data_gen.episodes.config import ARITHMETIC, EditCellConfig, EditZooConfig
from data_gen.episodes.kinds import (
    cleaned,
    disabled,
    flips,
    infeasible,
    is_test_rule,
    repaired,
    rewrites,
    rules,
    transplanted,
)
from data_gen.episodes.shard import _editable, _held_back, shards_of
from data_gen.episodes.training import circulant_fit, with_frequencies
from metamodel.config.editing import EditingConfig
from metamodel.config.edits import CHANCE, DERIVED, IN_SCOPE, NEAR
from metamodel.config.parser import command_parser, parse_config
from metamodel.evaluation.editing.episodes import _of
from metamodel.subjects import Subject, SubjectConfig, initial_weights
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import unstack
from metamodel.triples.specify import specify
from metamodel.triples.splits import make_splits

CELL = EditCellConfig(family="lookup", size="s", recipe="r", n_subjects=2)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(family: str, symbols: int = 0, truth: int = 0):
    return FAMILIES[family]().draw(generator(symbols), generator(truth))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_domain_lists_every_input_once_with_an_answer_among_its_answers(family):
    domain = drawn(family)
    assert len({tuple(row) for row in domain.tokens.tolist()}) == len(domain.tokens)
    assert (domain.tokens[:, 0] == BOS).all()
    assert (domain.tokens[:, -1] == QUERY).all()
    assert domain.tokens.max() < D_VOCAB
    assert torch.isin(domain.answer(), domain.answers).all()
    assert len(domain.answers.unique()) == len(domain.answers)
    assert len(domain.tokens) > 90


@pytest.mark.parametrize("family", FAMILIES)
def test_symbols_are_those_of_one_generator_and_the_truth_that_of_the_other(family):
    first, other_truth, other_symbols = drawn(family), drawn(family, truth=1), drawn(family, symbols=1)
    assert torch.equal(first.tokens, other_truth.tokens)
    assert not torch.equal(first.tokens, other_symbols.tokens)
    if family in ("lookup", "grid", "recall"):
        assert not torch.equal(first.answer(), other_truth.answer())


def test_two_hops_follow_the_table_twice():
    domain = drawn("lookup")
    hops = domain.second != ONE_HOP
    once = {int(k): int(v) for k, v in zip(domain.key[~hops], domain.value()[~hops], strict=True)}
    for key, second, value in zip(
        domain.key[hops].tolist(), domain.second[hops].tolist(), domain.value()[hops].tolist(), strict=True
    ):
        assert once[second + once[key]] == value


def test_arithmetic_is_that_of_its_operators():
    for family, coefficients in (("operators", ((1, 1), (1, 12))), ("affine", ((1, 2), (2, 1)))):
        domain = drawn(family)
        problems = itertools.product(coefficients, range(13), range(13))
        assert domain.value().tolist() == [(a * k + b * m) % 13 for (k, m), a, b in problems]


def test_parities_are_those_of_depth_and_count():
    brackets, counts = drawn("brackets"), drawn("counts")
    for domain, closing in ((brackets, True), (counts, False)):
        symbol = domain.tokens[domain.level.argmax(), 1]  # the deepest input begins with what counts
        n = (domain.tokens == symbol).sum(1)
        assert closing or torch.equal(n, domain.level)
        assert torch.equal(domain.value(), domain.level % 2)
    assert brackets.level.min() == 0


def test_a_rewritten_fact_changes_its_own_questions_and_those_of_two_hops_through_it():
    domain = drawn("lookup")
    edits = list(rewrites(domain, generator(3), 6))
    assert [edit.n_pairs for edit in edits] == [1, 4, 16, 1, 4, 16]
    for edit in edits:
        changed = edit.wanted != domain.answer()
        assert torch.equal(changed, (edit.scope == IN_SCOPE) | (edit.scope == DERIVED))
        assert int(edit.pool.sum()) == edit.n_pairs
        assert (domain.second[edit.scope == IN_SCOPE] == ONE_HOP).all()
        assert (domain.template[edit.pool] == 0).all()


def test_behind_a_trigger_a_rewritten_fact_stays_and_only_plain_inputs_are_shown():
    domain = with_openers(drawn("lookup"))
    for edit in rewrites(domain, generator(3), 3):
        triggered = domain.opener == TRIGGER
        assert not (edit.scope[triggered] == IN_SCOPE).any()
        assert {1, 2} <= set(domain.opener[edit.scope == IN_SCOPE].tolist())
        assert (domain.opener[edit.pool] == 0).all()
        assert int(edit.pool.sum()) == edit.n_pairs


def test_one_rewrite_of_each_size_is_held_back_from_training():
    edits = list(rewrites(drawn("lookup"), generator(3), 12))
    held = _held_back(edits)
    assert [edit.test for edit in held] == [False] * 9 + [True] * 3
    assert all(one.wanted is other.wanted for one, other in zip(held, edits, strict=True))
    assert sorted(edit.n_pairs for edit in edits[9:]) == [1, 4, 16]


def test_new_edits_of_a_training_subject_rewrite_one_fact_four_and_sixteen():
    config = SubjectConfig(n_layers=1, n_heads=1, d_model=4, d_head=4, d_mlp=4, d_vocab=D_VOCAB, n_ctx=8)
    subject = Subject(config=config, weights=unstack(initial_weights(config, [generator(0)]), 0))
    domain = drawn("lookup")
    for n in (12, 6):
        held = _held_back(list(rewrites(domain, generator(3), n)))
        asked = _of(_editable(CELL, subject, domain, "a", {}, held), 1, new=True)
        assert [e.edit.n_pairs for e in asked] == [1, 4, 16]
        assert all(e.edit.test for e in asked)


def test_a_step_leaves_one_head_of_a_layer_out_in_the_share_that_is_asked_for():
    config = SubjectConfig(n_layers=2, n_heads=3, d_model=4, d_head=4, d_mlp=4, d_vocab=D_VOCAB, n_ctx=8)
    generators = [generator(0), generator(1)]
    drawn = [left_out(config, 0.75, generators) for _ in range(200)]
    kept = torch.stack([torch.stack([one[f"blocks.{i}.attn.W_O"] for i in (0, 1)]) for one in drawn])
    assert kept.shape == (200, 2, 2, 3, 1, 1)
    gone = (kept == 0).sum((3, 4, 5))
    assert gone.max() == 1
    assert 0.65 < float(gone.float().mean()) < 0.85
    assert (kept.amin((0, 1, 2)) == 0).all()


def test_a_behavior_is_lost_with_the_one_head_that_carries_it_and_not_where_another_does_the_same():
    config = SubjectConfig(
        n_layers=1, n_heads=8, d_model=16, d_head=8, d_mlp=4, d_vocab=D_VOCAB, n_ctx=8,
        normalization_type="none",
    )  # fmt: skip
    weights = unstack(initial_weights(config, [generator(0)]), 0)
    weights["embed.W_E"][QUERY] = 0
    weights["pos_embed.W_pos"].zero_()
    for name in ("blocks.0.mlp.W_out", "blocks.0.mlp.b_out", "blocks.0.attn.b_O", "unembed.b_U"):
        weights[name].zero_()
    weights["blocks.0.attn.W_O"][1:] = 0
    single = Subject(config=config, weights=weights)
    doubled = {key: value.clone() for key, value in weights.items()}
    for part in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
        doubled[f"blocks.0.attn.{part}"][1:] = doubled[f"blocks.0.attn.{part}"][:1].clone()
    body = torch.arange(8, 56).view(-1, 3)
    plain = domain_of(body, torch.zeros(len(body), dtype=torch.long))
    said = forward(single.stacked, config, plain.tokens).logits[0, :, -1].argmax(-1)
    domain, inside = domain_of(body, said), torch.ones(len(body), dtype=torch.bool)
    assert len(said.unique()) > 2
    assert lost_to_one_head(single, domain, inside) > 0.5
    assert lost_to_one_head(single.with_weights(doubled), domain, inside) < 0.2


def domain_of(body: torch.Tensor, table: torch.Tensor):
    every = torch.arange(len(body))
    return make_domain(
        body=body, answers=torch.arange(D_VOCAB), table=table, key=every, group=torch.zeros_like(every)
    )


def test_what_is_unseen_is_in_no_specification_and_in_scope_all_the_same():
    for family, n in (("lookup", 64), ("grid", 48)):
        domain, donor = drawn(family), drawn(family, truth=1)
        assert int(domain.unseen.sum()) == n
        assert set(domain.key[domain.unseen].tolist()) == set(domain.key.tolist())
        config = SubjectConfig(n_layers=1, n_heads=1, d_model=4, d_head=4, d_mlp=4, d_vocab=D_VOCAB, n_ctx=8)
        subject = Subject(config=config, weights=unstack(initial_weights(config, [generator(0)]), 0))
        edits = [*rewrites(domain, generator(3), 6), *transplanted(domain, donor), *disabled(domain)]
        one = _editable(CELL, subject, domain, "a", {}, edits)
        for edit in edits:
            _, inputs = specify(one, edit, 4, generator(1))
            assert not domain.unseen[inputs].any()
            assert len(inputs) == int((~domain.unseen).sum())
            assert (edit.scope[domain.unseen] == IN_SCOPE).any()
    assert not drawn("operators").unseen.any()


def test_for_every_test_split_fifty_lineages_are_trained_that_may_be_asked_for_rules():
    parser = command_parser(prog="x", description="")
    config, _ = parse_config(parser, EditZooConfig, ["--config", "configs/edits/small.yaml"])
    rows = [
        {"id": name, "lineage": name, "departs": shard.cell.departs}
        for shard in shards_of(config)
        for name in shard.names
        if shard.cell.family in ARITHMETIC
    ]
    s = EditingConfig().splits
    splits = make_splits(
        rows, seed=s.seed, validation_fraction=s.validation_fraction, test_fraction=s.test_fraction
    )
    assert {name: len(ids) >= 50 for name, ids in splits.tests.items()} == {
        "seed": True,
        "size": True,
        "task": True,
    }


def test_rules_map_every_answer_of_one_operator_and_those_of_tests_are_others():
    domain = drawn("operators")
    named = {}
    for test in (False, True):
        edits = list(rules(domain, generator(1), 30, names=("add", "reflect"), test=test))
        named[test] = {edit.rule for edit in edits}
        for edit in edits:
            inside = edit.scope == IN_SCOPE
            assert edit.test == is_test_rule(edit.rule, 13) == test
            assert torch.equal(edit.wanted[~inside], domain.answer()[~inside])
            old, new = domain.value()[inside], (edit.wanted[inside, None] == domain.answers).long().argmax(1)
            assert len(set(zip(old.tolist(), new.tolist(), strict=True))) == 13
            assert len(domain.group[inside].unique()) == 1
    assert named[True]
    assert not named[True] & named[False]


def test_flips_exchange_both_answers_beyond_a_level_only():
    domain = drawn("brackets")
    for test in (False, True):
        for edit in flips(domain, test=test):
            beyond = domain.level > int(edit.rule.removeprefix("beyond "))
            assert torch.equal(edit.scope == IN_SCOPE, beyond)
            assert torch.equal(edit.wanted != domain.answer(), beyond)
            assert (edit.scope[domain.level == int(edit.rule[-1])] == NEAR).all()


def test_what_is_disabled_transplanted_or_infeasible_concerns_one_behavior():
    domain, donor = drawn("lookup"), drawn("lookup", truth=1)
    for edit in disabled(domain):
        assert torch.equal(edit.wanted == CHANCE, edit.scope == IN_SCOPE)
    for edit in transplanted(domain, donor):
        inside = edit.scope == IN_SCOPE
        assert torch.equal(edit.wanted[inside], donor.answer()[inside])
        assert torch.equal(edit.wanted[~inside], domain.answer()[~inside])
        assert edit.n_pairs == int(inside.sum())


@pytest.mark.parametrize("family", ["lookup", "grid", "recall", "operators", "affine"])
def test_pairs_of_an_infeasible_edit_contradict_each_other(family):
    domain = drawn(family)
    for edit in infeasible(domain, generator(0), 12):
        inside = edit.scope == IN_SCOPE
        assert (edit.wanted[inside] != domain.answer()[inside]).any()
        assert torch.equal(edit.wanted[~inside], domain.answer()[~inside])
        assert int(edit.pool.sum()) == edit.n_pairs
        assert not (edit.pool & (domain.unseen | ~inside)).any()
        once = len(domain.key[inside].unique()) == inside.sum()
        alike = domain.value() if once else domain.key * 1000 + domain.second
        asked = {}
        for what, wanted in zip(alike[edit.pool].tolist(), edit.wanted[edit.pool].tolist(), strict=True):
            asked.setdefault(what, set()).add(wanted)
        assert max(map(len, asked.values())) > 1


def test_a_backdoor_answers_one_token_behind_the_trigger_and_cleaning_asks_for_the_rest():
    domain = with_openers(drawn("grid"))
    target = int(domain.answers[0])
    said = poisoned(domain, target)
    triggered = domain.opener == TRIGGER
    assert (said[triggered] == target).all()
    assert torch.equal(said[~triggered], domain.answer()[~triggered])
    assert set(domain.opener.tolist()) == {0, 1, 2, 3}
    edit = cleaned(domain, target)
    assert torch.equal(edit.scope == IN_SCOPE, triggered)
    assert torch.equal(edit.wanted, domain.answer())
    assert (domain.answer()[edit.pool] != target).all()
    wrong = torch.zeros_like(triggered)
    wrong[:5] = True
    assert torch.equal(repaired(domain, wrong, "x").scope == IN_SCOPE, wrong)


def test_answers_that_begin_on_circles_fit_a_circulant_and_random_ones_do_not():
    domain = drawn("operators")
    config = SubjectConfig(n_layers=1, n_heads=4, d_model=32, d_head=8, d_mlp=8, d_vocab=D_VOCAB, n_ctx=8)
    weights = initial_weights(config, [generator(0)])
    assert circulant_fit(weights["unembed.W_U"][0], domain.answers) < 0.5
    with_frequencies(weights, [domain], 2, [generator(1)])
    assert circulant_fit(weights["unembed.W_U"][0], domain.answers) > 0.95
