"""Completing a repair: planted tables of answers, and a subject that adds with a head removed."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from trained_subject import said_of, taught

from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features.observed import Told, in_own_order, observed
from metamodel.features.proportions import UNKNOWN
from metamodel.networks.editing import completion, components
from metamodel.networks.editing.clues import entropy
from metamodel.networks.editing.completion import Candidate, Completed, Known, completed, following
from metamodel.networks.editing.component_fit import ComponentRun, Fit, fitted
from metamodel.networks.editing.components import _undisputed, mended
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.told import told_batch
from metamodel.subjects import Subject, SubjectConfig
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.forward import forward
from metamodel.subjects.gauge import random_gauge
from metamodel.triples.edits import Examples

P = 7
INPUTS = torch.cartesian_prod(torch.arange(P), torch.arange(P, P + 2), torch.arange(P))
"""A number, one of two words, another number."""
SUM = (INPUTS[:, 0] + (2 * (INPUTS[:, 1] - P) - 1) * INPUTS[:, 2]) % P
N = len(INPUTS)
WRONG = (SUM + torch.randint(1, P, (N,), generator=torch.Generator().manual_seed(3))) % P
SHAPE = SubjectConfig(n_layers=1, n_heads=3, d_model=24, d_head=8, d_mlp=48, d_vocab=P + 2, n_ctx=3)
AT = ("blocks.0.attn.W_O", 0)
STEPS = 40


def known_of(shown: torch.Tensor, wanted: torch.Tensor = SUM) -> Known:
    return Known(
        ids=INPUTS + 1, answers=torch.arange(P), wanted=wanted, pair=shown, shown=shown, other=~shown
    )


def surest_first(said: torch.Tensor, sure: torch.Tensor) -> torch.Tensor:
    """Logarithms of probabilities of these answers, the surer the higher `sure`."""
    return (torch.nn.functional.one_hot(said, P) * (1 + sure[:, None])).double().log_softmax(-1)


def scrambled(share: float, seed: int = 0) -> torch.Tensor:
    """Which inputs have a wrong answer."""
    return torch.rand(N, generator=torch.Generator().manual_seed(seed)) < share


def test_what_follows_from_the_surest_answers_is_right_where_the_others_are_not():
    wrong = scrambled(0.45)
    said = torch.where(wrong, WRONG, SUM)
    none = torch.zeros(N, dtype=torch.bool)
    found = following(surest_first(said, 1.0 - wrong.double()), known_of(none))
    told = found.expected != UNKNOWN
    assert told.double().mean() > 0.8
    assert torch.equal(found.expected[told], SUM[told])
    # where wrong answers are the surest ones nothing does
    assert following(surest_first(said, wrong.double()), known_of(none)).reach == 0


def test_what_is_known_is_a_witness_however_sure_the_subject_is_of_the_rest():
    known = ~scrambled(0.4)
    log_p = surest_first(WRONG, 1.0 - known.double())
    none = torch.zeros(N, dtype=torch.bool)
    assert following(log_p, known_of(none)).reach == 0
    found = following(log_p, known_of(known))
    assert (found.expected == SUM).double().mean() > 0.9


@functools.cache
def adder() -> Subject:
    return taught(SHAPE, INPUTS, SUM, seed=0, steps=500, weight_decay=0.1)


@functools.cache
def damaged() -> Subject:
    """With the first head removed."""
    name, head = AT
    weight = adder().weights[name].clone()
    weight[head] = 0
    return adder().with_weights({**adder().weights, name: weight})


@functools.cache
def examples(n_pairs: int = 3, n_keeps: int = 30) -> Examples:
    wrong = said_of(damaged(), INPUTS).argmax(-1) != SUM
    role = torch.full((N,), UNLABELLED)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    role[order[wrong[order]][:n_pairs]] = PAIR
    role[order[~wrong[order]][:n_keeps]] = KEEP
    return Examples(
        tokens=INPUTS,
        position=torch.full((N,), 2),
        role=role,
        wanted=torch.where(role == PAIR, SUM, 0),
        answers=torch.arange(P),
    )


def told_of() -> Told:
    return told_batch([editing_form(damaged())], [examples()])


def shown_tokens(known: Known) -> torch.Tensor:
    """Wanted of what is shown."""
    return known.answers[known.wanted[known.shown]]


def fit_of(told: Told) -> tuple[ComponentRun, Fit, Known]:
    """A fit to what is known, in the order of `told`."""
    run = ComponentRun.of(told, 0)
    wanted = torch.where(told.role[0] == PAIR, told.wanted[0], observed(told).old[0].argmax(-1))
    known = Known.of(told, 0, wanted)
    return run, fitted(run.only(known.shown), AT, shown_tokens(known), STEPS), known


def completed_from(run: ComponentRun, first: Fit, known: Known) -> Candidate:
    return completed(run, AT, Candidate.of(run, AT, first.change, known), known, STEPS).best


def nothing_follows(said: torch.Tensor, known: Known, *, pairs: bool = True) -> completion.Follows:
    return completion.Follows(reach=0.0, expected=torch.full((len(said),), UNKNOWN))


def truth_of(told: Told) -> torch.Tensor:
    """Of all examples, in their own order."""
    truth = {tuple(t): int(s) for t, s in zip(INPUTS.tolist(), SUM, strict=True)}
    return torch.tensor([truth[tuple(t)] for t in told.tokens[0, in_own_order(told, 0)].tolist()])


def right(run: ComponentRun, change: torch.Tensor, told: Told) -> float:
    return float((run.said(AT, change)[1].argmax(-1) == truth_of(told)).double().mean())


def test_a_subject_that_adds_comes_right_from_a_part_of_its_answers():
    told = told_of()
    run, first, known = fit_of(told)
    before, after = right(run, first.change, told), right(run, completed_from(run, first, known).change, told)
    assert before < 0.9
    assert after > 0.97


def left(run: ComponentRun, change: torch.Tensor, known: Known) -> float:
    return entropy(run.said(AT, change)[1][known.other][:, known.answers].softmax(-1))


def test_where_nothing_follows_the_surest_fit_is_taken_if_it_is_sure(monkeypatch):
    monkeypatch.setattr(completion, "following", nothing_follows)
    monkeypatch.setattr(completion, "AGREED_ROUNDS", 0)
    run, first, known = fit_of(told_of())
    monkeypatch.setattr(completion, "SURE", float("inf"))
    surest = completed_from(run, first, known).change
    fits = [
        fitted(
            run.only(known.shown),
            AT,
            shown_tokens(known),
            STEPS,
            price=price,
            varied=run.varied(AT) if by else None,
        )
        for price, by in completion.FITS
    ]
    assert left(run, surest, known) == pytest.approx(
        min(left(run, one, known) for one in (first.change, *(one.change for one in fits)))
    )
    assert left(run, surest, known) < left(run, first.change, known)
    monkeypatch.setattr(completion, "SURE", 0.0)
    assert torch.equal(completed_from(run, first, known).change, first.change)


def test_inputs_of_the_same_tokens_tell_each_other_where_they_agree_and_what_is_shown_tells_them():
    ids = torch.tensor([[1, 2, 5], [2, 1, 5], [1, 3, 5], [3, 1, 5], [1, 4, 5], [4, 5, 1]])
    said = torch.tensor([[0.9, 0.1], [0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.99, 0.01], [0.5, 0.5]])
    shown = torch.tensor([False] * 5 + [True])
    wanted = torch.tensor([1, 1, 1, 1, 1, 1])
    known = Known(ids=ids, answers=torch.arange(2), wanted=wanted, pair=shown, shown=shown, other=~shown)
    assert completion._agreed(said.double(), known).tolist() == [0, 0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    said[4] = torch.tensor([0.1, 0.9])
    assert completion._agreed(said.double(), known).tolist() == [0, 0, UNKNOWN, UNKNOWN, 1, UNKNOWN]


def test_a_fit_is_told_what_is_agreed_on_while_its_pairs_stay_right(monkeypatch):
    monkeypatch.setattr(completion, "following", nothing_follows)
    monkeypatch.setattr(completion, "SURE", 0.0)
    run, first, known = fit_of(told_of())
    monkeypatch.setattr(completion, "_agreed", lambda said, known: truth_of(told_of()))
    told = completed_from(run, first, known).change
    assert right(run, told, told_of()) > right(run, first.change, told_of())
    # pairs lost, or a subject less sure than before
    for unsure in (float("nan"), 1e3):
        lost = dataclasses.replace(Candidate.of(run, AT, told, known), left=unsure)
        monkeypatch.setattr(completion._Repair, "told_too", lambda *_, lost=lost: lost)
        assert torch.equal(completed_from(run, first, known).change, first.change)


def test_a_fit_that_is_not_finite_is_never_the_surest(monkeypatch):
    monkeypatch.setattr(completion, "following", nothing_follows)
    monkeypatch.setattr(completion, "SURE", float("inf"))
    run, first, known = fit_of(told_of())
    broken = dataclasses.replace(first, change=torch.full_like(first.change, torch.nan))
    assert completed_from(run, broken, known).change.isfinite().all()


def more_and_more_follows() -> Callable[[torch.Tensor, Known], completion.Follows]:
    calls = itertools.count(1)
    return lambda said, known: completion.Follows(
        reach=float(next(calls)), expected=torch.zeros(len(said), dtype=torch.long)
    )


@pytest.mark.parametrize("lost", [0.0, torch.nan])
@pytest.mark.parametrize("follows", [None, nothing_follows, more_and_more_follows()])
def test_a_change_that_loses_the_pairs_is_no_completion(lost, follows, monkeypatch):
    told = told_of()
    seen = observed(told)
    plain = mended(told, seen, 0, STEPS, complete=False, sums=False)
    assert plain is not None
    if follows:
        monkeypatch.setattr(completion, "following", follows)
        monkeypatch.setattr(completion, "SURE", float("inf"))

    for name in ("fitted", "told_too"):
        fit = getattr(completion._Repair, name)

        def losing(self, *known, fit=fit, **more) -> Candidate:
            return Candidate.of(self.run, self.at, lost * fit(self, *known, **more).change, self.known)

        monkeypatch.setattr(completion._Repair, name, losing)
    found = mended(told, seen, 0, STEPS, sums=False)
    assert found is not None
    assert torch.equal(found.change, plain.change)


@pytest.mark.parametrize(
    ("left", "reach", "complete", "taken"),
    [(0.0, 2.0, True, True), (0.0, 0.0, True, False), (9.0, 2.0, True, False), (0.0, 2.0, False, False)],
)
def test_a_completed_repair_can_prove_what_was_removed(left, reach, complete, taken, monkeypatch):
    """Where the first fit leaves the subject too unsure: by what follows, and by being sure."""
    told = told_of()
    monkeypatch.setattr(components, "LEAST_LEFT", 0.0)
    monkeypatch.setattr(components, "LEFT", 1e-6)

    def whole(run: ComponentRun, at, first: Candidate, known: Known, n_steps: int) -> Completed:
        best = dataclasses.replace(first, left=left, reach=reach)
        return Completed(best=best, said=known.wanted, undisputed=known.other)

    monkeypatch.setattr(components, "completed", whole)
    found = mended(told, observed(told), 0, STEPS, complete=complete)
    assert (found is not None) is taken
    assert not taken or float(found.looks[4]) == reach


def test_what_other_fits_answer_otherwise_is_disputed():
    told = told_of()
    run, first, known = fit_of(told)
    start = Candidate.of(run, AT, first.change, known)
    done = completed(run, AT, start, known, STEPS)
    says = run.said(AT, done.best.change)[1][:, known.answers].argmax(1)
    assert torch.equal(done.said, says)
    before = observed(told).old[0].argmax(-1)
    of_changed, _ = _undisputed(done, known, before)
    changed = known.other & (says != before)
    assert of_changed == pytest.approx(float(done.undisputed[changed].double().mean()))
    # another fit that gives some of what is changed another answer, and of what is left nothing
    other = first.change * 0.5
    moved = run.said(AT, other)[1][:, known.answers].argmax(1)
    alone = completed(run, AT, dataclasses.replace(start, change=other), known, STEPS)
    assert (moved != alone.said).sum() > 10
    assert not alone.undisputed[moved != alone.said].any()
    none = dataclasses.replace(done, said=before, undisputed=known.shown)
    assert _undisputed(none, known, before) == (1.0, 0.0)


def test_a_fit_begins_where_it_is_told_to_and_its_price_is_that_of_the_whole_change():
    run, first, known = fit_of(told_of())
    shown = run.only(known.shown)
    again = fitted(shown, AT, shown_tokens(known), 1, start=first.change)
    assert again.loss < fitted(shown, AT, shown_tokens(known), 1).loss
    dear = fitted(shown, AT, shown_tokens(known), STEPS, price=1e3, start=first.change)
    assert dear.change.norm() < 0.1 * first.change.norm()


def test_what_is_read_varies_as_its_covariance_says_and_scales_the_price():
    run, _, known = fit_of(told_of())
    read = run.taps["blocks.0.attn.hook_z"][0, :, 2, AT[1]]
    square = run.varied(AT) @ run.varied(AT)
    covariance = read.T.cov()
    torch.testing.assert_close(square, covariance / covariance.diagonal().mean())
    mlp = run.varied(("blocks.0.mlp.W_out", None))
    assert mlp.shape == (SHAPE.d_mlp, SHAPE.d_mlp)
    shown, twice = run.only(known.shown), 2 * torch.eye(SHAPE.d_head, dtype=torch.float64)
    scaled = fitted(shown, AT, shown_tokens(known), 5 * STEPS, price=4e-2, varied=twice)
    plain = fitted(shown, AT, shown_tokens(known), 5 * STEPS, price=1e-2)
    assert scaled.loss == pytest.approx(plain.loss, rel=0.02)
    assert scaled.loss < 0.9 * fitted(shown, AT, shown_tokens(known), 5 * STEPS, price=4e-2).loss


def scripted(monkeypatch, follows: list[tuple[float, torch.Tensor]]) -> list[dict]:
    """What `following` says from call to call; returns what fits from a start were asked."""
    script, asked = iter(follows), []

    def following(said: torch.Tensor, known: Known) -> completion.Follows:
        reach, expected = next(script)
        return completion.Follows(reach=reach, expected=expected)

    def spied(run: ComponentRun, at, wanted: torch.Tensor, n_steps: int, **more) -> Fit:
        fit = fitted(run, at, wanted, n_steps, **more)
        asked.append(
            {"wanted": wanted, "n": len(run.position), "n_steps": n_steps, "fit": fit.change, **more}
        )
        return fit

    # answers that follow by script need not be in reach
    monkeypatch.setattr(completion, "LEAST_RIGHT", 0.0)

    monkeypatch.setattr(completion, "following", following)
    monkeypatch.setattr(completion, "fitted", spied)
    return asked


def test_what_follows_becomes_a_target_until_nothing_new_does_and_never_overrules_what_is_shown(monkeypatch):
    run, first, known = fit_of(told_of())
    none = torch.full((N,), UNKNOWN)
    part = none.clone()
    part[: N // 2] = 0
    every = torch.zeros_like(none)
    asked = scripted(monkeypatch, [(0.5, none), (0.2, none), (0.3, none), (1.5, part)] + 3 * [(2.0, every)])
    found = completed_from(run, first, known)
    tried, rounds = asked[: len(completion.FITS)], asked[len(completion.FITS) :]
    assert [(one["price"], one["varied"] is not None) for one in tried] == list(completion.FITS)
    assert [one["n_steps"] for one in rounds] == [completion.ROUND_STEPS] * 2 + [STEPS]
    # begun from the fit from which most follows, then each from the one before
    assert torch.equal(rounds[0]["start"], tried[2]["fit"])
    assert torch.equal(rounds[1]["start"], rounds[0]["fit"])
    assert torch.equal(rounds[2]["start"], rounds[1]["fit"])
    assert torch.equal(found.change, rounds[2]["fit"])
    for one, expected in zip(rounds, (part, every, every), strict=True):
        taught = known.shown | (expected != UNKNOWN)
        assert one["n"] == int(taught.sum())
        shown = known.shown[taught]
        assert torch.equal(one["wanted"][shown], shown_tokens(known))
        assert (one["wanted"][~shown] == known.answers[0]).all()


@pytest.mark.parametrize("then", [UNKNOWN, 1])
def test_rounds_end_where_nothing_follows_any_more_and_after_the_last(then, monkeypatch):
    run, first, known = fit_of(told_of())
    monkeypatch.setattr(completion, "MOST_ROUNDS", 3)
    states = [torch.full((N,), value) for value in (0, then, 0, 1, 1)]
    reach = [0.0 if value[0] == UNKNOWN else 1.0 for value in states]
    script = [(1.0, states[0])] * (1 + len(completion.FITS)) + list(zip(reach, states, strict=True))[1:]
    asked = scripted(monkeypatch, script)
    completed_from(run, first, known)
    of_rounds = [one for one in asked[len(completion.FITS) :] if one["n_steps"] == completion.ROUND_STEPS]
    assert len(of_rounds) == (1 if then == UNKNOWN else 3)


def test_the_change_from_which_most_follows_is_kept(monkeypatch):
    run, first, known = fit_of(told_of())
    states = [torch.full((N,), value) for value in (0, 1, 2, 2, 3)]
    script = [(1.0, states[0])] * (1 + len(completion.FITS)) + list(
        zip((1.5, 0.5, 0.4), states[1:4], strict=True)
    )
    asked = scripted(monkeypatch, [*script, (1.4, states[4])])
    found = completed_from(run, first, known)
    rounds = asked[len(completion.FITS) :]
    # the last fit, to what followed from the best round, began there and was no better
    assert torch.equal(rounds[-1]["start"], rounds[0]["fit"])
    assert torch.equal(found.change, rounds[0]["fit"])
    assert found.reach == 1.5


def test_from_unrelated_facts_nothing_follows():
    facts = torch.randint(P, (N,), generator=torch.Generator().manual_seed(5))
    none = torch.zeros(N, dtype=torch.bool)
    assert following(surest_first(facts, torch.zeros(N)), known_of(none)).reach == 0
    assert following(surest_first(SUM, torch.zeros(N)), known_of(none)).reach == 2


def test_tokens_behind_the_one_that_is_asked_at_carry_no_information():
    told = told_of()
    before = dataclasses.replace(told, position=torch.ones_like(told.position))
    tokens = before.tokens.clone()
    tokens[:, ::2, 2] = (tokens[:, ::2, 2] + 1) % P
    other = dataclasses.replace(before, tokens=tokens)
    wanted = torch.zeros(N, dtype=torch.long)
    assert torch.equal(Known.of(before, 0, wanted).ids, Known.of(other, 0, wanted).ids)
    assert not torch.equal(Known.of(told, 0, wanted).ids, Known.of(before, 0, wanted).ids)


def test_an_editor_completes_repairs_unless_it_is_made_without():
    told = told_of()

    def change_of(*without: str) -> torch.Tensor:
        torch.manual_seed(0)
        sizes = {"width": 8, "map_width": 8, "map_layers": 1, "n_steps": 4}
        editor = Editor(**sizes, component_steps=STEPS, without=without).double().eval()
        return editor(told, deep=True).mended[0].change

    seen = observed(told)
    found = []
    for without in ((), ("completion",), ("sums",), ("completion", "sums")):
        complete, sums = (part not in without for part in ("completion", "sums"))
        expected = mended(told, seen, 0, STEPS, complete=complete, sums=sums)
        assert expected is not None
        assert torch.equal(change_of(*without), expected.change)
        found.append(expected.change)
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(found, 2))


def said_after(subject: Subject, shown: Examples, **parts: bool) -> torch.Tensor:
    told = told_batch([editing_form(subject)], [shown])
    found = mended(told, observed(told), 0, STEPS, **parts)
    assert found is not None
    weights = {**told.weights, found.name: told.weights[found.name] + found.change[None]}
    return forward(weights, told.config, INPUTS).logits[0, :, -1].softmax(-1)


@pytest.mark.parametrize("sums", [False, True])
def test_neither_a_gauge_nor_the_order_of_examples_moves_a_completed_repair_and_completing_it_does(sums):
    plain = said_after(damaged(), examples(), sums=sums)
    moved = random_gauge(damaged(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(said_after(moved, examples(), sums=sums), plain, rtol=0, atol=1e-4)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    parts = {name: getattr(examples(), name)[order] for name in ("tokens", "position", "role", "wanted")}
    other = dataclasses.replace(examples(), **parts)
    torch.testing.assert_close(said_after(damaged(), other, sums=sums), plain, rtol=0, atol=1e-12)
    assert (said_after(damaged(), examples(), complete=False, sums=False) - plain).abs().max() > 0.1


def test_padding_changes_no_completion():
    told = told_of()
    alone = mended(told, observed(told), 0, STEPS)

    def more(x: torch.Tensor, value: int) -> torch.Tensor:
        return torch.cat([x, x.new_full((1, 5, *x.shape[2:]), value)], dim=1)

    padded = dataclasses.replace(
        told,
        tokens=more(told.tokens, 0),
        position=more(told.position, 0),
        role=more(told.role, PADDING),
        wanted=more(told.wanted, 0),
    )
    found = mended(padded, observed(padded), 0, STEPS)
    assert alone is not None
    assert found is not None
    assert torch.allclose(alone.change, found.change, atol=1e-6)


def probabilities(said: torch.Tensor, sure: torch.Tensor) -> torch.Tensor:
    return surest_first(said, sure).exp()


def test_what_an_adder_has_lost_follows_from_its_other_answers_and_an_edit_contradicts_them():
    """Of planted answers: pairs that say what is right, or another answer, and no pattern at all."""
    pair = torch.arange(N) % 12 == 0
    wrong = pair | scrambled(0.25)
    sure = 1.0 - wrong.double()
    damaged = probabilities(torch.where(wrong, WRONG, SUM), sure)
    known = dataclasses.replace(known_of(pair), shown=pair)
    assert components._lost(damaged, known) is True
    sound = probabilities(SUM, torch.ones(N))
    edit = dataclasses.replace(known, wanted=torch.where(pair, (SUM + 3) % P, SUM))
    assert components._lost(sound, edit) is False
    # one whose surest answers are wrong too contradicts nothing
    none_surer = probabilities(torch.where(pair | scrambled(0.4), WRONG, SUM), torch.ones(N))
    assert components._lost(none_surer, edit) is components._lost(none_surer, known) is None
    muddled = torch.randint(P, (N,), generator=torch.Generator().manual_seed(5))
    assert components._lost(probabilities(muddled, torch.ones(N)), known) is None


def noisy() -> Subject:
    """The adder with noise on the first head, which shows in no size that is zero."""
    name, head = AT
    weight = adder().weights[name].clone()
    part = weight[head]
    part += 1.5 * part.std() * torch.randn(part.shape, generator=torch.Generator().manual_seed(1)).double()
    return adder().with_weights({**adder().weights, name: weight})


def told_of_noisy() -> Told:
    """Three of what it gets wrong are pairs; a third of what it gets right is not shown."""
    wrong = said_of(noisy(), INPUTS).argmax(-1) != SUM
    assert 0.05 < wrong.double().mean() < 0.9
    role = torch.where(wrong & (wrong.cumsum(0) <= 3), PAIR, torch.where(wrong, UNLABELLED, KEEP))
    role = torch.where((role == KEEP) & (torch.arange(N) % 3 == 0), UNLABELLED, role)
    asked = dataclasses.replace(examples(), role=role, wanted=torch.where(role == PAIR, SUM, 0))
    return told_batch([editing_form(noisy())], [asked])


@pytest.mark.parametrize(
    ("lost", "left", "taken"), [(True, 0.0, True), (None, 0.0, False), (False, 9.0, False)]
)
def test_what_an_adder_itself_says_of_pairs_has_the_last_word(lost, left, taken, monkeypatch):
    told = told_of_noisy()
    monkeypatch.setattr(components, "_lost", lambda said, known, **_: lost)
    assert (mended(told, observed(told), 0, STEPS, left=lambda _: left) is not None) is taken


def test_of_components_that_fit_alike_that_one_is_blamed_from_whose_fit_most_follows(monkeypatch):
    told = told_of_noisy()
    monkeypatch.setattr(components, "doubt", lambda run, fit: 0.0)
    whole = Candidate.of
    for favoured in (0, 1, 2):

        def of(run: ComponentRun, at, change, known, favoured=favoured) -> Candidate:
            found = whole(run, at, change, known)
            return dataclasses.replace(found, reach=1.0 if at == (AT[0], favoured) else 0.0)

        monkeypatch.setattr(Candidate, "of", staticmethod(of))
        found = mended(told, observed(told), 0, STEPS, left=lambda _: 1e9, complete=False)
        assert found is not None
        assert found.head == favoured


def without_mlp() -> Told:
    """The adder with its MLP removed: what adds is gone, and nothing follows from what the subject says."""
    name = "blocks.0.mlp.W_out"
    subject = adder().with_weights({**adder().weights, name: torch.zeros_like(adder().weights[name])})
    said = said_of(subject, INPUTS).argmax(-1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    role = torch.full((N,), UNLABELLED)
    role[order[(said != SUM)[order]][:10]] = PAIR
    role[order[(said == SUM)[order]][:10]] = KEEP
    shown = dataclasses.replace(examples(), role=role, wanted=torch.where(role == PAIR, SUM, 0))
    return told_batch([editing_form(subject)], [shown])


def test_what_adds_is_put_right_by_the_sums_that_known_answers_make():
    told = without_mlp()
    seen = observed(told)
    after = {}
    for sums in (False, True):
        found = mended(told, seen, 0, STEPS, sums=sums)
        assert found is not None
        assert (found.name, found.head) == ("blocks.0.mlp.W_out", None)
        weights = {**told.weights, found.name: told.weights[found.name] + found.change[None]}
        said = forward(weights, told.config, INPUTS).logits[0, :, -1].argmax(-1)
        after[sums] = float((said == SUM).double().mean())
    assert after[True] > 0.97
    assert after[False] < 0.9


def test_what_follows_and_is_told_is_no_evidence_that_a_component_is_to_blame():
    """How unsure a repair leaves the subject is measured behind a fit to what is shown alone."""
    told = told_of()
    seen = observed(told)
    plain, more = (mended(told, seen, 0, STEPS, complete=False, sums=sums) for sums in (False, True))
    assert plain is not None
    assert more is not None
    assert not torch.equal(plain.change, more.change)
    assert plain.left == more.left


def test_what_is_shown_counts_as_much_as_all_that_follows():
    run, _, known = fit_of(told_of())
    # what is told elsewhere contradicts what is shown
    wrong = (known.wanted + 1) % P
    expected = torch.where(known.shown, UNKNOWN, wrong)
    fit = known.fitted(run, AT, expected, STEPS)
    alike = fitted(run, AT, known.answers[torch.where(known.shown, known.wanted, wrong)], STEPS)

    def right_of(change: torch.Tensor) -> float:
        said = run.said(AT, change)[1][known.shown].argmax(-1)
        return float((said == shown_tokens(known)).double().mean())

    assert right_of(fit.change) > right_of(alike.change)


def test_pairs_fill_no_share_of_the_surest_where_they_are_left_out(monkeypatch):
    pair = scrambled(0.5, seed=2)
    known = dataclasses.replace(known_of(pair), other=~pair)
    asked: list[torch.Tensor] = []
    read = completion.proportions

    def spied(ids, everything, witnesses, mask):
        asked.append(witnesses[0])
        return read(ids, everything, witnesses, mask)

    monkeypatch.setattr(completion, "proportions", spied)
    monkeypatch.setattr(completion, "SUREST", (0.5,))
    sure = torch.linspace(1, 0, N)
    for pairs in (False, True):
        following(surest_first(SUM, sure), known, pairs=pairs)
    without, with_pairs = (one != UNKNOWN for one in asked)
    assert not (without & pair).any()
    assert int(without.sum()) == round(0.5 * int((~pair).sum()))
    assert (with_pairs & pair).sum() == pair.sum()
    assert int(with_pairs.sum()) == round(0.5 * N)


def test_a_component_whose_fit_loses_the_pairs_is_not_to_blame_however_much_follows(monkeypatch):
    told = told_of()
    seen = observed(told)
    expected = mended(told, seen, 0, STEPS, complete=False, sums=False)
    assert expected is not None
    monkeypatch.setattr(components, "removed", lambda run, at: False)
    monkeypatch.setattr(
        components, "suspects", lambda run: [AT, *((AT[0], head) for head in range(1, SHAPE.n_heads))]
    )
    of = Candidate.of

    def misled(run: ComponentRun, at, change: torch.Tensor, known: Known) -> Candidate:
        one = of(run, at, change, known)
        return one if at == AT else dataclasses.replace(one, left=torch.nan, reach=99.0)

    monkeypatch.setattr(Candidate, "of", misled)
    found = mended(told, seen, 0, STEPS, complete=False, sums=False, left=lambda _: float("inf"))
    assert found is not None
    assert (found.name, found.head) == AT
    assert torch.equal(found.change, expected.change)
