"""Opponents of the editor that learn, remove components, or carry solved edits over."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from metamodel.baselines.editing import Episode
from metamodel.baselines.editing.ablation import HeadAblation, merits, removals, total
from metamodel.baselines.editing.adam import names_of
from metamodel.baselines.editing.aims import loss, told, truth
from metamodel.baselines.editing.cases import Cases, solved_case
from metamodel.baselines.editing.fine_tuning import GradientStep, gradient
from metamodel.baselines.editing.mend import FIRST_RATE, Mend
from metamodel.baselines.editing.mend_alone import mend_alone, own_episodes
from metamodel.baselines.editing.suffix import suffix
from metamodel.baselines.editing.transport import Transport, carried, carried_nearest, procrustes, raw_mean
from metamodel.baselines.editing.weights_only import WeightsOnly, component_features
from metamodel.config.edits import FAR, IN_SCOPE
from metamodel.evaluation.editing.scores import logits_of, scores
from metamodel.features.observed import last_writer
from metamodel.subjects.canonical import canonical, residual_map
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Edit, Editable

Specified = Callable[..., Episode]


def judge(episode: Episode, changes) -> float:
    return scores(episode, changes).harmonic_mean


@pytest.fixture(scope="module")
def episode(taught: Editable, specified: Specified) -> Episode:
    return specified(taught, 16)


def said(subject: Subject, tokens: torch.Tensor, changes) -> torch.Tensor:
    weights = {k: v + changes[k] if k in changes else v for k, v in subject.weights.items()}
    return logits_of(subject.config, weights, tokens)


def rotated(subject: Subject) -> Subject:
    """The same function: the residual stream turned (no norm sees it), neurons in another order."""
    generator = torch.Generator().manual_seed(1)
    d_model, d_mlp = subject.config.d_model, subject.config.d_mlp
    turn = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator, dtype=torch.float64))[0]
    weights = residual_map(dict(subject.weights), subject.config, turn, turn.T)
    order = torch.randperm(d_mlp, generator=generator)
    mlp = "blocks.0.mlp"
    for name, dim in (("W_in", 1), ("b_in", 0), ("W_out", 0)):
        weights[f"{mlp}.{name}"] = weights[f"{mlp}.{name}"].index_select(dim, order)
    return subject.with_weights(weights)


def removing(taught: Editable, heads: tuple[tuple[int, bool], ...], specified: Specified) -> Episode:
    """An edit that is exactly a removal of heads (head, to its mean) of the first layer."""
    form = canonical(taught.subject)
    every = removals(form, specified(taught, 4).examples)
    chosen = [v for k, v in every.items() if (k.head, k.to_mean) in heads]
    assert len(chosen) == len(heads)
    old = said(form, taught.tokens, {}).argmax(-1)
    wanted = said(form, taught.tokens, total(chosen)).argmax(-1)
    inside = wanted != old
    assert 5 < int(inside.sum()) < 45
    edit = Edit(
        kind="disable",
        rule="heads",
        wanted=wanted,
        scope=torch.where(inside, IN_SCOPE, FAR),
        pool=inside,
        n_pairs=0,
    )
    return specified(replace(taught, edits=(edit,)), 16)


@pytest.mark.parametrize("head", [0, 1])
def test_the_head_whose_removal_is_the_edit_is_found(taught: Editable, specified: Specified, head: int):
    planted = removing(taught, ((head, False),), specified)
    changes = HeadAblation(together=False).propose(taught.subject, planted.examples)
    assert judge(planted, changes) == 1.0
    assert judge(planted, {}) < 0.01
    write = "blocks.0.attn.W_O"
    torch.testing.assert_close(
        changes[write][head], -taught.subject.weights[write][head], rtol=1e-3, atol=1e-4
    )
    assert float(changes[write][1 - head].abs().max()) < 1e-5


def test_removing_together_serves_the_specification_at_least_as_well(taught: Editable, specified: Specified):
    planted = removing(taught, ((0, False), (1, False)), specified)
    form = canonical(taught.subject)
    both = [v for k, v in removals(form, planted.examples).items() if not k.to_mean]
    best_single = float(merits(form, planted.examples, list(removals(form, planted.examples).values())).max())
    single, together = (
        judge(planted, HeadAblation(together=x).propose(taught.subject, planted.examples))
        for x in (False, True)
    )
    assert float(merits(form, planted.examples, [total(both)])[0]) > best_single
    assert together > single


def test_a_specification_that_no_removal_serves_changes_nothing_together(episode: Episode):
    kept = replace(episode.examples, wanted=episode.edit.wanted[episode.inputs])
    right = replace(kept, wanted=episode.editable.answer[episode.inputs])
    changes = HeadAblation(together=True).propose(episode.editable.subject, right)
    assert changes == {}


def test_procrustes_finds_an_orthogonal_map():
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(20, 6, generator=generator)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    torch.testing.assert_close(procrustes(own, own @ turn), turn, rtol=1e-4, atol=1e-5)
    wider = procrustes(own, own @ turn @ torch.eye(6, 9))
    torch.testing.assert_close(wider, turn @ torch.eye(6, 9), rtol=1e-4, atol=1e-5)


def test_a_case_carried_to_a_turned_copy_does_the_same_there(episode: Episode):
    subject, examples, tokens = episode.editable.subject.double(), episode.examples, episode.editable.tokens
    copy = rotated(subject)
    torch.testing.assert_close(said(copy, tokens, {}), said(subject, tokens, {}))
    own, there = (suffix(one, examples.tokens, examples.position) for one in (subject, copy))
    # a change that writes only where streams are: elsewhere nothing tells how to turn it
    mixed = torch.randn(own.hidden.shape[1], 4, generator=torch.Generator().manual_seed(0)).double()
    change = 0.01 * mixed @ own.stream[:4]
    case = replace(solved_case(episode), end=own, at_writer=change)
    here = said(subject, tokens, own.written(change))
    found = said(copy, tokens, there.written(carried(case, there, examples)))
    torch.testing.assert_close(found, here, rtol=1e-3, atol=1e-3)
    assert (found - said(copy, tokens, there.written(change))).abs().max() > 0.5


def test_the_nearest_case_is_ones_own_and_can_be_left_out(taught: Editable, specified: Specified):
    own, other = specified(taught, 16), specified(replace(taught, lineage="other"), 2)
    cases = Cases()
    cases.solve([own, other])
    first = cases.nearest(taught.subject, own.examples)
    assert [case.lineage for case in first] == ["taught", "other"]
    assert [c.lineage for c in cases.nearest(taught.subject, own.examples, without="taught")] == ["other"]
    assert len(cases.nearest(taught.subject, other.examples)[0].examples.role) == len(other.examples.role)
    solved = list(cases.all)
    cases.solve([own, other])
    assert cases.all == solved
    nearest = Transport(judge, cases, "nearest", carried_nearest)
    nearest.chosen = 0.5
    found = nearest.propose(taught.subject, own.examples)[last_writer(taught.subject.config)]
    torch.testing.assert_close(found, 0.5 * carried(cases.all[0], cases.all[0].end, own.examples))


def test_raw_task_vectors_need_the_shape_of_their_cases(episode: Episode, make_subject: Callable):
    cases = Cases()
    cases.solve([episode])
    vector = Transport(judge, cases, "raw", raw_mean)
    found = vector.propose(episode.editable.subject, episode.examples)
    assert all(torch.equal(found[name], cases.all[0].whole[name]) for name in found)
    assert judge(episode, found) > 0.9
    assert vector.propose(make_subject(0, d_vocab=12), episode.examples) == {}


def test_mend_starts_as_a_gradient_step_and_learns(episode: Episode):
    subject, examples = episode.editable.subject, episode.examples
    start, learnt = Mend(judge, steps=0), Mend(judge, steps=80)
    start.tune([episode])
    learnt.tune([episode])
    first = start.propose(subject, examples)
    slope = gradient(subject, told(subject, examples, keeps=False), names_of(subject.config, "mlps"))
    for name in ("blocks.0.mlp.W_in", "blocks.0.mlp.W_out"):
        torch.testing.assert_close(
            first[name], -start.chosen * FIRST_RATE * slope[name], rtol=1e-3, atol=1e-5
        )
    aims = truth(episode)

    def left(changes) -> float:
        return float(loss(said(subject, episode.editable.tokens, changes), aims))

    assert left(learnt.propose(subject, examples)) < 0.7 * left(first)


def test_mend_of_one_subject_trains_on_its_own_edits_but_none_of_the_tests(taught: Editable):
    held, hopeless = replace(taught.edits[0], test=True), replace(taught.edits[0], kind="infeasible")
    one = replace(taught, edits=(*taught.edits, held, hopeless))
    own = own_episodes(one, 3)
    assert [e.edit is taught.edits[0] for e in own] == [True] * 3
    assert len({tuple(e.inputs.tolist()) for e in own}) == 3
    start, learnt = mend_alone(judge, own, steps=0), mend_alone(judge, own, steps=80)

    def reached(mend: Mend) -> float:
        return sum(judge(e, mend.propose(one.subject, e.examples)) for e in own)

    assert reached(learnt) > reached(start) + 0.1
    with pytest.raises(AssertionError, match="episodes of one subject"):
        mend_alone(judge, [], steps=0)


def test_mend_falls_back_to_a_gradient_step_elsewhere(episode: Episode, make_subject: Callable):
    opponent, step = Mend(judge, steps=0), GradientStep(judge)
    opponent.tune([episode])
    step.tune([episode])
    other = make_subject(0, d_vocab=12)
    found, expected = (one.propose(other, episode.examples) for one in (opponent, step))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_weights_only_sees_no_gauge_but_sees_weights(episode: Episode):
    subject, examples = episode.editable.subject.double(), episode.examples
    heads, neurons = component_features(canonical(subject), examples)
    turned_heads, turned_neurons = component_features(canonical(rotated(subject)), examples)
    torch.testing.assert_close(heads, turned_heads, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(neurons.sum(1), turned_neurons.sum(1), rtol=1e-4, atol=1e-3)
    name = "blocks.0.mlp.W_out"
    changed = subject.with_weights({**subject.weights, name: 2 * subject.weights[name]})
    assert (component_features(canonical(changed), examples)[1] - neurons).abs().max() > 0.1


def test_weights_only_learns_gates(episode: Episode):
    subject, examples = episode.editable.subject, episode.examples
    opponent = WeightsOnly(steps=40)
    before = opponent.propose(subject, examples)
    assert all(float(change.abs().max()) == 0 for change in before.values())
    opponent.tune([episode])
    aims, tokens = truth(episode), episode.editable.tokens
    changes = opponent.propose(subject, examples)
    assert loss(said(subject, tokens, changes), aims) < 0.9 * loss(said(subject, tokens, {}), aims)
    for name in ("blocks.0.attn.W_O", "blocks.0.mlp.W_out"):
        assert float(changes[name].abs().max()) > 1e-4


@pytest.mark.parametrize("make", [lambda: Mend(judge, steps=3), lambda: WeightsOnly(steps=3)])
def test_learned_opponents_are_the_same_whatever_was_drawn_before(episode: Episode, make: Callable):
    subject, examples = episode.editable.subject, episode.examples
    found = []
    for seed in (0, 1):
        opponent = make()
        torch.manual_seed(seed)
        opponent.tune([episode])
        found.append(opponent.propose(subject, examples))
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(seed)), "draws go on"
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
