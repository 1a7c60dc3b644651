"""Putting a damaged component right: it is found, what was not shown comes right, nothing else is touched."""

import dataclasses
import functools
import math

import pytest
import torch
from trained_subject import said_of, taught

from metamodel.config.edits import CHANCE, KEEP, PADDING, PAIR, UNLABELLED
from metamodel.editing import SubjectEditor
from metamodel.features.observed import Told, observed
from metamodel.networks.editing import components, suspects
from metamodel.networks.editing.clues import LEFT, MOST_ODD, Clues, clues, most_left
from metamodel.networks.editing.completion import Completed, Known
from metamodel.networks.editing.component_fit import At, ComponentRun, fitted
from metamodel.networks.editing.components import Mended, mended
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.forecast import varied
from metamodel.networks.editing.told import told_batch
from metamodel.subjects import Subject, SubjectConfig
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.forward import forward
from metamodel.training.editing_checkpoint import EditingCheckpoint, EditorSizes
from metamodel.triples.edits import Examples
from metamodel.triples.splits import SPLITS, Splits

SHAPE = SubjectConfig(n_layers=2, n_heads=3, d_model=24, d_head=8, d_mlp=32, d_vocab=24, n_ctx=4)
STEPS, N_ANSWERS = 30, 8
TOKENS = torch.cartesian_prod(
    torch.tensor([0]), torch.arange(10), torch.arange(10, 20), torch.tensor([20, 21])
)
"""A key, another token, and one of two words that say which of the two is asked for."""
N = len(TOKENS)
TABLE = torch.randint(N_ANSWERS, (20,), generator=torch.Generator().manual_seed(4))
RIGHT = TABLE[torch.where(TOKENS[:, 3] == 20, TOKENS[:, 1], TOKENS[:, 2])]


@functools.cache
def trained(**shape) -> Subject:
    """A subject that learned the table, and is sure of it."""
    return taught(dataclasses.replace(SHAPE, **shape), TOKENS, RIGHT, seed=1, steps=400, weight_decay=0.01)


def damaged(leaf: str, noise: float = 0.0, **shape) -> tuple[Subject, At]:
    """It with the component damaged of whose kind it hurts most, short of all."""
    whole = trained(**shape)
    layers = range(whole.config.n_layers)
    heads = range(whole.config.n_heads) if leaf == "attn.W_O" else (None,)
    found = []
    for at in [(f"blocks.{layer}.{leaf}", head) for layer in layers for head in heads]:
        subject = hurt(whole, at, noise)
        wrong = float((said_of(subject, TOKENS).argmax(-1) != RIGHT).double().mean())
        found.append((wrong if wrong < 0.8 else 0.0, at, subject))
    wrong, at, subject = max(found, key=lambda one: one[0])
    assert wrong > 0.1
    return subject, at


def hurt(subject: Subject, at: At, noise: float = 0.0) -> Subject:
    """A component removed, or with noise of so many times its own size added."""
    name, head = at
    weight = subject.weights[name].clone()
    part = weight if head is None else weight[head]
    added = torch.randn(part.shape, generator=torch.Generator().manual_seed(2)).double() * part.std() * noise
    part.copy_(part + added if noise else torch.zeros_like(part))
    return subject.with_weights({**subject.weights, name: weight})


def examples_of(subject: Subject, right: torch.Tensor, n_pairs: int = 12, n_keeps: int = 50) -> Examples:
    """Pairs where the subject errs, inputs to keep where it does not, and all others."""
    wrong = said_of(subject, TOKENS).argmax(-1) != right
    first = torch.cat([wrong.nonzero()[:n_pairs, 0], (~wrong).nonzero()[:n_keeps, 0]])
    rest = torch.ones(N, dtype=torch.bool)
    rest[first] = False
    order = torch.cat([first, rest.nonzero()[:, 0]])
    role = torch.full((N,), UNLABELLED)
    n_pairs = min(n_pairs, int(wrong.sum()))
    role[:n_pairs], role[n_pairs : n_pairs + n_keeps] = PAIR, KEEP
    return Examples(
        tokens=TOKENS[order],
        position=torch.full((N,), 3),
        role=role,
        wanted=torch.where(role == PAIR, right[order], 0),
        answers=torch.arange(N_ANSWERS),
    )


def told_of(subject: Subject, right: torch.Tensor, **counts) -> Told:
    return told_batch([editing_form(subject)], [examples_of(subject, right, **counts)])


def mended_of(told: Told, n_steps: int = STEPS, **asked) -> Mended | None:
    return mended(told, observed(told), 0, n_steps, **asked)


def right_after(told: Told, one: Mended, right: torch.Tensor) -> torch.Tensor:
    """Which of the inputs without an answer come right with it."""
    weights = {**told.weights, one.name: told.weights[one.name] + one.change[None]}
    other = told.role[0] == UNLABELLED
    said = forward(weights, told.config, told.tokens).logits[0, other, -1].argmax(-1)
    truth = {tuple(t.tolist()): int(r) for t, r in zip(TOKENS, right, strict=True)}
    wanted = torch.tensor([truth[tuple(t.tolist())] for t in told.tokens[0, other]])
    return said == wanted


DAMAGE = {
    "a head removed": ("attn.W_O", 0.0, {}),
    "a head scrambled": ("attn.W_O", 4.0, {}),
    "an MLP removed": ("mlp.W_out", 0.0, {"n_layers": 1, "normalization_type": "none"}),
    "an MLP scrambled": ("mlp.W_out", 4.0, {"n_layers": 1}),
    "without MLPs": ("attn.W_O", 0.0, {"d_mlp": 0}),
    "without norms": ("attn.W_O", 0.0, {"normalization_type": "none"}),
    "one layer": ("attn.W_O", 0.0, {"n_layers": 1}),
}


@pytest.mark.parametrize(("leaf", "noise", "shape"), DAMAGE.values(), ids=DAMAGE)
def test_the_component_that_was_damaged_is_found_and_what_was_not_shown_comes_right(leaf, noise, shape):
    subject, at = damaged(leaf, noise, **shape)
    told = told_of(subject, RIGHT)
    found = mended_of(told)
    assert found is not None
    assert (found.name, found.head) == at
    before = (said_of(subject, TOKENS).argmax(-1) == RIGHT).double().mean()
    after = right_after(told, found, RIGHT).double().mean()
    assert after > before + 0.5 * (1 - before)
    if found.head is not None:
        others = torch.arange(SHAPE.n_heads) != found.head
        assert float(found.change[others].abs().max()) == 0


def unsure() -> Subject:
    """As sound as it was trained, and not certain of what it says."""
    weights = trained().weights
    return trained().with_weights({**weights, "unembed.W_U": 0.7 * weights["unembed.W_U"]})


def test_where_another_answer_is_asked_for_nothing_is_damaged():
    """Of a sound subject, and of one that is damaged: no repair explains these pairs."""
    other = torch.where(torch.arange(N) % 16 == 0, (RIGHT + 3) % N_ANSWERS, RIGHT)
    told = told_of(unsure(), other)
    assert mended_of(told, 100) is None
    # nothing but the certainty of what was not shown tells it
    assert mended_of(told, 100, left=lambda _: 99.0) is not None
    told = told_of(damaged("attn.W_O")[0], RIGHT)
    assert mended_of(told) is not None
    muddled = torch.randint(N_ANSWERS, told.wanted.shape, generator=torch.Generator().manual_seed(0))
    assert mended_of(dataclasses.replace(told, wanted=torch.where(told.role == PAIR, muddled, 0))) is None


def test_a_subject_that_was_edited_is_not_taken_for_damaged():
    """Edits leave it unsure, and a change of one component may make the next one come right: nothing but the
    certainty that it leaves tells it from a repair."""
    subject, editor = trained(), editor_of()

    def with_other_answer(place: int) -> torch.Tensor:
        says = said_of(subject, TOKENS).argmax(-1)
        return torch.where(torch.arange(N) == place, (says + 3) % N_ANSWERS, says)

    for place in (3, 57, 111, 150):
        examples = examples_of(subject, with_other_answer(place), n_pairs=1)
        subject = editor.propose_for(subject, examples, repair=False).apply()
    right = with_other_answer(33)
    told = told_of(subject, right, n_pairs=1)
    assert mended_of(told, 100) is None
    assert mended_of(told, 100, left=lambda _: 99.0) is not None


def test_the_more_speaks_for_damage_the_less_is_asked_of_a_repair():
    subject, (name, head) = damaged("attn.W_O", 4.0)
    told = told_of(subject, RIGHT)
    found = mended_of(told)
    assert found is not None
    oddness = suspects.oddness(ComponentRun.of(told, 0), (name, head))
    assert found.clues.odd == min(oddness, MOST_ODD) > 0.5
    said = said_of(subject, told.tokens[0])[:, :N_ANSWERS].softmax(-1)
    entropies = [float(torch.special.entr(said[told.role[0] == r]).sum(-1).mean()) for r in (PAIR, KEEP)]
    ratio = (entropies[0] + 0.01) / (entropies[1] + 0.01)
    assert found.clues.pairs == pytest.approx(math.log(ratio), abs=1e-6)
    nothing = Clues(pairs=-0.3, odd=0.0)
    assert 0 < most_left(nothing) < 1
    for clue in Clues._fields:
        more = nothing._replace(**{clue: getattr(nothing, clue) + 0.01})
        assert most_left(nothing) < most_left(more) <= LEFT
        assert most_left(more._replace(**{clue: 20.0})) == LEFT
    assert mended_of(told, left=lambda _: 1.001 * found.left) is not None
    assert mended_of(told, left=lambda _: 0.999 * found.left) is None


def test_without_inputs_to_keep_pairs_are_compared_with_none():
    told = told_of(damaged("attn.W_O")[0], RIGHT)
    alone = dataclasses.replace(told, role=torch.where(told.role == KEEP, UNLABELLED, told.role))
    assert clues(alone, observed(alone), 0, 0.0).pairs == 0
    assert clues(told, observed(told), 0, 0.0).pairs > 0.5


def test_a_size_out_of_all_proportion_says_no_more():
    told = told_of(trained(), (RIGHT + 3) % N_ANSWERS)
    assert clues(told, observed(told), 0, 5.0).odd == MOST_ODD == 1
    assert clues(told, observed(told), 0, 0.5).odd == 0.5


def test_it_is_not_looked_for_in_a_removal_without_other_inputs_or_where_the_subject_is_sure():
    told = told_of(damaged("attn.W_O")[0], RIGHT)
    assert mended_of(told) is not None
    assert mended_of(dataclasses.replace(told, wanted=torch.full_like(told.wanted, CHANCE))) is None
    alone = torch.where(told.role == UNLABELLED, PADDING, told.role)
    assert mended_of(dataclasses.replace(told, role=alone)) is None
    sure = {**told.weights, "unembed.W_U": 1e3 * told.weights["unembed.W_U"]}
    assert mended_of(dataclasses.replace(told, weights=sure)) is None


def test_pairs_that_are_answered_as_wanted_ask_for_no_repair():
    subject, _ = damaged("attn.W_O")
    told = told_of(subject, RIGHT)
    says = said_of(subject, told.tokens[0]).argmax(-1)[None]
    assert mended_of(dataclasses.replace(told, wanted=torch.where(told.role == PAIR, says, 0))) is None


def fits_of(monkeypatch) -> list[At]:
    """Of which components anything is fitted, from then on, where no repair is completed."""
    found: list[At] = []
    fit = Known.fitted
    monkeypatch.setattr(
        Known, "fitted", lambda self, run, at, *more: found.append(at) or fit(self, run, at, *more)
    )

    def uncompleted(run, at, first, known, n_steps) -> Completed:
        said = run.said(at, first.change)[1][:, known.answers].argmax(1)
        return Completed(best=first, said=said, undisputed=said == said)

    monkeypatch.setattr(components, "completed", uncompleted)
    return found


@pytest.mark.parametrize("scale", [0.0, 1e-5])
def test_a_component_that_was_removed_is_the_only_suspect(scale, monkeypatch):
    """One that is tiny counts as removed; one that is small does not."""
    fitted = fits_of(monkeypatch)
    whole, (_, at) = trained(), damaged("attn.W_O")
    name, head = at
    for factor, n in ((scale, 1), (0.2, SHAPE.n_layers * (SHAPE.n_heads + 1))):
        fitted.clear()
        weight = whole.weights[name].clone()
        weight[head] *= factor
        told = told_of(whole.with_weights({**whole.weights, name: weight}), RIGHT)
        wanted = torch.where(told.role == PAIR, told.wanted, 0)
        wanted[0, 0] = (said_of(whole, told.tokens[0, :1]).argmax(-1) + 1) % N_ANSWERS
        role = told.role.clone()
        role[0, 0] = PAIR
        unsure = {**told.weights, "unembed.W_U": 0.5 * told.weights["unembed.W_U"]}
        mended_of(dataclasses.replace(told, wanted=wanted, role=role, weights=unsure))
        assert len(fitted) == n


def test_all_compete_where_any_could_be_a_repair_and_nothing_is_fitted_where_none_could(monkeypatch):
    fitted = fits_of(monkeypatch)
    told = told_of(damaged("attn.W_O", 4.0)[0], RIGHT)
    assert mended_of(told, 3, left=lambda of: 1e-4 if of.odd == 0 else 0.0) is None
    assert not fitted
    mended_of(told, 3, left=lambda of: 1.0 if of.odd > 0 else 0.0)
    assert len(fitted) == SHAPE.n_layers * (SHAPE.n_heads + 1)


def test_a_norm_out_of_line_speaks_for_a_head_and_its_many_weights_against_an_mlp():
    told = told_of(damaged("attn.W_O", 4.0)[0], RIGHT)
    ran = ComponentRun.of(told, 0)
    name, head = damaged("attn.W_O", 4.0)[1]
    others = [(name, h) for h in range(SHAPE.n_heads) if h != head]
    odd = {at: suspects.oddness(ran, at) for at in suspects.suspects(ran)}
    assert odd[name, head] > max(odd[at] for at in others)
    mlp = ("blocks.0.mlp.W_out", None)
    assert odd[mlp] == 0
    known = told.role[0] != UNLABELLED
    for at, added in (((name, head), -odd[name, head]), (mlp, suspects.MALUS)):
        fit = fitted(ran.only(known), at, told.wanted[0, known], 3)
        assert suspects.doubt(ran, fit) == pytest.approx(math.log(fit.loss + suspects.LEAST_LOSS) + added)
    assert suspects.doubt(ran, dataclasses.replace(fit, loss=math.nan)) == math.inf


def test_where_all_components_were_removed_nothing_fails():
    whole = trained(d_mlp=0)
    none = {k: torch.zeros_like(w) if k.endswith("W_O") else w for k, w in whole.weights.items()}
    assert mended_of(told_of(whole.with_weights(none), RIGHT)) is None


def test_a_subject_without_mlps_is_repaired_by_an_editor_too():
    subject, (name, head) = damaged("attn.W_O", d_mlp=0)
    notes = editor_of().propose_for(subject, examples_of(subject, RIGHT)).notes
    assert f"taken for damaged and put right: head {head} of {name}" in notes


def test_a_forecast_is_told_how_many_different_answers_pairs_have():
    told = told_of(trained(), (RIGHT + 3) % N_ANSWERS, n_pairs=4)
    said = said_of(trained(), told.tokens[0, :4]).argmax(-1)
    before, wanted, among = varied(observed(told))[0].expm1().round().tolist()
    assert (before, wanted, among) == (len(said.unique()), len(((said + 3) % N_ANSWERS).unique()), N_ANSWERS)


def test_the_stream_that_it_says_is_that_of_the_edited_subject_also_with_padding():
    told = told_of(damaged("attn.W_O")[0], RIGHT)
    role = told.role.clone()
    role[0, -7:] = PADDING
    name = f"blocks.{SHAPE.n_layers - 1}.hook_resid_post"
    for one in (told, dataclasses.replace(told, role=role)):
        found = mended_of(one)
        assert found is not None
        weights = {**one.weights, found.name: one.weights[found.name] + found.change[None]}
        stream = forward(weights, one.config, one.tokens, taps=[name]).taps[name][0, :, 3]
        before = forward(one.weights, one.config, one.tokens, taps=[name]).taps[name][0, :, 3]
        real = one.role[0] != PADDING
        torch.testing.assert_close(found.stream[real], stream[real], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.stream[~real], before[~real], rtol=0, atol=1e-9)
        assert (stream - before).abs().max() > 0.1


def network(**parts) -> Editor:
    torch.manual_seed(0)
    return Editor(width=16, map_width=8, map_layers=1, n_steps=8, **parts).double().eval()


def editor_of() -> SubjectEditor:
    sizes = EditorSizes(width=16, map_width=8, map_layers=1, n_steps=8, component_steps=STEPS)
    splits = Splits(**dict.fromkeys((*SPLITS, "trained_lineages"), ()))
    torch.manual_seed(0)
    network = sizes.network()
    return SubjectEditor(
        EditingCheckpoint(editor=network, sizes=sizes, refuse_below=0.0, zoo={}, splits=splits, training={})
    )


def test_an_editor_moves_to_a_device_and_its_checkpoint_stays():
    editor = editor_of()
    assert editor.to("meta") is editor
    parts = [*editor._network.parameters(), *editor._network.buffers()]
    assert {one.device.type for one in parts} == {"meta"}
    assert {one.device.type for one in editor.checkpoint.editor.parameters()} == {"cpu"}


def test_a_repair_is_all_that_an_editor_writes_and_only_in_use():
    subject, at = damaged("attn.W_O")
    told = told_of(subject, RIGHT)
    with torch.no_grad():
        plain = network()(told)
        for edited in (network(component_steps=STEPS)(told), network()(told, deep=True)):
            assert edited.changes.keys() == plain.changes.keys()
            assert not edited.mended
        edited = network(component_steps=STEPS)(told, deep=True)
    assert edited.mended.keys() == {0}
    assert [name for name, x in edited.changes.items() if float(x.abs().max()) > 0] == [at[0]]
    found = mended_of(told)
    assert found is not None
    assert torch.equal(edited.changes[at[0]][0], found.change)
    assert (edited.looks - plain.looks).abs().max() > 0.1


def test_a_proposal_names_the_component_and_changes_no_other_weight():
    subject, (name, head) = damaged("attn.W_O")
    editor = editor_of()
    proposal = editor.propose_for(subject, examples_of(subject, RIGHT))
    assert f"taken for damaged and put right: head {head} of {name}" in proposal.notes
    assert set(proposal.changes) == {name, name.replace("W_O", "b_O")}
    plain = editor.propose_for(subject, examples_of(subject, RIGHT), repair=False)
    assert not any("damaged" in note for note in plain.notes)
    assert name not in plain.changes
    other = torch.where(torch.arange(N) % 16 == 0, (RIGHT + 3) % N_ANSWERS, RIGHT)
    sound = editor.propose_for(unsure(), examples_of(unsure(), other))
    assert not any("damaged" in note for note in sound.notes)


def test_in_a_batch_each_subject_is_edited_as_if_alone():
    """A damaged one beside a sound one that is asked for other answers."""
    sick, _ = damaged("attn.W_O")
    other = torch.where(torch.arange(N) % 16 == 0, (RIGHT + 3) % N_ANSWERS, RIGHT)
    forms = [editing_form(sick), editing_form(unsure())]
    examples = [examples_of(sick, RIGHT), examples_of(unsure(), other, n_pairs=5)]
    editor = network(component_steps=STEPS, deep_steps=0)
    with torch.no_grad():
        both = editor(told_batch(forms, examples), deep=True)
        singles = [editor(told_batch([f], [e]), deep=True) for f, e in zip(forms, examples, strict=True)]
    assert both.mended.keys() == {0}
    for i, single in enumerate(singles):
        for name, change in both.changes.items():
            alone = single.changes.get(name, torch.zeros_like(change[:1]))[0]
            torch.testing.assert_close(change[i], alone, rtol=0, atol=1e-6)
        assert float(both.forecast[i].detach()) == pytest.approx(float(single.forecast[0]), abs=1e-6)
