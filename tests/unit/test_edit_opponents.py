"""Opponents of the editor: what each does by its formula, and what all promise."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from metamodel.baselines.editing import Episode, opponents, oracle
from metamodel.baselines.editing.adam import names_of, trained
from metamodel.baselines.editing.aims import loss, told
from metamodel.baselines.editing.closed_form import (
    ClosedForm,
    Material,
    at_last_writer,
    at_readout,
    closed_forms,
    null_space,
    optimised,
    ridge,
    rome,
)
from metamodel.baselines.editing.fine_tuning import FineTuning, GradientStep
from metamodel.baselines.editing.inferred import inferred
from metamodel.baselines.editing.profile_match import ProfileMatch, SelfLabel
from metamodel.baselines.editing.suffix import suffix
from metamodel.baselines.editing.transport import Transport
from metamodel.baselines.editing.tuning import family_of, tuned
from metamodel.config.edits import IN_SCOPE, KEEP, PAIR
from metamodel.evaluation.editing.scores import scores
from metamodel.features.observed import last_writer
from metamodel.networks.editing.profiles import matched
from metamodel.subjects.forward import logits_at
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Editable

Specified = Callable[..., Episode]


def judge(episode: Episode, changes) -> float:
    return scores(episode, changes).harmonic_mean


@pytest.fixture(scope="module")
def episode(taught: Editable, specified: Specified) -> Episode:
    return specified(taught, 4)


def double(episode: Episode) -> Subject:
    return episode.editable.subject.double()


def planted(n_pairs: int = 3, seed: int = 0) -> Material:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # what is to be kept uses 5 of 8 directions
    used = draw(5, 8)
    return Material(
        keys=draw(n_pairs, 8),
        residual=draw(n_pairs, 4),
        keeps=draw(6, 5) @ used,
        unlabelled=draw(9, 5) @ used,
    )


def test_a_subject_of_the_tests_answers_right(taught: Editable):
    said = taught.subject.run(taught.tokens).logits[0, :, -1].argmax(-1)
    assert torch.equal(said, taught.answer)


@pytest.mark.parametrize("index", range(len(opponents(judge))))
def test_every_opponent_changes_weights_and_never_the_subject(episode: Episode, index: int):
    opponent = opponents(judge)[index]
    subject = episode.editable.subject
    before = subject.fingerprint()
    if isinstance(opponent, Transport):
        opponent.tune([episode])
    changes = opponent.propose(subject, episode.examples)
    again = opponent.propose(subject, episode.examples)
    assert subject.fingerprint() == before
    for name, change in changes.items():
        assert change.shape == subject.weights[name].shape
        assert change.dtype == subject.weights[name].dtype
        assert not change.requires_grad
        assert torch.isfinite(change).all()
        assert torch.equal(change, again[name])
    assert bool(changes) == (opponent.name != "no_op")


def test_names_are_different():
    names = [one.name for one in opponents(judge)]
    assert len(set(names)) == len(names)
    assert {"no_op", "fine_tuning", "fine_tuning_without_keeps", "ridge", "profile_match"} <= set(names)


@pytest.mark.parametrize("subset", ["all", "last_writer", "unembedding"])
def test_a_gradient_step_is_autograds(episode: Episode, subset: str):
    subject, examples = double(episode), episode.examples
    opponent = GradientStep(judge)
    opponent.chosen = (0.5, subset)
    changes = opponent.propose(subject, examples)
    leaves = {k: v.clone().requires_grad_() for k, v in subject.weights.items()}
    pair = examples.role == PAIR
    said = subject.with_weights(leaves).run(examples.tokens[pair]).logits[0, :, -1]
    torch.nn.functional.cross_entropy(said, examples.wanted[pair]).backward()
    assert set(changes) == set(names_of(subject.config, subset))
    for name, change in changes.items():
        slope = leaves[name].grad
        assert slope is not None
        torch.testing.assert_close(change, -0.5 * slope)


def test_adam_is_torchs_for_every_setting_at_once(episode: Episode):
    subject = double(episode)
    aims = told(subject, episode.examples)
    settings = [(1e-2, "all"), (3e-2, "mlps"), (1e-2, "last_writer")]
    found = trained(subject, aims, settings, [2, 5])
    for i, (rate, subset) in enumerate(settings):
        names = names_of(subject.config, subset)
        leaves = {k: v.clone()[None].requires_grad_(k in names) for k, v in subject.weights.items()}
        optimiser = torch.optim.Adam([leaves[k] for k in names], lr=rate)
        rows = torch.arange(len(aims.tokens)) * aims.tokens.shape[1] + aims.position
        for step in range(1, 6):
            optimiser.zero_grad()
            loss(logits_at(leaves, subject.config, aims.tokens[None], rows[None]), aims).sum().backward()
            optimiser.step()
            if step in (2, 5):
                assert set(found[step][i]) == set(names)
                for name in names:
                    moved = (leaves[name][0] - subject.weights[name]).detach()
                    torch.testing.assert_close(found[step][i][name], moved, rtol=1e-5, atol=1e-6)


def test_the_end_of_a_subject_says_what_the_subject_says(episode: Episode):
    subject, examples = double(episode), episode.examples
    end = suffix(subject, examples.tokens, examples.position)
    change = torch.randn(end.hidden.shape[1], end.stream.shape[1], dtype=torch.float64)
    name = last_writer(subject.config)
    edited = subject.with_weights({**subject.weights, name: subject.weights[name] + change})
    whole = edited.run(examples.tokens).logits[0, :, -1]
    torch.testing.assert_close(end.logits(change), whole)
    torch.testing.assert_close(end.with_weights(edited.stacked)[0], whole)


def test_ridge_satisfies_its_normal_equations():
    material, weight, amount = planted(), 0.3, 0.1
    change = ridge(material, weight, amount)
    keys, n = material.keys, len(material.keys)
    others = torch.cat([material.keeps, material.unlabelled])
    moment = keys.T @ keys / n + weight * others.T @ others / len(others)
    left = moment @ change + amount * moment.trace() / len(moment) * change
    torch.testing.assert_close(left, keys.T @ material.residual / n)


def test_rome_maps_keys_exactly_with_the_rank_of_the_pairs():
    one = planted(n_pairs=1)
    change = rome(one, 0.1)
    torch.testing.assert_close(one.keys @ change, one.residual)
    assert torch.linalg.matrix_rank(change) == 1
    more = planted(n_pairs=3)
    torch.testing.assert_close(more.keys @ rome(more, 0.1), more.residual)
    assert torch.linalg.matrix_rank(rome(more, 0.1)) == 3


def test_null_space_leaves_what_is_kept_alone_and_moves_the_pairs():
    material = planted()
    change = null_space(material, 1e-6, 1e-6)
    others = torch.cat([material.keeps, material.unlabelled])
    torch.testing.assert_close(others @ change, torch.zeros(len(others), 4, dtype=torch.float64))
    torch.testing.assert_close(material.keys @ change, material.residual, rtol=1e-3, atol=1e-3)
    assert (others @ ridge(material, 0.1, 0.1)).abs().max() > 0.01


@pytest.mark.parametrize("at", [at_last_writer, at_readout])
def test_optimised_residuals_say_what_is_wanted(episode: Episode, at: Callable):
    subject, examples = episode.editable.subject, episode.examples
    pair = examples.role == PAIR
    end = suffix(subject, examples.tokens, examples.position).only(pair)
    residual = at(subject, examples, 0.1).residual
    said = end.said(end.stream + residual) if at is at_last_writer else end.logits() + residual
    assert torch.equal(said.argmax(-1), examples.wanted[pair])
    assert not torch.equal(end.logits().argmax(-1), examples.wanted[pair])


def test_optimised_stops_where_enough_is_reached():
    start = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    moved = optimised(start, lambda x: x, target, 0.2)
    assert torch.equal(moved[0], torch.zeros(2))
    assert moved[1, 0] > 2.5
    torch.testing.assert_close(moved[1, 0], -moved[1, 1])


def test_profiles_match_a_rotation_of_a_circle_from_two_pairs():
    angle = 2 * torch.pi * torch.arange(7) / 7
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    points = torch.stack([angle.cos(), angle.sin()], dim=1)[order]
    step = torch.empty(7, dtype=torch.int64)
    step[order.argsort()] = order.argsort()[(torch.arange(7) + 2) % 7]
    seen = torch.zeros(7, 7)
    for y in (0, 3):
        seen[y, step[y]] = 1
    assert torch.equal(matched(points @ points.T, seen), step)


def test_what_is_inferred_is_the_rule(episode: Episode):
    found = inferred(episode.editable.subject, episode.examples)
    inside = episode.edit.scope[episode.inputs] == IN_SCOPE
    assert torch.equal(found.inside, inside)
    wanted = episode.examples.answers[found.wanted.argmax(-1)]
    known = (episode.examples.role == PAIR) | (episode.examples.role == KEEP)
    assert torch.equal(wanted[known], episode.edit.wanted[episode.inputs][known])


@pytest.mark.parametrize("make", [FineTuning, ProfileMatch, SelfLabel])
def test_what_is_tuned_reaches_an_easy_edit(taught: Editable, specified: Specified, make: Callable):
    easy = specified(taught, 16)
    opponent = make(judge)
    before = judge(easy, opponent.propose(taught.subject, easy.examples))
    opponent.tune([easy])
    after = judge(easy, opponent.propose(taught.subject, easy.examples))
    assert after >= before
    assert after > 0.9
    assert judge(easy, {}) < 0.01


def test_each_family_of_kinds_has_a_setting_of_its_own_and_what_is_unknown_the_best_of_all(episode: Episode):
    rule = replace(episode, edit=replace(episode.edit, kind="rule"))
    removal = replace(episode, edit=replace(episode.edit, kind="backdoor"))

    def proposals(e: Episode):
        liked = {"rule": (0.9, 0.1, 0.6), "backdoor": (0.1, 0.8, 0.6)}[e.edit.kind]
        return [(i, {"s": torch.tensor(s)}) for i, s in enumerate(liked)]

    whole, of_family = tuned([rule, removal], proposals, lambda e, changes: float(changes["s"]), 7)
    assert whole == 2
    assert of_family == {"rules": 0, "removal": 1}
    assert tuned([], proposals, judge, 7) == (7, {})
    assert family_of("flip") == "rules"
    assert family_of("infeasible") == ""


def test_an_opponent_takes_the_setting_of_the_kind_that_it_is_told(episode: Episode):
    opponent = ridge_of(judge)
    opponent.chosen, opponent.chosen_for = (0.1, 0.3, 0.1), {"rules": (1.0, 0.003, 0.001)}
    plain, other, rule = (opponent.propose(*asked_of(episode), kind) for kind in ("", "repair", "rule"))
    assert all(torch.equal(plain[key], other[key]) for key in plain)
    assert not any(torch.equal(plain[key], rule[key]) for key in plain)


def ridge_of(judge: Callable) -> ClosedForm:
    return next(one for one in closed_forms(judge) if one.name == "ridge")


def asked_of(episode: Episode):
    return episode.editable.subject, episode.examples


def test_fine_tuning_tells_s_after_each_number_of_steps(episode: Episode):
    tuning = FineTuning(judge, subsets=("last_writer", "mlps"))
    tuning.tune([episode])
    found = tuning.scores_by_steps(episode)
    assert list(found) == [1, 2, 5, 10, 20, 50, 100]
    assert found[tuning.chosen.steps] == max(found.values())
    assert tuning.best_at[tuning.chosen.steps] == tuning.chosen


def test_keeping_what_is_to_be_kept_matters(episode: Episode):
    subject, examples = episode.editable.subject, episode.examples
    with_keeps, without = told(subject, examples), told(subject, examples, keeps=False)
    assert len(with_keeps.tokens) == int(((examples.role == PAIR) | (examples.role == KEEP)).sum())
    assert len(without.tokens) == int((examples.role == PAIR).sum())


def test_the_oracle_achieves_the_edit(episode: Episode):
    assert judge(episode, oracle(episode, learning_rate=1e-2)) >= 0.99
