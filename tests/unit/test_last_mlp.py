"""Writing in the whole last MLP: it does more than one matrix can, where a behavior as a whole changes."""

import dataclasses

import pytest
import torch

from metamodel.config import InputError
from metamodel.config.edits import CHANCE, KEEP, PAIR
from metamodel.features.observed import Told, observed
from metamodel.networks.editing.editor import Editor, _share_reached
from metamodel.networks.editing.last_mlp import written_in_last_mlp
from metamodel.networks.editing.told import told_batch
from metamodel.networks.editing.writer import Aims
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.forward import forward
from metamodel.subjects.mapped_back import carries_back_w_in, mapped_back
from metamodel.triples.edits import Examples

SHAPE = SubjectConfig(n_layers=1, n_heads=2, d_model=12, d_head=6, d_mlp=16, d_vocab=15, n_ctx=6)
N = 60


def subject_of(**shape) -> Subject:
    config = dataclasses.replace(SHAPE, **shape)
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(0)], init_std=0.5), 0)
    return Subject(config=config, weights=weights, name="subject")


def removal(subject: Subject) -> Told:
    """Half of all inputs, by their first token, are to say nothing; the others are to stay."""
    tokens = torch.randint(15, (N, 5), generator=torch.Generator().manual_seed(1)).unique(dim=0)
    tokens = torch.cat([tokens[tokens[:, 0] < 8], tokens[tokens[:, 0] >= 8]])
    role = torch.where(tokens[:, 0] < 8, PAIR, KEEP)
    examples = Examples(
        tokens=tokens,
        position=torch.full((len(tokens),), 4),
        role=role,
        wanted=torch.where(role == PAIR, CHANCE, 0),
        answers=torch.arange(15),
    )
    return told_batch([editing_form(subject)], [examples])


def network(**parts) -> Editor:
    torch.manual_seed(0)
    parts.setdefault("without", ("rewordings",))
    return Editor(width=48, map_width=16, map_layers=3, n_steps=48, **parts).double()


def aims(told: Told, wanted: torch.Tensor, weight: torch.Tensor) -> Aims:
    """Of what is wanted and weighs so much in the only subject."""
    seen = observed(told)
    return Aims(hidden=seen.hidden, stream=seen.stream, wanted=wanted[None], weight=weight[None])


def said(told: Told, changes: dict[str, torch.Tensor]) -> torch.Tensor:
    weights = {key: w + changes[key] if key in changes else w for key, w in told.weights.items()}
    return forward(weights, told.config, told.tokens).logits[:, :, 4].log_softmax(-1)[0]


@pytest.mark.parametrize("shape", [{}, {"normalization_type": "none", "act_fn": "gelu"}])
def test_it_reaches_what_is_wanted_more_closely_than_the_last_matrix_alone(shape):
    told = removal(subject_of(**shape))
    pair, before = told.role[0] == PAIR, said(told, {})
    left = {}
    for name, steps in (("matrix", 0), ("mlp", 100)):
        edited = network(deep_steps=steps)(told, deep=True)
        after = said(told, edited.changes)
        flat = -after[pair].exp().mul(after[pair]).sum(-1).mean()  # entropy, at most log 15
        kept = -after[~pair].gather(1, before[~pair].argmax(-1)[:, None]).mean()
        left[name] = float((torch.tensor(15.0).log() - flat + kept).detach())
    assert left["mlp"] < 0.5 * left["matrix"]


def test_without_steps_without_an_mlp_and_in_training_nothing_is_written_there():
    told = removal(subject_of())
    plain = network()(told).changes
    assert plain.keys() == network(deep_steps=100)(told).changes.keys() == {"blocks.0.mlp.W_out"}
    deep = network(deep_steps=100)(told, deep=True).changes
    assert deep.keys() == {"blocks.0.mlp.W_in", "blocks.0.mlp.W_out"}
    without = removal(subject_of(d_mlp=0))
    same = network(deep_steps=100)(without, deep=True).changes
    assert same.keys() == {"blocks.0.attn.W_O"}
    assert torch.equal(same["blocks.0.attn.W_O"], network()(without).changes["blocks.0.attn.W_O"])


def facts_of(told: Told) -> Told:
    """Pairs ask for one answer each instead."""
    pair = torch.arange(told.role.shape[1]) % 15
    return dataclasses.replace(told, wanted=torch.where(told.role == PAIR, pair, 0))


def test_what_is_no_whole_behavior_stays_in_the_last_matrix(monkeypatch):
    monkeypatch.setattr("metamodel.networks.editing.editor.LEAST_REACHED", 0.0)
    told = removal(subject_of())
    facts = facts_of(told)
    edited = network(deep_steps=10)(facts, deep=True)
    whole = float(edited.targets.whole.detach())
    assert float(network()(told).targets.whole.detach()) == pytest.approx(1.0)
    assert whole < 0.9
    for bound, deep in ((whole - 0.01, True), (whole + 0.01, False)):
        monkeypatch.setattr("metamodel.networks.editing.editor.WHOLE", bound)
        changes = network(deep_steps=10)(facts, deep=True).changes
        assert ("blocks.0.mlp.W_in" in changes) is deep


def test_what_the_last_matrix_does_not_reach_is_written_in_the_whole_last_mlp(monkeypatch):
    monkeypatch.setattr("metamodel.networks.editing.editor.WHOLE", 2.0)
    facts = facts_of(removal(subject_of()))
    edited = network()(facts)
    pair, after = facts.role[0] == PAIR, said(facts, edited.changes)
    share = float((after.argmax(-1) == facts.wanted[0])[pair].double().mean())
    assert 0 < share < 1
    for bound, deep in ((share - 0.01, False), (share + 0.01, True)):
        monkeypatch.setattr("metamodel.networks.editing.editor.LEAST_REACHED", bound)
        changes = network(deep_steps=100)(facts, deep=True).changes
        assert ("blocks.0.mlp.W_in" in changes) is deep
    assert (said(facts, changes).argmax(-1) == facts.wanted[0])[pair].double().mean() > share


def test_of_what_is_to_be_removed_no_one_answer_is_to_be_reached():
    told = removal(subject_of())
    facts = facts_of(told)
    share = []
    for one in (told, facts):
        seen = observed(one)
        share.append(float(_share_reached(one, network().read(seen), seen.stream)))
    assert share[0] == 1
    assert share[1] < 0.5


def test_what_weighs_nothing_changes_nothing():
    told = removal(subject_of())
    wanted = torch.full((told.role.shape[1], 15), 1 / 15, dtype=torch.float64)
    weight = (told.role[0] == PAIR).double()
    weight = weight / weight.sum()

    def written(wanted: torch.Tensor) -> dict[str, torch.Tensor]:
        return written_in_last_mlp(told, aims(told, wanted, weight), 0, 20).changes

    found = written(wanted)
    other = torch.where(weight[:, None] > 0, wanted, torch.eye(15, dtype=torch.float64)[0])
    again = written(other)
    assert all(torch.equal(found[key], again[key]) for key in found)
    other[0] = torch.eye(15)[3]  # what does weigh
    assert not torch.equal(found["blocks.0.mlp.W_in"], written(other)["blocks.0.mlp.W_in"])


@pytest.mark.parametrize("shape", [{}, {"normalization_type": "none"}, {"act_fn": "gelu"}, {"n_layers": 2}])
def test_the_stream_that_it_says_is_that_of_the_edited_subject(shape):
    """A subject with biases and gains everywhere: what it reads is found from what was observed."""
    subject = subject_of(**shape)
    generator = torch.Generator().manual_seed(3)
    rough = {k: w + 0.1 * torch.randn(w.shape, generator=generator) for k, w in subject.weights.items()}
    told = removal(subject.with_weights(rough))
    weight = torch.full((told.role.shape[1],), 1 / told.role.shape[1], dtype=torch.float64)
    wanted = torch.full((told.role.shape[1], 15), 1 / 15, dtype=torch.float64)
    written = written_in_last_mlp(told, aims(told, wanted, weight), 0, 5)
    weights = {
        k: w + written.changes[k][None] if k in written.changes else w for k, w in told.weights.items()
    }
    name = f"blocks.{told.config.n_layers - 1}.hook_resid_post"
    stream = forward(weights, told.config, told.tokens, taps=[name]).taps[name][0, :, 4]
    torch.testing.assert_close(written.stream, stream, rtol=0, atol=1e-9)
    before = forward(told.weights, told.config, told.tokens, taps=[name]).taps[name][0, :, 4]
    assert (stream - before).abs().max() > 0.1


@pytest.mark.parametrize("n_answers", [2, 3, 15])
def test_a_removal_among_few_answers_is_one_of_a_whole_behavior(n_answers):
    told = removal(subject_of())
    few = dataclasses.replace(told, answer_mask=torch.arange(15)[None] < n_answers)
    assert float(network()(few).targets.whole.detach()) == pytest.approx(1.0)


def test_in_a_batch_only_the_subjects_whose_behavior_as_a_whole_changes_are_written_there(monkeypatch):
    subject = subject_of()
    one = removal(subject)
    other = facts_of(one)
    fields = {
        key: torch.cat([getattr(one, key), getattr(other, key)])
        for key in ("tokens", "position", "role", "wanted", "answers", "answer_mask")
    }
    weights = {key: torch.cat([value, value]) for key, value in one.weights.items()}
    both = dataclasses.replace(one, weights=weights, **fields)
    monkeypatch.setattr("metamodel.networks.editing.editor.WHOLE", 0.95)
    monkeypatch.setattr("metamodel.networks.editing.editor.LEAST_REACHED", 0.0)
    deep, plain = network(deep_steps=20)(both, deep=True).changes, network()(both).changes
    assert deep["blocks.0.mlp.W_in"][0].abs().max() > 1e-3
    assert not deep["blocks.0.mlp.W_in"][1].any()
    assert torch.equal(deep["blocks.0.mlp.W_out"][1], plain["blocks.0.mlp.W_out"][1])
    assert not torch.equal(deep["blocks.0.mlp.W_out"][0], plain["blocks.0.mlp.W_out"][0])


def test_where_the_norm_hides_a_direction_a_change_of_w_in_cannot_be_carried_back():
    subject = subject_of()
    hidden = dict(subject.weights)
    hidden["blocks.0.ln2.w"] = hidden["blocks.0.ln2.w"].clone()
    hidden["blocks.0.ln2.w"][3] = 0
    change = {"blocks.0.mlp.W_in": torch.ones(12, 16)}
    assert carries_back_w_in(subject)
    assert mapped_back(subject, change)
    assert not carries_back_w_in(subject.with_weights(hidden))
    with pytest.raises(InputError, match="in front of a matrix that is edited"):
        mapped_back(subject.with_weights(hidden), change)
    assert not carries_back_w_in(subject_of(d_mlp=0))
