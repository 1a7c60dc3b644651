"""What a whole specification asks for, in numbers, of made-up answers."""

import dataclasses
import math

import pytest
import torch

from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told, observed
from metamodel.features.proportions import UNKNOWN, Proportions
from metamodel.networks.editing.clues import LEAST_ENTROPY
from metamodel.networks.editing.demand import FORGOTTEN, LEAST_LIKELY, N_DEMAND, REMOVED, SOUND, demand
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.targets import N_EVIDENCE
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form

ROLE = torch.tensor([[PAIR, PAIR, KEEP, UNLABELLED, PADDING]])
SURE, UNSURE = [0.98, 0.02, 0.0], [0.5, 0.25, 0.25]
N_PAIRS, KNOWN, EVERYWHERE, RATIO, LIKELY = 0, 2, 3, 4, 5


def seen_of(old: list[list[float]], wanted: list[list[float]]) -> Observed:
    """Of two pairs, an input to keep, another and padding; one subject of three answers."""
    said = torch.tensor([old], dtype=torch.float64)
    return Observed(
        role=ROLE,
        answer_mask=torch.ones(1, 3, dtype=torch.bool),
        answers=torch.arange(3)[None],
        wanted=torch.tensor([wanted + [[0.0] * 3] * 3], dtype=torch.float64),
        old=said,
        kernels=torch.zeros(1, 1, 3, 5),
        prompts=torch.zeros(1, 4, 5, 5),
        logits=said.log(),
        answer_grams=torch.zeros(1, 3, 3, 3),
        proportions=Proportions(
            fourth=torch.full((1, 3, 3, 3), UNKNOWN), expected=torch.full((1, 5), UNKNOWN)
        ),
        hidden=torch.zeros(1, 5, 2),
        stream=torch.zeros(1, 5, 2),
    )


def of(old: list[list[float]], wanted: list[list[float]]) -> torch.Tensor:
    seen = seen_of(old, wanted)
    found = demand(seen, seen.proportions)
    assert found.shape == (1, N_DEMAND)
    assert found.isfinite().all()
    return found[0]


SECOND, THIRD, CHANCE = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1 / 3] * 3


def test_a_sure_subject_and_a_fact_that_it_finds_impossible():
    found = of([SURE, SURE, SURE, SURE, UNSURE], [THIRD, THIRD])
    entropy = -(0.98 * math.log(0.98) + 0.02 * math.log(0.02))
    assert float(found[N_PAIRS]) == pytest.approx(math.log(3))
    assert float(found[REMOVED]) == pytest.approx(0)
    assert float(found[KNOWN]) == 0
    assert float(found[EVERYWHERE]) == pytest.approx(math.log(LEAST_ENTROPY + entropy))  # not of padding
    assert float(found[RATIO]) == pytest.approx(0)
    assert float(found[LIKELY]) == LEAST_LIKELY


def test_a_subject_that_is_unsure_of_its_pairs_and_has_not_forgotten_what_is_wanted():
    found = of([UNSURE, UNSURE, SURE, SURE, SURE], [SECOND, SECOND])
    sure = of([SURE, SURE, SURE, SURE, SURE], [SECOND, SECOND])
    assert found[EVERYWHERE] > sure[EVERYWHERE]
    assert found[RATIO] > 1
    seen = seen_of([UNSURE, UNSURE, SURE, SURE, SURE], [SECOND, SECOND])
    without = demand(seen, seen.proportions, sureness=False)[0]
    assert torch.equal(without[:EVERYWHERE], found[:EVERYWHERE])
    assert not without[EVERYWHERE:].any()
    assert float(found[LIKELY]) == pytest.approx(math.log10(0.25))
    assert float(sure[LIKELY]) == pytest.approx(math.log10(0.02))


def test_what_is_to_be_removed_and_a_specification_without_keeps():
    assert float(of([SURE] * 5, [CHANCE, CHANCE])[REMOVED]) == pytest.approx(2 / 3)
    assert float(of([SURE] * 5, [CHANCE, THIRD])[REMOVED]) == pytest.approx(1 / 3)
    seen = seen_of([UNSURE] * 5, [SECOND, SECOND])
    none = dataclasses.replace(seen, role=torch.where(ROLE == KEEP, UNLABELLED, ROLE))
    assert float(demand(none, none.proportions)[0, RATIO]) == 0


@pytest.mark.parametrize(("likely", "as_it_is"), [(0.06, True), (0.04, False)])
def test_in_use_what_finds_wanted_answers_unlikely_is_read_as_sound(likely, as_it_is):
    unsure = [0.6 - likely, 0.4, likely]
    seen = seen_of([unsure, unsure, SURE, SURE, SURE], [THIRD, THIRD])
    plain = demand(seen, seen.proportions)[0]
    found = demand(seen, seen.proportions, in_use=True)[0]
    assert float(plain[LIKELY]) == pytest.approx(math.log10(likely))
    assert plain[RATIO] > 1
    assert torch.equal(found, plain) is as_it_is
    if not as_it_is:
        assert torch.equal(found[:EVERYWHERE], plain[:EVERYWHERE])
        assert found[EVERYWHERE:].tolist() == pytest.approx([math.log(LEAST_ENTROPY), 0.0, SOUND])


def test_in_use_what_gives_wanted_answers_already_is_read_as_sound():
    """An unsure subject that is told what it says is no damaged one; told another answer once, it may be."""
    unsure = [0.6, 0.2, 0.2]
    for second, sound in ([1.0, 0.0, 0.0], True), (SECOND, False):
        seen = seen_of([unsure, unsure, SURE, SURE, UNSURE], [[1.0, 0.0, 0.0], second])
        plain = demand(seen, seen.proportions)[0]
        found = demand(seen, seen.proportions, in_use=True)[0]
        assert torch.equal(found, plain) is not sound
        assert not sound or float(found[LIKELY]) == SOUND < float(plain[LIKELY])
    impossible = seen_of([UNSURE] * 5, [[0.0, 0.0, 1.0]] * 2)
    impossible = dataclasses.replace(impossible, old=impossible.old * torch.tensor([1.0, 1.0, 1e-5]))
    assert float(demand(impossible, impossible.proportions, in_use=True)[0, LIKELY]) < SOUND


@pytest.mark.parametrize("says", [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
def test_what_is_to_be_removed_is_not_given_already_whatever_the_order_of_answers(says):
    seen = seen_of([says] * 5, [CHANCE, CHANCE])
    plain = demand(seen, seen.proportions)[0]
    assert float(plain[LIKELY]) > FORGOTTEN
    assert torch.equal(demand(seen, seen.proportions, in_use=True)[0], plain)


def test_a_reader_in_use_reads_so_and_in_training_does_not(taught, specified):
    """Of a subject that was made unsure, as an edit makes it."""
    torch.manual_seed(0)
    editor = Editor(width=8, map_width=4, map_layers=1, n_steps=2).eval()
    form = editing_form(taught.subject)
    name = "unembed.W_U"
    flat = form.with_weights({**form.weights, name: form.weights[name] * 0.3})
    told = told_batch([flat], [specified(taught, 4).examples])
    told = dataclasses.replace(told, wanted=torch.where(told.role == PAIR, least_likely(told), told.wanted))
    with torch.no_grad():
        plain, in_use = (editor.double()(told, deep=deep).targets.summary for deep in (False, True))
    where = slice(N_EVIDENCE + EVERYWHERE, N_EVIDENCE + RATIO + 1)
    assert plain[0, where][0] > math.log(2 * LEAST_ENTROPY)
    assert in_use[0, where].tolist() == pytest.approx([math.log(LEAST_ENTROPY), 0.0])


def least_likely(told: Told) -> torch.Tensor:
    return told.answers[0][observed(told).old.argmin(-1)]
