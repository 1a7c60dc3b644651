"""An edit from a shell: a network in, a specification, and the edited network beside a report of it."""

import json
import shlex

import pytest
import torch

import metamodel
from metamodel import edit
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.interchange import save_own
from metamodel.training.editing_checkpoint import EditingCheckpoint, EditorSizes, save
from metamodel.triples.building import begin, finish
from metamodel.triples.edit_spec import EditSpec, asked_logits
from metamodel.triples.edit_store import write_edits
from metamodel.triples.edits import Edit, Editable
from metamodel.triples.splits import SPLITS, Splits

SHAPE = SubjectConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, d_mlp=10, d_vocab=9, n_ctx=5)
SPEC = EditSpec(pairs=[([1, 2, 3], 4), ([2, 2, 3], 5)], keep=[[3, 2, 3], [4, 1, 1]], unlabelled=[[7, 2, 1]])
FILES = {
    "gpt2": {"config.json", "generation_config.json", "model.safetensors", "report.md", "spec.yaml"},
    "own": {"subject.json", "subject.safetensors", "report.md", "spec.yaml"},
}


def subject(seed: int = 0, **changes) -> Subject:
    config = SubjectConfig.from_dict(SHAPE.to_dict() | changes)
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator], init_std=0.4), 0)
    return Subject(config=config, weights=weights, name=f"made-{seed}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two editors, a network in transformers' format, and specifications."""
    folder = tmp_path_factory.mktemp("edits")
    for name, refuse_below in (("editor", 0.0), ("strict", 1.0)):
        torch.manual_seed(0)
        sizes = EditorSizes(width=16, map_width=8, map_layers=2, n_steps=4)
        made = EditingCheckpoint(
            editor=sizes.network(),
            sizes=sizes,
            refuse_below=refuse_below,
            zoo={"name": "none", "folder": "none", "fingerprint": "none"},
            splits=Splits(**dict.fromkeys((*SPLITS, "trained_lineages"), ())),
            training={},
        )
        save(made, folder / name)
    subject().to_transformers(folder / "gpt2")
    (folder / "gpt2/tokenizer.json").write_text("{}")
    SPEC.save(folder / "spec.yaml")
    EditSpec(transplant=[[1, 2, 3]], keep=[[3, 2, 3]]).save(folder / "transplant.json")
    return folder


def test_the_edited_network_is_written_beside_a_report(place, tmp_path, called):
    words = [place / "editor", place / "gpt2", "--spec", place / "spec.yaml", "--out", tmp_path / "edited"]
    said = called(edit.main, *words)
    assert {path.name for path in (tmp_path / "edited").iterdir()} == FILES["gpt2"] | {"tokenizer.json"}
    assert "gpt2: forecast of success 0." in said.out
    assert "blocks.0.mlp.W_out (MLP0): rank " in said.out
    assert f"Written: {tmp_path / 'edited'}" in said.err
    before = metamodel.from_pretrained(place / "gpt2")
    proposal = metamodel.load(place / "editor").propose(before, SPEC)
    wanted, after = proposal.apply(), metamodel.from_pretrained(tmp_path / "edited")
    tokens = torch.tensor([[1, 2, 3], [3, 2, 3]])
    at = torch.tensor([2, 2])
    torch.testing.assert_close(asked_logits(after, tokens, at), asked_logits(wanted, tokens, at))
    assert (asked_logits(after, tokens, at) - asked_logits(before, tokens, at)).abs().max() > 0.01
    report = (tmp_path / "edited/report.md").read_text()
    assert f"**{proposal.forecast:.2f}**" in report
    shown = proposal.preview()
    first = shown.iloc[0]
    row = f"| `1 2 3` | 4 | {first['before']} | {first['after']} | {first['p_before']:.3f} |"
    assert row in report
    n_right = int(shown["ok_after"][:2].sum())
    assert f"pairs as wanted: {n_right} of 2, 0 before" in report
    assert f"pairs as wanted: {n_right} of 2, 0 before" in said.out
    for title in ("Pairs", "Inputs to keep", "Other inputs", "What changed", "Again"):
        assert f"## {title}" in report
    assert EditSpec.load(tmp_path / "edited/spec.yaml") == SPEC
    command = next(line for line in report.splitlines() if line.startswith("python -m metamodel.edit"))
    again = [
        str(tmp_path / "again") if w == str(tmp_path / "edited") else w for w in shlex.split(command)[3:]
    ]
    called(edit.main, *again)
    for name in ("model.safetensors", "spec.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "edited" / name).read_bytes()


def test_alpha_json_and_force(place, tmp_path, called, refused_here):
    words = ["--spec", place / "spec.yaml", "--out", tmp_path / "zero", "--alpha", "0", "--json"]
    said = json.loads(called(edit.main, place / "editor", place / "gpt2", *words).out)
    assert said["alpha"] == 0
    assert all(row["before"] == row["after"] for row in said["examples"])
    assert "pairs as wanted: 0 of 2, 0 before" in (tmp_path / "zero/report.md").read_text()
    zero, before = metamodel.from_pretrained(tmp_path / "zero"), metamodel.from_pretrained(place / "gpt2")
    assert all(torch.equal(zero.weights[key], weight) for key, weight in before.weights.items())
    strict = [place / "strict", place / "gpt2", "--spec", place / "spec.yaml", "--out", tmp_path / "forced"]
    line = refused_here(edit.main, *strict)
    assert "proposal: expected a forecast of success of at least 1.00, got 0." in line
    assert not (tmp_path / "forced").exists()
    called(edit.main, *strict, "--force", "--alpha", "-0.5")
    assert "it was forced" in (tmp_path / "forced/report.md").read_text()


def test_subjects_of_a_zoo_of_edits_and_of_our_own_format(place, tmp_path, called, refused_here, edit_zoo):
    spec = ["--spec", place / "spec.yaml"]
    called(edit.main, place / "editor", f"{edit_zoo}#made-1", *spec, "--out", tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == FILES["own"]
    assert (
        "has no GPT-2 form: made-1: GPT-2 form.normalization_type" in (tmp_path / "one/report.md").read_text()
    )
    one = metamodel.from_pretrained(tmp_path / "one")
    wanted = metamodel.load(place / "editor").propose(subject(1, normalization_type="none"), SPEC).apply()
    assert one.name == "made-1"
    assert all(torch.equal(one.weights[key], weight) for key, weight in wanted.weights.items())
    # what was written is edited further, in the same format
    called(edit.main, place / "editor", tmp_path / "one", *spec, "--out", tmp_path / "two", "--alpha", "0")
    assert {path.name for path in (tmp_path / "two").iterdir()} == FILES["own"]
    two = metamodel.from_pretrained(tmp_path / "two")
    assert all(torch.equal(two.weights[key], weight) for key, weight in one.weights.items())
    line = refused_here(edit.main, place / "editor", f"{edit_zoo}#made-7", *spec, "--out", tmp_path / "x")
    assert f"{edit_zoo}#made-7: expected the id of a subject in this zoo, got 'made-7'." in line


@pytest.fixture
def edit_zoo(tmp_path):
    """A zoo of edits with one subject that no GPT-2 expresses."""
    folder, one, tokens = tmp_path / "zoo", subject(1, normalization_type="none"), torch.tensor([[1, 2, 3]])
    wanted, scope, pool = torch.tensor([4]), torch.tensor([2]), torch.tensor([True])
    change = Edit(kind="rewrite", rule="to 4", wanted=wanted, scope=scope, pool=pool, n_pairs=1)
    made = Editable(
        subject=one, family="f", lineage="l", departs="none", tokens=tokens, answer=torch.tensor([3]),
        answers=torch.arange(9), unseen=torch.zeros(1, dtype=torch.bool), edits=(change,), quality={},
    )  # fmt: skip
    begin(folder, name="zoo", config={}, labels=(), n_shards=1)
    write_edits(folder, 0, [made], {})
    assert finish(folder)
    return folder


def test_a_transplant_takes_a_donor(place, tmp_path, called, refused_here):
    words = [place / "editor", place / "gpt2", "--spec", place / "transplant.json", "--out", tmp_path / "out"]
    line = refused_here(edit.main, *words)
    assert line.startswith("donor: expected a subject to transplant from, got none. Give the subject")
    save_own(subject(5), tmp_path / "donor")
    called(edit.main, *words, "--donor", tmp_path / "donor")
    assert "Asked for: `transplant`" in (tmp_path / "out/report.md").read_text()


def test_mistakes_are_one_line_and_nothing_is_overwritten(place, tmp_path, refused_here):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    fine = [place / "editor", place / "gpt2"]
    spec = ["--spec", place / "spec.yaml"]
    long = EditSpec(ablate=[[1, 2, 3], [1] * 6]).save(tmp_path / "long.yaml")
    (tmp_path / "bad.yaml").write_text("pairs: [{input: [1], answr: 2}]")
    for words, expected in (
        ([*fine, *spec, "--out", tmp_path / "full"], "--out: expected a new or an empty folder, got "),
        ([*fine, *spec, "--out", tmp_path / "full/mine"], "--out: expected a new or an empty folder, got "),
        ([*fine, *spec, "--out", tmp_path / "full/mine/x"], "expected a folder to write to, got "),
        (
            [*fine, *spec, "--out", tmp_path / "x", "--alpha", ".nan"],
            "--alpha: expected a finite number, got nan",
        ),
        ([*fine, *spec, "--out", tmp_path / "x", "--alhpa", "1"], "Did you mean '--alpha'?"),
        ([*fine, "--out", tmp_path / "x"], "--spec"),
        (
            [*fine, "--spec", tmp_path / "none.yaml", "--out", tmp_path / "x"],
            "none.yaml: expected a file, got none",
        ),
        (
            [*fine, "--spec", tmp_path / "bad.yaml", "--out", tmp_path / "x"],
            "bad.yaml: pairs[0].answer: expected",
        ),
        ([*fine, "--spec", long, "--out", tmp_path / "x"], "ablate[1]: expected at most n_ctx = 5 tokens"),
        ([place / "none", place / "gpt2", *spec, "--out", tmp_path / "x"], "none: expected the folder of a"),
        (
            [place / "editor", place / "none", *spec, "--out", tmp_path / "x"],
            "which is not there. Check the path.",
        ),
        ([place / "editor", f"{tmp_path}#a", *spec, "--out", tmp_path / "x"], "expected a zoo"),
    ):
        assert expected in refused_here(edit.main, *words), words
    assert not (tmp_path / "x").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert not list(tmp_path.rglob(".*partial"))
