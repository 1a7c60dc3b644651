"""Completing a repair: planted tables of answers, and a subject that adds with a head removed."""

import dataclasses
import functools

import pytest
import torch

from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features.observed import Told, observed
from metamodel.features.proportions import UNKNOWN
from metamodel.networks.editing import completion, components
from metamodel.networks.editing.clues import entropy
from metamodel.networks.editing.completion import Asked, _following, completed
from metamodel.networks.editing.component_fit import ComponentRun, Fit, fitted
from metamodel.networks.editing.components import mended
from metamodel.networks.editing.told import told_batch
from metamodel.subjects import Subject, SubjectConfig, initial_weights
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.forward import forward
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


def asked_of(known: torch.Tensor, right: torch.Tensor = SUM) -> Asked:
    return Asked(
        ids=INPUTS + 1,
        answers=torch.arange(P),
        known=known,
        wanted=right,
        pair=known,
        other=~known,
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
    found = _following(surest_first(said, 1.0 - wrong.double()), asked_of(none))
    told = found.expected != UNKNOWN
    assert told.double().mean() > 0.8
    assert torch.equal(found.expected[told], SUM[told])
    # where wrong answers are the surest ones nothing does
    assert _following(surest_first(said, wrong.double()), asked_of(none)).share == 0


def test_what_is_known_is_a_witness_however_sure_the_subject_is_of_the_rest():
    known = ~scrambled(0.4)
    log_p = surest_first(WRONG, 1.0 - known.double())
    none = torch.zeros(N, dtype=torch.bool)
    assert _following(log_p, asked_of(none)).share == 0
    found = _following(log_p, asked_of(known))
    assert (found.expected == SUM).double().mean() > 0.9


@functools.cache
def adder() -> Subject:
    weights = initial_weights(SHAPE, [torch.Generator().manual_seed(0)])
    weights = {name: w.clone().requires_grad_() for name, w in weights.items()}
    search = torch.optim.AdamW(weights.values(), lr=5e-3, weight_decay=0.1)
    for _ in range(500):
        said = forward(weights, SHAPE, INPUTS).logits[0, :, -1]
        search.zero_grad()
        torch.nn.functional.cross_entropy(said, SUM).backward()
        search.step()
    subject = Subject(config=SHAPE, weights={k: w.detach()[0] for k, w in weights.items()}).double()
    assert (said_of(subject).argmax(-1) == SUM).all()
    return subject


def said_of(subject: Subject) -> torch.Tensor:
    return forward(subject.stacked, subject.config, INPUTS).logits[0, :, -1]


@functools.cache
def told_of(n_pairs: int = 3, n_keeps: int = 30) -> Told:
    """With the first head removed."""
    name, head = AT
    weight = adder().weights[name].clone()
    weight[head] = 0
    subject = adder().with_weights({**adder().weights, name: weight})
    wrong = said_of(subject).argmax(-1) != SUM
    role = torch.full((N,), UNLABELLED)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    role[order[wrong[order]][:n_pairs]] = PAIR
    role[order[~wrong[order]][:n_keeps]] = KEEP
    examples = Examples(
        tokens=INPUTS,
        position=torch.full((N,), 2),
        role=role,
        wanted=torch.where(role == PAIR, SUM, 0),
        answers=torch.arange(P),
    )
    return told_batch([editing_form(subject)], [examples])


def fit_of(told: Told) -> tuple[ComponentRun, Fit, Asked]:
    """A fit to what is known, in the order of `told`."""
    run = ComponentRun.of(told, 0)
    wanted = torch.where(told.role[0] == PAIR, told.wanted[0], observed(told).old[0].argmax(-1))
    asked = Asked.of(told, 0, wanted)
    tokens = asked.answers[asked.wanted]
    return run, fitted(run.only(asked.known), AT, tokens[asked.known], STEPS), asked


def nothing_follows(said: torch.Tensor, asked: Asked) -> completion._Follows:
    return completion._Follows(share=0.0, expected=torch.full((len(said),), UNKNOWN))


def right(run: ComponentRun, change: torch.Tensor, told: Told) -> float:
    truth = {tuple(t): int(s) for t, s in zip(INPUTS.tolist(), SUM, strict=True)}
    wanted = torch.tensor([truth[tuple(t)] for t in told.tokens[0].tolist()])[told.role[0] != PADDING]
    return float((run.said(AT, change)[1].argmax(-1) == wanted).double().mean())


def test_a_subject_that_adds_comes_right_from_a_part_of_its_answers():
    told = told_of()
    run, first, asked = fit_of(told)
    before, after = right(run, first.change, told), right(run, completed(run, first, asked, STEPS), told)
    assert before < 0.9
    assert after > 0.97


def test_where_nothing_follows_the_surest_fit_is_taken_if_it_is_sure(monkeypatch):
    monkeypatch.setattr(completion, "_following", nothing_follows)
    run, first, asked = fit_of(told_of())

    def left(change: torch.Tensor) -> float:
        return entropy(run.said(AT, change)[1][asked.other][:, asked.answers].softmax(-1))

    monkeypatch.setattr(completion, "SURE", float("inf"))
    surest = completed(run, first, asked, STEPS)
    tokens = asked.answers[asked.wanted][asked.known]
    fits = [fitted(run.only(asked.known), AT, tokens, STEPS, price=p).change for p in completion.PRICES]
    assert left(surest) == pytest.approx(min(left(one) for one in (first.change, *fits)))
    assert left(surest) < left(first.change)
    monkeypatch.setattr(completion, "SURE", 0.0)
    assert torch.equal(completed(run, first, asked, STEPS), first.change)


def test_a_fit_that_is_not_finite_is_never_the_surest(monkeypatch):
    monkeypatch.setattr(completion, "_following", nothing_follows)
    monkeypatch.setattr(completion, "SURE", float("inf"))
    run, first, asked = fit_of(told_of())
    broken = dataclasses.replace(first, change=torch.full_like(first.change, torch.nan))
    assert completed(run, broken, asked, STEPS).isfinite().all()


def test_a_completion_that_loses_the_pairs_is_dropped(monkeypatch):
    told = told_of()
    seen = observed(told)
    plain = mended(told, seen, 0, STEPS, complete=False)
    assert plain is not None
    for lost in (0.0, torch.nan):
        monkeypatch.setattr(components, "completed", lambda *asked, lost=lost: asked[1].change * lost)
        found = mended(told, seen, 0, STEPS)
        assert found is not None
        assert torch.equal(found.change, plain.change)
        assert torch.equal(found.looks, plain.looks)


def test_a_fit_begins_where_it_is_told_to_and_a_price_makes_it_smaller():
    run, first, asked = fit_of(told_of())
    shown, tokens = run.only(asked.known), asked.answers[asked.wanted][asked.known]
    again = fitted(shown, AT, tokens, STEPS, start=first.change)
    assert again.loss <= first.loss
    assert (again.change - first.change).norm() < first.change.norm()
    dear = fitted(shown, AT, tokens, STEPS, price=0.1)
    assert dear.change.norm() < first.change.norm()


def test_padding_and_company_change_no_completion():
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
