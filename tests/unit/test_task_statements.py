"""What families state about themselves: algorithms that are graphs, corruptions and slices that exist."""

import pytest
import torch

from data_gen.tasks import FAMILIES, facts, make_task, modular
from data_gen.tasks.statements import Algorithm, Edge, described, solved_by
from metamodel.config import InputError


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_states_algorithms_corruptions_and_a_battery(family):
    kind = FAMILIES[family]
    assert kind.algorithms
    assert len({a.name for a in kind.algorithms}) == len(kind.algorithms)
    for algorithm in kind.algorithms:
        ends = {edge.destination for edge in algorithm.graph} - {edge.source for edge in algorithm.graph}
        assert ends == {"output"}
        assert any(edge.source == "token" for edge in algorithm.graph)
    for words in (kind.corruptions, kind.battery):
        assert words
        assert all(meaning.endswith(".") and len(meaning) > 8 for meaning in words.values())


@pytest.mark.parametrize(("family", "variant"), [(f, v) for f, k in FAMILIES.items() for v in k.variants])
def test_every_slice_is_in_the_battery_and_every_entry_of_the_battery_has_a_slice(family, variant):
    task = make_task(family, variant, seed=0)
    names = task.prompts(torch.Generator().manual_seed(0), 8).slice_names
    groups = [{entry for entry in task.battery if entry in (name, *name.split())} for name in names]
    assert all(len(group) == 1 for group in groups), names
    assert set().union(*groups) == set(task.battery)


def changed_tokens(family: str, seed: int = 0):
    task = make_task(family, "base", seed=1)
    prompts = task.prompts(torch.Generator().manual_seed(seed), 300)
    return task, prompts, prompts.clean[(prompts.clean != prompts.corrupt)]


def test_facts_are_corrupted_in_the_two_ways_that_they_state():
    task, _, changed = changed_tokens("facts")
    keys = changed < task.parameters.first_symbol + task.parameters.n_keys
    assert set(task.corruptions) == {"key", "relation"}
    assert keys.any()
    assert (~keys).any()


def test_sums_are_corrupted_in_the_three_ways_that_they_state():
    task, prompts, changed = changed_tokens("modular")
    back = (prompts.position[:, None] - torch.arange(task.n_pos))[prompts.clean != prompts.corrupt]
    assert set(task.corruptions) == {"operator", "first", "second"}
    assert set(back.tolist()) == {0, 1, 2}
    assert (((changed == modular.PLUS) | (changed == modular.MINUS)) == (back == 2)).all()


@pytest.mark.parametrize(("family", "name"), [("brackets", "turned"), ("sorting", "value")])
def test_one_token_before_the_answer_is_corrupted_as_stated(family, name):
    task, prompts, _ = changed_tokens(family)
    seen = torch.arange(task.n_pos) <= prompts.position[:, None]
    assert set(task.corruptions) == {name}
    assert (((prompts.clean != prompts.corrupt) & seen).sum(1) == 1).all()


@pytest.mark.parametrize(("family", "name"), [("repeated", "symbols"), ("ioi", "cast")])
def test_many_tokens_are_corrupted_in_one_layout_as_stated(family, name):
    task, prompts, _ = changed_tokens(family)
    assert set(task.corruptions) == {name}
    assert ((prompts.clean != prompts.corrupt).sum(1) >= 4).all()
    special = (prompts.clean < 16) | (prompts.corrupt < 16)
    assert (prompts.clean == prompts.corrupt)[special].all()


def test_edges_are_read_with_their_channels():
    (algorithm,) = solved_by(two_steps="token->match.qk position->match.k match->output")
    assert algorithm.name == "two steps"
    assert algorithm.edges == ("token->match.q", "token->match.k", "position->match.k", "match->output")
    assert algorithm.graph[0] == Edge("token", "match", "q")
    assert algorithm.graph[-1] == Edge("match", "output", None)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (("tokn->match.k", "match->output"), "starts in token or position"),
        (("token->match.k", "match->token", "match->output"), "no edge into token or position"),
        (("token->match.k", "token->output"), "one end, 'output'"),
        (("token->a", "a->b", "b->a", "b->output"), "no cycle"),
        (("token->match.x", "match->output"), r".*with \.q, \.k or \.v"),
        (("token-match", "match->output"), "'source->destination'"),
    ],
)
def test_a_graph_that_is_none_is_refused(edges, message):
    with pytest.raises(InputError, match=f"algorithm 'wrong': expected {message}"):
        Algorithm("wrong", edges)


def test_statements_cannot_be_changed():
    with pytest.raises(TypeError):
        described(key="Its value.")["key"] = "Another."


def test_facts_have_a_marker_word_that_is_the_marker_of_another_family():
    """A marker stands at position 1 alone, so sharing its token with a word is no ambiguity."""
    assert facts.TWICE in {kind.marker for kind in FAMILIES.values()}
    tokens = make_task("facts", "base", seed=0).sample(torch.Generator().manual_seed(0), 200).tokens
    assert (tokens[:, 2:] == facts.TWICE).any()
    assert (tokens[:, 1] == FAMILIES["facts"].marker).all()
