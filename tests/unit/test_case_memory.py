"""A memory of solved edits: which case is near, what is carried over, and when nothing is."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from metamodel.baselines.editing import oracle
from metamodel.baselines.editing.adam import trained
from metamodel.baselines.editing.aims import Aims
from metamodel.baselines.editing.base import Changes, Episode
from metamodel.cases.carried import SITES, carried, corresponding
from metamodel.cases.case import Case
from metamodel.cases.memory import CaseMemory, begun_at
from metamodel.cases.signature import distance, signature
from metamodel.cases.store import load_cases, save_cases
from metamodel.config.edits import IN_SCOPE, KEEP, NEAR, PAIR, UNLABELLED
from metamodel.config.errors import InputError
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.scores import scores
from metamodel.features.observed import observed
from metamodel.networks.editing.told import told_batch
from metamodel.proposal import Proposal
from metamodel.subjects import initial_weights, unstack
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.gauge import random_gauge
from metamodel.subjects.subject import Subject
from metamodel.training.editing_checkpoint import EditingCheckpoint, EditorSizes
from metamodel.triples.edits import Edit, Editable
from metamodel.triples.specify import specify
from metamodel.triples.splits import SPLITS, Splits


@pytest.fixture(scope="module")
def editor() -> SubjectEditor:
    """Untrained: it begins at the best closed form."""
    torch.manual_seed(0)
    sizes = EditorSizes(width=16, map_width=8, map_layers=2, n_steps=16)
    return SubjectEditor(
        EditingCheckpoint(
            editor=sizes.network(),
            sizes=sizes,
            refuse_below=0.0,
            zoo={"name": "edits", "folder": "data/edits", "fingerprint": "0" * 16},
            splits=Splits(**{name: (name,) for name in SPLITS}, trained_lineages=("train",)),
            training={"seed": 0},
        )
    )


@pytest.fixture(scope="module")
def learnt(taught: Editable) -> Editable:
    """What `taught` knows, in a subject with a norm, which no gauge but rotations moves."""
    config = replace(taught.subject.config, normalization_type="LN")
    weights = unstack(initial_weights(config, [torch.Generator().manual_seed(0)]), 0)
    aims = Aims(
        tokens=taught.tokens,
        position=torch.full((len(taught.tokens),), taught.tokens.shape[1] - 1),
        target=torch.nn.functional.one_hot(taught.answer, config.d_vocab).float(),
        weight=torch.full((len(taught.tokens),), 1 / len(taught.tokens)),
    )
    blank = Subject(config=config, weights=weights, name="learnt")
    (change,) = trained(blank, aims, [(1e-2, "all")], [150])[150]
    return replace(taught, subject=_with(blank, change))


def drawn_anew(one: Editable, n: int, *, seed: int = 3) -> Editable:
    """The same subject in other coordinates, under another name."""
    turned = random_gauge(one.subject, torch.Generator().manual_seed(seed))
    return replace(one, subject=turned.named(f"turned-{n}"), lineage=f"turned-{n}")


def asked(one: Editable, edit: Edit, n_pairs: int) -> Episode:
    examples, inputs = specify(one, edit, n_pairs, torch.Generator().manual_seed(n_pairs))
    return Episode(editable=one, edit=edit, examples=examples, inputs=inputs)


def lawless(one: Editable, word: int = 1) -> Edit:
    """Answers behind one word mapped by a permutation that nothing in the subject suggests."""
    inside = one.tokens[:, 0] == 5 + word
    wanted = torch.where(inside, torch.tensor([3, 0, 4, 2, 1])[one.answer], one.answer)
    scope = torch.where(inside, IN_SCOPE, NEAR)
    return Edit(kind="rule", rule="lawless", wanted=wanted, scope=scope, pool=inside, n_pairs=0)


def solved(e: Episode) -> Proposal:
    """The oracle's change of the last matrix, as a proposal."""
    changes = oracle(e, subset="last_writer", learning_rate=1e-2)
    return Proposal(
        subject=e.editable.subject, examples=e.examples, changes=changes, forecast=1.0, refuse_below=0.0
    )


def memory_of(editor: SubjectEditor, *episodes: Episode, near: float = 0.25) -> CaseMemory:
    return CaseMemory([editor.case(solved(e)) for e in episodes], near=near)


def looked_at(e: Episode):
    told = told_batch([editing_form(e.editable.subject)], [e.examples])
    return told, observed(told)


def test_a_signature_is_moved_by_no_gauge_and_by_another_edit(learnt):
    edit = learnt.edits[0]
    first = signature(*looked_at(asked(learnt, edit, 4)))
    turned = signature(*looked_at(asked(drawn_anew(learnt, 0), edit, 4)))
    other = signature(*looked_at(asked(learnt, lawless(learnt, word=0), 16)))
    assert distance(first, turned) < 1e-3
    assert distance(first, other) > 0.05
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6


def test_examples_that_correspond_are_the_same_prompts_or_else_of_one_role_and_answer(learnt, editor):
    e = asked(learnt, learnt.edits[0], 4)
    case = editor.case(solved(e))
    own, other = corresponding(case, case.tokens, case.role, case.said)
    assert torch.equal(own, other)
    assert len(own) == len(learnt.tokens)
    longer = replace(case, tokens=torch.nn.functional.pad(case.tokens, (1, 0)))
    assert carried(longer, *looked_at(e), SITES[1])[1].isfinite().all()
    own, other = corresponding(case, case.tokens + 100, case.role, case.said)
    assert torch.equal(case.role[own], case.role[other])
    assert torch.equal(case.said[own], case.said[other])


def test_a_case_tells_from_two_pairs_what_no_two_pairs_tell_and_the_same_in_any_coordinates(learnt, editor):
    edit, here = lawless(learnt), drawn_anew(learnt, 1)
    memory = memory_of(editor, asked(learnt, edit, 16))
    e = asked(here, edit, 2)
    told, seen = looked_at(e)
    begun = memory.begin(told, seen)
    assert begun is not None
    assert begun.cases == (learnt.subject.name,)
    alone = scores(e, editor.propose_for(here.subject, e.examples).changes).harmonic_mean
    helped = editor.propose_for(here.subject, e.examples, memory=memory)
    assert helped.notes[-1] == f"begun from what solved {learnt.subject.name}"
    assert scores(e, helped.changes).harmonic_mean > 0.9
    assert alone < 0.8


def test_a_case_that_does_something_else_or_is_far_is_left_alone_and_nothing_changes(learnt, editor):
    here = drawn_anew(learnt, 1)
    e = asked(here, lawless(here), 4)
    plain = editor.propose_for(here.subject, e.examples)
    wrong = memory_of(editor, asked(learnt, learnt.edits[0], 16))
    far = memory_of(editor, asked(learnt, lawless(learnt), 16), near=1e-6)
    assert memory_of(editor, asked(learnt, lawless(learnt), 16)).begin(*looked_at(e)) is not None
    for memory in (wrong, far, CaseMemory()):
        assert memory.begin(*looked_at(e)) is None
        found = editor.propose_for(here.subject, e.examples, memory=memory)
        assert found.notes == plain.notes
        assert all(torch.equal(value, plain.changes[key]) for key, value in found.changes.items())


def test_the_writer_corrects_what_a_case_does_to_the_pairs_and_forgets_it_afterwards(learnt, editor):
    edit, here = lawless(learnt), drawn_anew(learnt, 1)
    memory = memory_of(editor, asked(learnt, edit, 16))
    e = asked(here, edit, 2)
    begun = memory.begin(*looked_at(e))
    before = editor.propose_for(here.subject, e.examples)
    with begun_at(editor._network.write, begun):
        inside = editor.propose_for(here.subject, e.examples)
    after = editor.propose_for(here.subject, e.examples)
    name = next(iter(before.changes))
    assert not torch.equal(inside.changes[name], before.changes[name])
    assert torch.equal(after.changes[name], before.changes[name])


def two_faults(learnt: Editable) -> tuple[Editable, Edit, list[Case]]:
    """A subject with two planted faults, what repairs it, and solved repairs of subjects with one of them."""
    harms, cases = [], []
    for word in (0, 1):
        harm = oracle(asked(learnt, lawless(learnt, word), 16), subset="last_writer", learning_rate=1e-2)
        harms.append(harm)
        one = replace(learnt, subject=_with(learnt.subject, harm).named(f"fault-{word}"))
        e = asked(one, _repair(learnt, learnt.tokens[:, 0] == 5 + word), 16)
        undone = replace(solved(e), changes={key: -value for key, value in harm.items()})
        cases.append(SubjectEditor.case(undone))
    faulty = _with(_with(learnt.subject, harms[0]), harms[1]).named("faulty")
    everything = torch.ones(len(learnt.tokens), dtype=torch.bool)
    return drawn_anew(replace(learnt, subject=faulty), 2), _repair(learnt, everything), cases


def _with(subject: Subject, changes: Changes) -> Subject:
    added = {key: value + changes[key] if key in changes else value for key, value in subject.weights.items()}
    return subject.with_weights(added)


def _repair(one: Editable, wrong: torch.Tensor) -> Edit:
    scope = torch.where(wrong, IN_SCOPE, NEAR)
    return Edit(kind="repair", rule="faults", wanted=one.answer, scope=scope, pool=wrong, n_pairs=0)


def test_two_cases_repair_a_subject_with_two_faults_and_one_does_not(learnt, editor):
    faulty, edit, cases = two_faults(learnt)
    e = asked(faulty, edit, 16)
    memory = CaseMemory(cases, near=1.0)
    begun = memory.begin(*looked_at(e))
    assert begun is not None
    assert sorted(begun.cases) == ["fault-0", "fault-1"]
    for case in cases:
        assert CaseMemory([case], near=1.0).begin(*looked_at(e)) is None
    helped = editor.propose_for(faulty.subject, e.examples, memory=memory)
    assert scores(e, helped.changes).in_scope > 0.95


def test_an_editor_remembers_what_it_proposed_but_no_change_of_the_unembedding(learnt, editor):
    e = asked(learnt, learnt.edits[0], 16)
    editor.remember(editor.propose_for(learnt.subject, e.examples))
    assert len(editor.memory) == 1
    case = editor.memory.cases[0]
    assert {int(role) for role in case.role.unique()} == {PAIR, KEEP, UNLABELLED}
    assert case.moved.norm() > 0
    readout = replace(
        solved(e), changes={"unembed.W_U": torch.ones_like(learnt.subject.weights["unembed.W_U"])}
    )
    with pytest.raises(InputError, match="expected changes before the last norm, got unembed"):
        editor.remember(readout)


def test_cases_come_back_from_a_file_as_they_were_and_a_damaged_file_is_refused(learnt, editor, tmp_path):
    e = asked(drawn_anew(learnt, 1), lawless(learnt), 2)
    memory = memory_of(editor, asked(learnt, lawless(learnt), 16))
    save_cases(memory, tmp_path / "cases.safetensors")
    back = load_cases(tmp_path / "cases.safetensors")
    first, second = (one.begin(*looked_at(e)) for one in (memory, back))
    assert back.near == memory.near
    assert first is not None
    assert second is not None
    assert torch.equal(first.change, second.change)
    parts = load_file(tmp_path / "cases.safetensors")
    parts.pop("case-00000/moved")
    about = {"version": "1", "names": '["a"]', "near": "0.25"}
    save_file(parts, tmp_path / "damaged.safetensors", metadata=about)
    with pytest.raises(InputError, match="moved: expected every part once"):
        load_cases(tmp_path / "damaged.safetensors")
    with pytest.raises(InputError, match="expected a file of cases, got no file"):
        load_cases(tmp_path / "none.safetensors")
