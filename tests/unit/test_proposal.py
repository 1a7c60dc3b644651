"""A proposal says what it changes, is applied as often as one likes and never in place, or refuses."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import metamodel
from metamodel.config import InputError
from metamodel.editing import UNBOUNDED, SubjectEditor
from metamodel.proposal import Proposal
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.canonical import UNSPANNED
from metamodel.training.editing_checkpoint import (
    CONFIG,
    MODEL,
    EditingCheckpoint,
    EditorSizes,
    load_editing_checkpoint,
    save,
)
from metamodel.triples.edit_spec import EditSpec, asked_logits
from metamodel.triples.edits import Examples
from metamodel.triples.splits import SPLITS, Splits

SHAPE = SubjectConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=10, d_vocab=9, n_ctx=5)
SPEC = EditSpec(pairs=[([1, 2, 3], 4), ([2, 2, 3], 5)], keep=[[3, 2, 3], [4, 1, 1]], unlabelled=[[7, 2]])


def subject(seed: int = 0, **changes) -> Subject:
    config = SubjectConfig.from_dict(SHAPE.to_dict() | changes)
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator], init_std=0.4), 0)
    rough = {k: w + 0.1 * torch.randn(w.shape, generator=generator) for k, w in weights.items()}
    rough["unembed.b_U"] = torch.zeros(config.d_vocab)
    rough["embed.W_E"][0, 0] = -0.0
    return Subject(config=config, weights=rough, name="one")


def checkpoint(refuse_below: float = 0.0) -> EditingCheckpoint:
    torch.manual_seed(0)
    sizes = EditorSizes(width=16, map_width=8, map_layers=2, n_steps=4)
    names = {name: (name,) for name in SPLITS}
    return EditingCheckpoint(
        editor=sizes.network(),
        sizes=sizes,
        refuse_below=refuse_below,
        zoo={"name": "edits", "folder": "data/edits", "fingerprint": "0" * 16},
        splits=Splits(**names, trained_lineages=("train",)),
        training={"seed": 0},
    )


@pytest.fixture(scope="module")
def editor() -> SubjectEditor:
    return SubjectEditor(checkpoint())


@pytest.fixture(scope="module")
def proposal(editor) -> Proposal:
    return editor.propose(subject(), SPEC)


@pytest.fixture
def folder(tmp_path):
    save(checkpoint(), tmp_path / "editor")
    return tmp_path / "editor"


def made(changes: dict[str, torch.Tensor], *, one: Subject | None = None, **more) -> Proposal:
    """A proposal by hand."""
    one = one or subject()
    return Proposal(
        subject=one,
        examples=SPEC.examples(one),
        changes=changes,
        **({"forecast": 0.9, "refuse_below": 0.5} | more),
    )


def bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.view(torch.int32)


def test_alpha_zero_is_the_subject_bit_by_bit(proposal):
    before, after = proposal.subject, proposal.apply(0.0)
    assert bits(before.weights["embed.W_E"])[0, 0] == -(2**31)  # minus zero, which adding zero would lose
    whole = dict.fromkeys(before.weights)
    assert all(torch.equal(bits(after.weights[key]), bits(before.weights[key])) for key in whole)
    loud = made({key: torch.ones_like(w) for key, w in before.weights.items()}, one=before).apply(0.0)
    assert all(torch.equal(bits(loud.weights[key]), bits(before.weights[key])) for key in whole)
    assert not torch.equal(
        proposal.apply().weights["blocks.1.mlp.W_out"], before.weights["blocks.1.mlp.W_out"]
    )


@pytest.mark.parametrize("alpha", [1.0, -1.0, 0.5, 3.0])
def test_alpha_is_a_factor(proposal, alpha):
    key = "blocks.1.mlp.W_out"
    edited = proposal.apply(alpha)
    wanted = proposal.subject.weights[key] + alpha * proposal.changes[key]
    torch.testing.assert_close(edited.weights[key], wanted)
    untouched = set(proposal.subject.weights) - set(proposal.changes)
    assert all(torch.equal(edited.weights[k], proposal.subject.weights[k]) for k in untouched)


def test_nothing_is_done_in_place(editor):
    one = subject()
    before = {key: weight.clone() for key, weight in one.weights.items()}
    proposal = editor.propose(one, SPEC)
    edited = proposal.apply()
    proposal.preview()
    for weight in edited.weights.values():
        weight.fill_(7)
    assert all(torch.equal(one.weights[key], weight) for key, weight in before.items())
    assert torch.equal(proposal.apply(0.0).weights["embed.W_E"], before["embed.W_E"])


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
def test_an_alpha_that_is_not_finite_is_refused(proposal, alpha):
    for use in (proposal.apply, proposal.preview):
        with pytest.raises(InputError, match=f"alpha: expected a finite number, got {alpha}. Use 1 for"):
            use(alpha)


def test_an_alpha_that_overflows_is_refused(proposal):
    with pytest.raises(InputError, match=r"alpha: expected a factor with which blocks\.1\.mlp\.W_out stays"):
        proposal.apply(1e300)


def test_changes_that_are_not_finite_unknown_or_misshapen_are_refused():
    key = "blocks.0.mlp.b_out"
    with pytest.raises(InputError, match=rf"one: change of {key}: expected finite numbers, got nan or inf"):
        made({key: torch.tensor([math.nan] * 8)})
    with pytest.raises(InputError, match=rf"one: change of {key}: expected shape \(8,\), got \(7,\)"):
        made({key: torch.zeros(7)})
    with pytest.raises(
        InputError, match=r"one: change of W: expected a weight of the subject, got another name"
    ):
        made({"W": torch.zeros(7)})


def test_factors_that_are_not_finite_are_refused():
    broken = SubjectEditor(checkpoint())
    with torch.no_grad():
        broken._network.write.control[-1].bias.fill_(1e30)
    with pytest.raises(InputError, match=r"one: proposed change: expected finite factors, got nan or inf"):
        broken.propose(subject(), SPEC)


def test_what_the_editor_forecasts_to_fail_is_refused_unless_forced():
    weak = made({"blocks.0.mlp.b_out": torch.ones(8)}, forecast=0.2)
    assert weak.refused
    assert not made({}, forecast=0.5).refused
    line = (
        "one: proposal: expected a forecast of success of at least 0.50, got 0.20: refused. Give more pairs"
    )
    with pytest.raises(InputError, match=line):
        weak.apply()
    key = "blocks.0.mlp.b_out"
    torch.testing.assert_close(weak.apply(force=True).weights[key], weak.subject.weights[key] + 1)
    assert len(weak.preview()) == 5


def test_ranks_norms_and_components_by_hand():
    outer = torch.outer(torch.arange(1.0, 11), torch.ones(8))
    heads = torch.zeros(2, 4, 8)
    heads[1, 2, 3] = 5
    one = subject()
    weights = {**one.weights, "blocks.0.attn.b_O": torch.zeros(8)}
    proposal = made(
        {
            "unembed.b_U": torch.zeros(9),
            "blocks.1.mlp.W_out": outer,
            "blocks.0.attn.W_O": heads,
            "blocks.0.attn.b_O": torch.ones(8),
            "embed.W_E": torch.eye(9)[:, :8],
        },
        one=one.with_weights(weights),
    )
    found = {weight.name: weight for weight in proposal.weights}
    assert list(found) == ["blocks.1.mlp.W_out", "blocks.0.attn.W_O", "blocks.0.attn.b_O", "embed.W_E"]
    assert [weight.rank for weight in found.values()] == [1, 1, 1, 8]
    assert found["blocks.1.mlp.W_out"].norm == pytest.approx((385 * 8) ** 0.5)
    before = one.weights["blocks.1.mlp.W_out"].norm()
    assert found["blocks.1.mlp.W_out"].relative == pytest.approx(float((385 * 8) ** 0.5 / before), rel=1e-5)
    assert found["blocks.0.attn.b_O"].relative == math.inf
    assert found["blocks.0.attn.W_O"].components == ("L0H1",)
    assert found["blocks.0.attn.b_O"].components == ("L0H0", "L0H1")
    assert proposal.components == ("token_embedding", "L0H0", "L0H1", "MLP1")
    frame = proposal.to_pandas()
    assert frame.loc["blocks.0.attn.W_O", "norm"] == pytest.approx(5)
    plain = json.loads(proposal.to_json())
    assert plain["weights"][2] == {
        "name": "blocks.0.attn.b_O", "components": ["L0H0", "L0H1"], "rank": 1,
        "norm": pytest.approx(8**0.5), "relative": None,
    }  # fmt: skip


def test_the_preview_shows_what_is_answered_before_and_after(proposal):
    shown = proposal.preview()
    assert list(shown["role"]) == ["pair", "pair", "keep", "keep", "unlabelled"]
    assert list(shown["input"]) == ["1 2 3", "2 2 3", "3 2 3", "4 1 1", "7 2"]
    told = proposal.examples
    before = asked_logits(proposal.subject, told.tokens, told.position).softmax(-1)
    after = asked_logits(proposal.apply(), told.tokens, told.position).softmax(-1)
    assert shown["before"].tolist() == before.argmax(-1).tolist()
    assert shown["after"].tolist() == after.argmax(-1).tolist()
    own = before.argmax(-1)
    assert shown["wanted"].tolist() == ["4", "5", str(int(own[2])), str(int(own[3])), ""]
    looked_at = torch.tensor([4, 5, *own[2:].tolist()])
    np.testing.assert_allclose(shown["p_before"], before.gather(1, looked_at[:, None])[:, 0], rtol=1e-6)
    np.testing.assert_allclose(shown["p_after"], after.gather(1, looked_at[:, None])[:, 0], rtol=1e-6)
    assert shown["ok_after"].tolist()[:4] == (after.argmax(-1) == looked_at).tolist()[:4]
    assert shown["ok_before"].isna().tolist() == [False] * 4 + [True]
    zero = proposal.preview(0.0)
    assert (zero["before"] == zero["after"]).all()
    assert proposal.to_dict()["examples"][4]["ok_after"] is None


def test_a_removed_behavior_is_judged_by_chance():
    one = subject()
    told = EditSpec(ablate=[[1, 2, 3]], answers=list(range(9))).examples(one)
    old = int(asked_logits(one, told.tokens, told.position).argmax())
    flat = {"unembed.W_U": -one.weights["unembed.W_U"]}
    hidden = made(flat, one=one)
    gone = dataclasses.replace(hidden, examples=told).preview()
    assert gone["wanted"].tolist() == ["chance"]
    p_before, p_after = gone["p_before"][0], gone["p_after"][0]
    assert p_before == pytest.approx(float(one.run(told.tokens).logits[0, 0, -1].softmax(-1)[old]), rel=1e-5)
    assert p_after == pytest.approx(1 / 9, rel=1e-5)
    assert gone["ok_after"].tolist() == [True]
    assert gone["ok_before"].tolist() == [p_before <= 2 / 9]


def test_examples_of_a_zoo_are_edited_alike(editor):
    one = subject()
    told: Examples = SPEC.examples(one)
    first, second = editor.propose(one, SPEC), editor.propose_for(one, told)
    assert all(torch.equal(first.changes[key], change) for key, change in second.changes.items())


def test_notes_say_what_a_user_must_know(editor):
    loose = EditSpec(pairs=[([1, 2, 3], 4)], answers=[5])
    assert UNBOUNDED in editor.propose(subject(), loose).notes
    assert editor.propose(subject(), SPEC).notes == ()
    wide = subject(d_model=16, d_head=8, normalization_type="none")
    assert editor.propose(wide, SPEC).notes == (UNSPANNED,)


def test_an_edited_subject_goes_to_transformers_and_transformer_lens(proposal, tmp_path):
    edited = proposal.apply()
    tokens = torch.tensor([[1, 2, 3], [4, 1, 1]])
    wanted = edited.run(tokens).logits[0]
    back = metamodel.from_pretrained(edited.to_transformers(tmp_path / "gpt2"))
    torch.testing.assert_close(back.run(tokens).logits[0], wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(edited.to_bridge()(tokens), wanted, rtol=0, atol=1e-4)
    assert (wanted - proposal.subject.run(tokens).logits[0]).abs().max() > 0.1


def test_post_norm_subjects_cannot_be_edited(editor):
    with pytest.raises(
        InputError, match=r"norm_position: expected 'pre', a subject that can be run and edited"
    ):
        editor.propose(subject(norm_position="post", attention_dir="bidirectional"), SPEC)


def test_a_checkpoint_comes_back_as_an_editor(folder, proposal):
    loaded = metamodel.load(folder)
    assert isinstance(loaded, SubjectEditor)
    again = loaded.propose(subject(), SPEC)
    assert all(torch.equal(again.changes[key], change) for key, change in proposal.changes.items())
    assert again.forecast == proposal.forecast
    assert loaded.splits.train == ("train",)
    assert loaded.checkpoint.sizes == checkpoint().sizes
    assert SubjectEditor.from_pretrained(folder).checkpoint.zoo["fingerprint"] == "0" * 16


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 1, "schema_version: expected 7, got 1"),
        ("sizes", {"width": 16}, "sizes.map_width: expected a value, got no such key"),
        (
            "sizes",
            {
                "width": 0,
                "deep_steps": 0,
                "map_width": 8,
                "map_layers": 2,
                "n_steps": 4,
                "recurrent": 1,
                "component_steps": 0,
                "gates": False,
                "decay": False,
                "without": [],
            },
            "sizes.width: expected at least 1",
        ),
        ("refuse_below", 2, "refuse_below: expected a probability, 0 to 1, got 2"),
        ("refuse_below", "x", "refuse_below: expected int or float, got str"),
        ("zoo", {}, "zoo.name: expected text, got None"),
        (
            "trainin",
            {},
            "trainin: expected a known key, got an unknown one. Remove it. Did you mean 'training'?",
        ),
        ("training", None, "training: expected a value, got no such key"),
    ],
)
def test_a_wrong_configuration_is_one_line(folder, key, value, message):
    config = json.loads((folder / CONFIG).read_text())
    config = {k: v for k, v in (config | {key: value}).items() if v is not None}
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        metamodel.load(folder)
    assert f"{folder / CONFIG}: {message}" in str(caught.value)


def test_broken_tensors_and_files_are_named(folder):
    tensors = load_file(folder / MODEL)
    first = sorted(tensors)[0]
    for broken, message in (
        ({k: v for k, v in tensors.items() if k != first}, f"{first}: expected shape"),
        (tensors | {"more": torch.zeros(1)}, "more: expected no such tensor, got one"),
        (tensors | {first: torch.zeros(77)}, r"got \(77,\)"),
        (tensors | {first: tensors[first] * math.nan}, f"{first}: expected finite numbers"),
    ):
        save_file(broken, folder / MODEL)
        with pytest.raises(InputError, match=message):
            metamodel.load(folder)
    (folder / MODEL).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"model\.safetensors: expected a safetensors file"):
        metamodel.load(folder)
    (folder / MODEL).unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: expected a file, got none"):
        metamodel.load(folder)


def test_an_editor_does_not_read_and_a_reader_does_not_edit(folder):
    with pytest.raises(InputError, match=r"kind: expected 'function', got 'editing'|schema_version"):
        metamodel.FunctionReader.from_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"kind": "function"}))
    with pytest.raises(
        InputError, match=r"kind: expected 'editing', got 'function'. Load another checkpoint"
    ):
        load_editing_checkpoint(folder)


def test_an_editor_is_uploaded_with_its_folder(folder, monkeypatch):
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, exist_ok: calls.append(name))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder",
        lambda self, repo_id, folder_path: calls.append((repo_id, folder_path)) or "address",
    )
    assert SubjectEditor.from_pretrained(folder).push_to_hub("me/editor") == "address"
    assert calls == ["me/editor", ("me/editor", folder)]
    with pytest.raises(InputError, match=r"push_to_hub: expected an editor loaded from a folder, got none"):
        SubjectEditor(checkpoint()).push_to_hub("me/editor")
