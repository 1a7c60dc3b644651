"""The forecast as it is fitted last: it finds a planted sign of success, and none where there is none."""

import copy
from dataclasses import replace

import pytest
import torch

from metamodel.config.edits import GOOD, PAIR
from metamodel.editing_forecast import LEAST_REPAIRS, Seen, judge_on, seen_in_use
from metamodel.editing_forecast import fit_forecast as fit
from metamodel.evaluation.editing.episodes import trainable_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.features.observed import observed
from metamodel.networks.editing.demand import N_DEMAND, demand
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.forecast import N_LOOKS, PUT_RIGHT
from metamodel.networks.editing.scope import fitted
from metamodel.networks.editing.targets import TELLS, WAYS
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.mapped_back import mapped_back


def editor() -> Editor:
    torch.manual_seed(0)
    return Editor(width=16, map_width=8, map_layers=1, n_steps=4)


WRITTEN, REPAIRED = 3, PUT_RIGHT + 1
"""Something that edits are judged by, and repairs."""


def looks(n: int, seed: int, *, repaired: bool = False) -> torch.Tensor:
    """In units that differ a thousandfold, and one that never changes."""
    found = torch.randn(n, N_LOOKS, generator=torch.Generator().manual_seed(seed))
    found = found * torch.logspace(-1, 2, N_LOOKS) + 5
    found[:, 0], found[:, PUT_RIGHT] = 1.0, float(repaired)
    return found


def ranked(score: torch.Tensor, good: torch.Tensor) -> float:
    """AUROC, by counting pairs."""
    return float((score[good][:, None] > score[~good]).double().mean())


@pytest.mark.parametrize(("repaired", "sign"), [(False, WRITTEN), (True, REPAIRED)])
def test_a_planted_sign_of_success_is_found_and_forecasts_others(repaired, sign):
    network = editor()
    train, test = looks(600, 1, repaired=repaired), looks(400, 2, repaired=repaired)
    judge_on(network, Seen(looks=train, good=train[:, sign] > 5), seed=0)
    with torch.no_grad():
        assert ranked(network.judge(test), test[:, sign] > 5) > 0.9


def test_what_was_put_right_is_judged_apart_from_all_else():
    network = editor()
    written, repaired = looks(300, 1), looks(300, 2, repaired=True)
    good = torch.cat([written[:, WRITTEN] > 5, repaired[:, REPAIRED] < 5])
    judge_on(network, Seen(looks=torch.cat([written, repaired]), good=good), seed=0)
    with torch.no_grad():
        assert ranked(network.judge(written), good[:300]) > 0.9
        assert ranked(network.judge(repaired), good[300:]) > 0.9
        for one, other in ((written, REPAIRED), (repaired, WRITTEN)):
            moved = one.clone()
            moved[:, other] += 50
            assert torch.equal(network.judge(moved), network.judge(one))


def test_few_repairs_among_many_edits_are_judged_in_units_of_their_own():
    network = editor()
    written, repaired, test = looks(3000, 1), looks(40, 2, repaired=True), looks(200, 3, repaired=True)
    good = torch.cat([written[:, WRITTEN] > 5, repaired[:, REPAIRED] > 5])
    for many in (written, repaired, test):
        many[:, PUT_RIGHT + 1 :] *= many[:, [PUT_RIGHT]]  # there is nothing to say of what was not repaired
    judge_on(network, Seen(looks=torch.cat([written, repaired]), good=good), seed=0)
    with torch.no_grad():
        assert ranked(network.judge(test), test[:, REPAIRED] > 5) > 0.8


@pytest.mark.parametrize("n", [0, 1, LEAST_REPAIRS - 1])
def test_too_few_repairs_are_judged_as_all_else_is(n):
    network = editor()
    written, repaired = looks(600, 1), looks(n, 2, repaired=True)
    found = torch.cat([written, repaired])
    judge_on(network, Seen(looks=found, good=found[:, WRITTEN] > 5), seed=0)
    test = looks(400, 3, repaired=True)
    with torch.no_grad():
        assert ranked(network.judge(test), test[:, WRITTEN] > 5) > 0.9


def test_a_forecast_looks_at_what_it_says_of_a_summary(taught):
    network, one = editor().double(), trainable_episodes(taught)[-1]
    told = told_batch([editing_form(taught.subject)], [one.examples])
    seen = observed(told)
    targets, pair = network.read(seen), one.examples.role == PAIR
    summary = targets.summary[0, list(TELLS)]
    ways = network.read._ways(seen, seen.proportions, fitted(seen.kernels, seen.role), targets.inside)
    torch.testing.assert_close(summary[: len(WAYS)], ways.right[0])
    mean = seen.wanted.sum(1) / pair.sum()
    varied = [pair.sum().log(), mean.square().sum(), seen.wanted.square().sum() / pair.sum()]
    torch.testing.assert_close(summary[2 * len(WAYS) :][:3], torch.stack(varied))
    torch.testing.assert_close(summary[-N_DEMAND:], demand(seen, seen.proportions)[0])


def test_where_nothing_tells_success_the_planted_sign_of_others_is_not_forecast():
    network = editor()
    train, test = looks(600, 1), looks(400, 2)
    shuffled = (train[:, WRITTEN] > 5)[torch.randperm(600, generator=torch.Generator().manual_seed(3))]
    judge_on(network, Seen(looks=train, good=train[:, WRITTEN] > 5), seed=0)
    with torch.no_grad():
        assert ranked(network.judge(test), test[:, WRITTEN] > 5) > 0.9
    judge_on(network, Seen(looks=train, good=shuffled), seed=0)  # nothing is left of the first fit
    with torch.no_grad():
        assert ranked(network.judge(test), test[:, WRITTEN] > 5) == pytest.approx(0.5, abs=0.15)


def test_what_is_not_finite_is_left_out_and_of_one_edit_nothing_is_learnt():
    network = editor()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    one = looks(1, 1)
    judge_on(network, Seen(looks=one, good=torch.tensor([True])), seed=0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    train = looks(100, 1)
    good = train[:, WRITTEN] > 5
    judge_on(network, Seen(looks=train, good=good), seed=0)
    fitted = {key: value.clone() for key, value in network.state_dict().items()}
    poisoned = torch.cat([train, torch.full_like(train[:1], float("nan"))])
    judge_on(network, Seen(looks=poisoned, good=torch.cat([good, good[:1]])), seed=0)
    assert all(torch.equal(value, fitted[key]) for key, value in network.state_dict().items())


def test_it_changes_nothing_else_and_is_the_same_for_one_seed():
    first, second = editor(), editor()
    before = {key: value.clone() for key, value in first.state_dict().items()}
    seen = Seen(looks=looks(50, 1), good=torch.arange(50) % 3 == 0)
    state = torch.get_rng_state()
    judge_on(first, seen, seed=5)
    judge_on(second, seen, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    changed = {key for key, value in first.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {"judge"}
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_of_no_edits_there_is_no_forecast_to_fit():
    network = editor()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fit(network, [], n_edits=10, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_no_edit_that_is_held_out_is_fitted_on(taught):
    rule = taught.edits[0]
    held_out = replace(rule, rule="+2", test=True), replace(rule, rule="2*y", test=True)
    other = replace(rule, kind="infeasible", rule="noise")
    drawn = trainable_episodes(replace(taught, edits=(*held_out, rule, other)))
    assert {(one.edit.kind, one.edit.rule) for one in drawn} == {("rule", "+1"), ("infeasible", "noise")}
    assert [len(one.examples.role[one.examples.role == PAIR]) for one in drawn[1:]] == [1, 2, 4, 16]
    assert trainable_episodes(replace(taught, edits=held_out)) == []


def test_success_is_that_of_the_change_as_it_is_made(taught):
    """An editor that changes nothing never succeeds; what it looks at is what its forecast is made from."""
    network = editor()
    drawn = trainable_episodes(taught)
    seen = seen_in_use(network, drawn)
    assert seen.looks.shape == (len(drawn), N_LOOKS)
    assert seen.good.tolist() == [scores(one, proposed(network, one)).harmonic_mean >= GOOD for one in drawn]
    assert seen.good.any()
    network.write = _Nothing()
    assert not seen_in_use(network, drawn).good.any()


def proposed(network: Editor, one) -> dict[str, torch.Tensor]:
    form = editing_form(one.editable.subject)
    with torch.no_grad():
        changes = (
            copy.deepcopy(network).double().eval()(told_batch([form], [one.examples]), deep=True).changes
        )
    return mapped_back(one.editable.subject, {k: v[0] for k, v in changes.items()}, form=form)


class _Nothing(torch.nn.Module):
    def forward(self, told, seen, targets, summary, more) -> torch.Tensor:
        return seen.hidden.new_zeros(len(seen.hidden), seen.hidden.shape[2], seen.stream.shape[2])
