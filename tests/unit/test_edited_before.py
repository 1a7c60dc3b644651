"""Training on subjects that were edited before: by which edits, and what a loss is then of."""

import dataclasses

import pytest
import torch

from metamodel.config.editing import EditingConfig, EditorConfig, EditTrainingConfig
from metamodel.config.errors import InputError
from metamodel.losses.editing import EditingBatch
from metamodel.objectives.editing import EditingObjective
from metamodel.training.episodes import Episodes
from metamodel.training.fit_editing import sizes_of
from metamodel.triples.edits import Editable


@pytest.fixture
def twice(taught) -> Editable:
    """A subject with two edits, of which each may come first."""
    (edit,) = taught.edits
    other = dataclasses.replace(
        edit, rule="+2", wanted=torch.where(edit.pool, (edit.wanted + 1) % 5, edit.wanted)
    )
    return dataclasses.replace(taught, edits=(edit, other))


def batch_of(taught: Editable, earlier: float, seed: int = 0) -> EditingBatch:
    episodes = Episodes([taught], batch_size=2, n_inputs=24, n_shown=24, n_maps=0, seed=seed, earlier=earlier)
    return next(iter(episodes))


def objective() -> EditingObjective:
    config = EditingConfig(
        editor=EditorConfig(width=8, map_width=4, map_layers=1, n_steps=2, training_steps=2),
        training=EditTrainingConfig(batch_size=2, inputs=24, shown=24),
    )
    torch.manual_seed(0)
    return EditingObjective(sizes_of(config).network(), config)


def test_subjects_of_a_batch_were_edited_before_by_the_same_editor_where_they_have_another_edit(twice):
    plain, batch = batch_of(twice, 0.0), batch_of(twice, 1.0)
    assert plain.earlier is None
    assert plain.had is None
    assert batch.earlier is not None
    assert batch.had is not None
    assert batch.had.all()
    editor = objective()
    assert editor._edited_before(plain) is plain.told
    name = "blocks.0.mlp.W_out"
    before, after = batch.told.weights, editor._edited_before(batch).weights
    change = editor.editor(batch.earlier).changes[name]
    assert change[0].abs().max() > 0
    torch.testing.assert_close(after[name], before[name] + change)
    assert all(torch.equal(after[key], before[key]) for key in before if key != name)
    one = editor._edited_before(dataclasses.replace(batch, had=torch.tensor([True, False]))).weights
    assert torch.equal(one[name][1], before[name][1])
    assert not torch.equal(one[name][0], before[name][0])


def test_what_a_subject_has_had_before_is_another_edit_of_a_kind_that_may_come_first(twice):
    damaged = dataclasses.replace(
        twice, edits=tuple(dataclasses.replace(edit, kind="repair") for edit in twice.edits)
    )
    assert batch_of(damaged, 1.0).earlier is None
    alone = dataclasses.replace(twice, edits=twice.edits[:1])
    assert batch_of(alone, 1.0).earlier is None
    # the one that may be drawn has no other that may come first
    tested = dataclasses.replace(
        twice,
        edits=(twice.edits[0], *(dataclasses.replace(edit, test=True) for edit in twice.edits[1:])),
    )
    assert batch_of(tested, 1.0).earlier is None


def test_a_loss_is_of_the_subject_as_it_was_edited_before(twice):
    batch = batch_of(twice, 1.0)
    editor = objective()
    editor.log_dict = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    with_it = editor.training_step(batch, 0)
    without = editor.training_step(dataclasses.replace(batch, earlier=None, had=None), 0)
    assert with_it.isfinite()
    assert not torch.isclose(with_it, without, rtol=1e-3)


def test_a_share_of_batches_beyond_one_is_one_line():
    with pytest.raises(InputError, match=r"training\.earlier: expected 0.* got 2"):
        EditTrainingConfig(earlier=2.0)
