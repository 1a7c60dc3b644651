"""Ten edits in sequence, and what is told to an editor in place of the truth, against planted edits."""

from dataclasses import replace

import pytest
import torch

from metamodel.baselines.editing import Episode, oracle
from metamodel.config.edits import FAR, IN_SCOPE, NEAR, PAIR
from metamodel.evaluation.editing.controls import other_subject
from metamodel.evaluation.editing.episodes import _of, _spread
from metamodel.evaluation.editing.sequences import LENGTH, after_all, sequences_of
from metamodel.triples.edits import Edit, Editable


def rewriting(taught: Editable) -> Editable:
    """Ten edits, each of which gives one key behind one word another value, some of them a second time."""
    word, key = taught.tokens[:, 0], taught.tokens[:, 1]
    edits = []
    for i in range(LENGTH):
        hit = (word == 6) & (key == i % 4)
        edits.append(
            Edit(
                kind="rewrite",
                rule="1 keys",
                wanted=torch.where(hit, (taught.answer + 1 + i // 4) % 5, taught.answer),
                scope=torch.where(hit, IN_SCOPE, torch.where(word == 6, NEAR, FAR)),
                pool=hit & (taught.tokens[:, 2] == 0),
                n_pairs=1,
            )
        )
    return replace(taught, edits=tuple(edits))


def test_what_is_wanted_after_a_sequence_is_what_the_last_edit_of_each_input_wants(taught):
    one = rewriting(taught)
    (sequence,) = sequences_of([one, taught], 5)
    assert len(sequence.steps) == LENGTH
    word, key = one.tokens[:, 0], one.tokens[:, 1]
    shift = torch.tensor([3, 3, 2, 2, 0])[key] * (word == 6)  # keys 0 and 1 are rewritten three times
    assert torch.equal(sequence.whole.edit.wanted, (one.answer + shift) % 5)
    assert torch.equal(sequence.whole.edit.scope == IN_SCOPE, shift > 0)
    pairs = sequence.whole.inputs
    assert (sequence.whole.examples.role == PAIR).all()
    assert torch.equal(sequence.whole.examples.wanted, sequence.whole.edit.wanted[pairs])


def test_a_sequence_is_scored_after_the_last_edit(taught):
    one = rewriting(taught)
    (sequence,) = sequences_of([one], 1)
    steps = iter(one.edits)

    def perfect(subject, examples):
        edit = next(steps)
        # what stays is what the edits before have left, so the truth of this step is built on it
        done = one.edits[: one.edits.index(edit) + 1]
        wanted = one.answer
        for earlier in done:
            wanted = torch.where(earlier.scope == IN_SCOPE, earlier.wanted, wanted)
        now = replace(one, subject=subject)
        whole = replace(edit, wanted=wanted, scope=torch.full_like(edit.scope, IN_SCOPE))
        return oracle(Episode(editable=now, edit=whole, examples=examples, inputs=torch.arange(0)))

    assert after_all(sequence, perfect) > 0.95
    assert after_all(sequence, lambda subject, examples: {}) < 0.01


def test_another_subject_is_one_of_another_lineage_that_is_asked_the_same(taught, specified):
    episode = specified(taught, 4)
    twin, kin = replace(taught, lineage="twin"), replace(taught)
    stranger = replace(taught, lineage="stranger", tokens=taught.tokens.flip(0))
    assert other_subject(episode, [kin, stranger, twin]) is twin
    assert other_subject(episode, [kin, stranger]) is None


def test_each_lineage_is_judged_once_before_any_is_judged_twice(taught, specified):
    episodes = [
        replace(specified(one, n), editable=one)
        for lineage in "abc"
        for one in (replace(taught, lineage=lineage, subject=taught.subject.named(lineage)),)
        for n in (1, 2, 4)
    ]
    first = _spread(episodes, 3)
    assert sorted(e.editable.lineage for e in first) == ["a", "b", "c"]
    assert len(_spread(episodes, 100)) == 9


def test_the_one_rule_of_each_subject_that_is_judged_is_not_always_the_first_that_was_made(taught):
    shift = taught.edits[0]
    rules = tuple(replace(shift, rule=rule, test=True) for rule in ("+1", "+2", "1-y", "2-y"))
    asked = [
        _of(replace(taught, subject=replace(taught.subject, name=f"subject {i}"), edits=rules), 1, new=False)
        for i in range(40)
    ]
    assert all(len({e.edit.rule for e in of_one}) == 1 for of_one in asked)
    shifts = sum(of_one[0].edit.rule.startswith("+") for of_one in asked)
    assert 10 < shifts < 30


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_loss_of_size_is_the_logarithm_of_the_relative_square_norm(taught, specified, scale):
    from metamodel.losses.editing import size_loss
    from metamodel.networks.editing.told import told_batch
    from metamodel.subjects.editing_form import editing_form

    told = told_batch([editing_form(taught.subject)], [specified(taught, 4).examples])
    changes = {"blocks.0.mlp.W_out": scale * told.weights["blocks.0.mlp.W_out"]}
    assert float(size_loss(changes, told)[0]) == pytest.approx(float(torch.tensor(scale**2).log1p()))
    removed = replace(told, weights={k: torch.zeros_like(v) for k, v in told.weights.items()})
    assert float(size_loss(changes, removed)[0]) == 0
