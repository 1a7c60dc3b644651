"""Laws of edits: no gauge moves what an edit does, nothing else is touched, and a real change is seen."""

import copy
import dataclasses
import functools
import math
from collections.abc import Iterator

import pytest
import torch

from metamodel.config import InputError
from metamodel.editing import SubjectEditor
from metamodel.networks.editing.components import mended
from metamodel.networks.editing.told import told_batch
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.canonical import canonical
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.gauge import random_gauge
from metamodel.subjects.mapped_back import EDITABLE, mapped_back
from metamodel.training.editing_checkpoint import EditingCheckpoint, EditorSizes
from metamodel.triples.edit_spec import EditSpec, asked_logits
from metamodel.triples.splits import SPLITS, Splits

TOLERANCE = 1e-3
EXACT = 1e-6
"""Of subjects in double precision."""
SHAPE = SubjectConfig(n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=14, d_vocab=15, n_ctx=6)
SHAPES = {
    "layer norm": {},
    "no norm": {"normalization_type": "none"},
    "gelu": {"act_fn": "gelu"},
    "no norm, gelu": {"normalization_type": "none", "act_fn": "gelu"},
    "attention only": {"d_mlp": 0},
    "no norm, attention only": {"d_mlp": 0, "normalization_type": "none", "n_layers": 1},
    "bidirectional": {"attention_dir": "bidirectional"},
}
INPUTS = torch.randint(15, (24, 5), generator=torch.Generator().manual_seed(7)).unique(dim=0)


def subject_of(seed: int = 0, **shape) -> Subject:
    """Biases and gains everywhere, and answers that differ between inputs."""
    config = dataclasses.replace(SHAPE, **shape)
    generator = torch.Generator().manual_seed(seed)
    init_std = 0.5 if config.has_norm else 0.25  # logits of about the size that trained subjects have
    weights = unstack(initial_weights(config, [generator], init_std=init_std), 0)
    rough = {k: w + 0.1 * torch.randn(w.shape, generator=generator) for k, w in weights.items()}
    return Subject(config=config, weights=rough, name=f"subject-{seed}")


def spec_of(subject: Subject, n_pairs: int = 3) -> EditSpec:
    """Pairs that ask for the answer of the next input."""
    old = answers(subject, INPUTS)
    listed = INPUTS.tolist()
    return EditSpec(
        pairs=[(listed[i], int(old[i + 1])) for i in range(n_pairs)],
        keep=listed[n_pairs : n_pairs + 5],
        unlabelled=listed[n_pairs + 5 :],
    )


def answers(subject: Subject, tokens: torch.Tensor) -> torch.Tensor:
    return said(subject, tokens).argmax(-1)


def said(subject: Subject, tokens: torch.Tensor) -> torch.Tensor:
    return asked_logits(subject, tokens, torch.full((len(tokens),), tokens.shape[1] - 1))


PARTS = {
    "plain": {},
    "whole last MLP": {"deep_steps": 30},
    "one component": {"component_steps": 10},
    "all parts": {"gates": True, "decay": True, "recurrent": 2},
}


@pytest.fixture(scope="module", params=PARTS.values(), ids=PARTS)
def editor(request) -> Iterator[SubjectEditor]:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # whatever the edit, and whatever the subject
        patch.setattr("metamodel.networks.editing.editor.WHOLE", -1.0)
        lenient = functools.partial(mended, left=lambda _: math.inf)
        patch.setattr("metamodel.networks.editing.editor.mended", lenient)
        patch.setattr("metamodel.networks.editing.completion.LEAST_RIGHT", 0.0)
        yield editor_of(**request.param)


def editor_of(**parts) -> SubjectEditor:
    sizes = EditorSizes(width=48, map_width=16, map_layers=3, n_steps=8, **parts)
    network = sizes.network()
    with torch.no_grad():  # untrained control layers are zero: what they see must matter in a law
        network.write.control[-1].weight.normal_(std=0.05)
        if network.gates and network.correct:
            network.gates.decide[-1].weight.normal_(std=0.2)
            network.correct.control[-1].weight.normal_(std=0.05)
    splits = Splits(**dict.fromkeys((*SPLITS, "trained_lineages"), ()))
    return SubjectEditor(
        EditingCheckpoint(editor=network, sizes=sizes, refuse_below=0.0, zoo={}, splits=splits, training={})
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_no_gauge_changes_what_an_edited_subject_says(editor, shape):
    subject, tolerance = subject_of(**shape), TOLERANCE
    sizes = editor.checkpoint.sizes
    if sizes.component_steps or sizes.deep_steps or sizes.recurrent > 1:
        # many steps, and one proposal upon another, multiply the rounding of stored weights: the law is that
        # of exact ones
        subject, tolerance = subject.double(), EXACT
    spec = spec_of(subject)
    proposal = editor.propose(subject, spec)
    repaired = any("put right" in note for note in proposal.notes)
    assert repaired is (sizes.component_steps > 0)
    edited = said(proposal.apply(), INPUTS)
    assert (edited - said(subject, INPUTS)).abs().max() > 0.05, "an edit that does nothing proves nothing"
    for seed in range(3):
        moved = random_gauge(subject, torch.Generator().manual_seed(seed))
        assert any((moved.weights[k] - w).abs().max() > 0.1 for k, w in subject.weights.items())
        other = editor.propose(moved, spec)
        torch.testing.assert_close(said(other.apply(), INPUTS), edited, rtol=0, atol=tolerance)
        assert other.forecast == pytest.approx(proposal.forecast, abs=tolerance)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_real_change_of_the_subject_changes_the_effect_of_its_edit(editor, shape):
    subject = subject_of(**shape)
    spec = spec_of(subject)
    whole = dict(subject.weights)
    whole["blocks.0.attn.W_V"] = whole["blocks.0.attn.W_V"] * 1.1
    changed = subject.with_weights(whole)
    effects = []
    for one in (subject, changed):
        effects.append(said(editor.propose(one, spec).apply(), INPUTS) - said(one, INPUTS))
    assert (effects[0] - effects[1]).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("norm", ["LN", "none"])
@pytest.mark.parametrize("act_fn", ["relu", "gelu"])
@pytest.mark.parametrize("leaf", EDITABLE)
def test_what_is_mapped_back_does_to_raw_weights_what_it_does_to_the_canonical_form(leaf, act_fn, norm):
    subject = subject_of(3, normalization_type=norm, act_fn=act_fn).double()
    form = canonical(subject)
    generator = torch.Generator().manual_seed(1)
    names = [name for name in subject.weights if name.endswith(f".{leaf}")]
    assert names
    for name in names:
        change = 0.3 * torch.randn(form.weights[name].shape, generator=generator, dtype=torch.float64)
        wanted = said(form.with_weights({**form.weights, name: form.weights[name] + change}), INPUTS)
        assert (wanted - said(form, INPUTS)).abs().max() > 1e-2
        carried = mapped_back(subject, {name: change})
        raw = {key: w + carried[key] if key in carried else w for key, w in subject.weights.items()}
        torch.testing.assert_close(said(subject.with_weights(raw), INPUTS), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["LN", "none"])
def test_changes_of_all_leaves_at_once_are_mapped_back_too(norm):
    subject = subject_of(4, normalization_type=norm).double()
    form = canonical(subject)
    generator = torch.Generator().manual_seed(2)
    changes = {
        name: 0.1 * torch.randn(w.shape, generator=generator, dtype=torch.float64)
        for name, w in form.weights.items()
        if name.rsplit(".", 1)[1] in EDITABLE
    }
    wanted = said(
        form.with_weights({k: w + changes[k] if k in changes else w for k, w in form.weights.items()}), INPUTS
    )
    carried = mapped_back(subject, changes)
    raw = {key: w + carried[key] if key in carried else w for key, w in subject.weights.items()}
    torch.testing.assert_close(said(subject.with_weights(raw), INPUTS), wanted, rtol=0, atol=1e-9)


def test_editing_one_subject_changes_no_other_and_not_itself(editor):
    subjects = [subject_of(seed) for seed in range(2)]
    copies = [{k: w.clone() for k, w in one.weights.items()} for one in subjects]
    network = {k: w.clone() for k, w in editor.checkpoint.editor.state_dict().items()}
    alone = editor.propose(subjects[1], spec_of(subjects[1]))
    edited = editor.propose(subjects[0], spec_of(subjects[0])).apply()
    again = editor.propose(subjects[1], spec_of(subjects[1]))
    for weight in edited.weights.values():  # nor does it share memory
        weight.add_(1)
    for one, before in zip(subjects, copies, strict=True):
        assert all(torch.equal(one.weights[k], w) for k, w in before.items())
    assert all(torch.equal(editor.checkpoint.editor.state_dict()[k], w) for k, w in network.items())
    assert all(torch.equal(alone.changes[k], change) for k, change in again.changes.items())


def test_a_head_that_was_removed_can_be_written_in_again():
    """Its values have no scale of their own: no gauge of theirs may matter."""
    subject = subject_of(5).double()
    whole = dict(subject.weights)
    whole["blocks.0.attn.W_O"] = whole["blocks.0.attn.W_O"].clone()
    whole["blocks.0.attn.W_O"][1] = 0
    subject = subject.with_weights(whole)
    form, name = editing_form(subject), "blocks.0.attn.W_O"
    torch.testing.assert_close(said(form, INPUTS), said(subject, INPUTS), rtol=0, atol=1e-9)
    assert float(canonical(subject).weights["blocks.0.attn.W_V"][1].abs().max()) < 1e-9
    values = form.weights["blocks.0.attn.W_V"]
    torch.testing.assert_close(values.mT @ values, torch.eye(4).double().expand(3, -1, -1), rtol=0, atol=1e-9)
    change = torch.zeros_like(form.weights[name])
    change[1] = torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = said(form.with_weights({**form.weights, name: form.weights[name] + change}), INPUTS)
    assert (wanted - said(form, INPUTS)).abs().max() > 0.1
    carried = mapped_back(subject, {name: change}, form=form)
    raw = {key: w + carried[key] if key in carried else w for key, w in subject.weights.items()}
    torch.testing.assert_close(said(subject.with_weights(raw), INPUTS), wanted, rtol=0, atol=1e-8)


def test_a_padded_batch_equals_single_edits(editor):
    subjects = [subject_of(seed) for seed in range(3)]
    specs = [spec_of(one, n) for n, one in zip((1, 3, 7), subjects, strict=True)]
    specs[1] = dataclasses.replace(specs[1], unlabelled=(), answers=tuple(range(15)))
    examples = [spec.examples(one) for spec, one in zip(specs, subjects, strict=True)]
    assert len({len(one.role) for one in examples}) > 1
    assert len({len(one.answers) for one in examples}) > 1
    forms = [editing_form(one) for one in subjects]
    network = copy.deepcopy(editor.checkpoint.editor).double().eval()
    # a search that goes on until the loss gains nothing multiplies the rounding of sums
    near = 1e-5 if network.deep_steps else 1e-9
    with torch.no_grad():
        whole = network(told_batch(forms, examples), deep=True)
        for i in range(3):
            alone = network(told_batch(forms[i : i + 1], examples[i : i + 1]), deep=True)
            for key, change in alone.changes.items():
                torch.testing.assert_close(whole.changes[key][i], change[0], rtol=0, atol=near)
            torch.testing.assert_close(whole.forecast[i], alone.forecast[0], rtol=0, atol=near)


def test_a_batch_of_several_input_lengths_is_refused():
    subject = subject_of()
    short = EditSpec(pairs=[([1, 2], 3)], keep=[[2, 2], [3, 4]], answers=[1, 2]).examples(subject)
    form = editing_form(subject)
    with pytest.raises(InputError, match="expected specifications of one input length, got lengths 2, 5"):
        told_batch([form, form], [short, spec_of(subject).examples(subject)])


def test_the_order_of_pairs_and_of_all_else_changes_nothing(editor):
    subject = subject_of()
    spec = spec_of(subject, 5)
    turned = EditSpec(
        pairs=tuple(spec.pairs)[::-1], keep=tuple(spec.keep)[::-1], unlabelled=tuple(spec.unlabelled)[::-1]
    )
    first, second = editor.propose(subject, spec), editor.propose(subject, turned)
    torch.testing.assert_close(
        said(first.apply(), INPUTS), said(second.apply(), INPUTS), rtol=0, atol=TOLERANCE
    )
    assert second.forecast == pytest.approx(first.forecast, abs=1e-4)
    other = dataclasses.replace(spec, pairs=tuple(spec.pairs)[:4])
    third = editor.propose(subject, other)
    assert (said(first.apply(), INPUTS) - said(third.apply(), INPUTS)).abs().max() > 10 * TOLERANCE
