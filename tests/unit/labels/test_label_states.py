"""The rule that turns a score, its null and its causal twin into a state."""

from collections.abc import Callable

import pytest
import torch

from data_gen.function_labels import function_labels, states
from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import raw_scores
from data_gen.labels.registry import LABELS, MLP_LABELS
from data_gen.labels.twins import twins
from data_gen.null import LabelNull
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE

NAN = float("nan")
EFFECT_SIZES = torch.tensor([label.effect_size for label in LABELS])


@pytest.mark.parametrize(
    ("above_effect_size", "above_null", "holds", "state"),
    [
        (0.01, 0.01, True, POSITIVE),
        (0.01, 0.01, False, PATTERN_ONLY),
        (0.0, 0.01, True, POSITIVE),
        (-0.01, 0.01, True, NEGATIVE),
        (-0.01, 0.01, False, NEGATIVE),
        (0.01, 0.0, True, NEGATIVE),
        (0.01, -0.01, True, NEGATIVE),
        (-0.01, -0.01, True, NEGATIVE),
        (NAN, 0.0, True, MASKED),
        (0.01, NAN, True, MASKED),
        (-0.01, NAN, False, MASKED),
    ],
)
def test_a_state_needs_the_effect_size_the_null_and_the_twin(
    above_effect_size: float, above_null: float, holds: bool, state: int
):
    raw = (EFFECT_SIZES + above_effect_size).expand(1, 1, -1)
    largest = torch.nan_to_num(raw[0, 0]) - above_null
    found = states(raw, largest, torch.full(raw.shape, holds))
    assert found.tolist() == [[[state] * len(LABELS)]]


def test_states_of_one_head_or_label_leave_those_of_others():
    raw = (EFFECT_SIZES + 0.1).expand(2, 2, -1).clone()
    largest, holds = torch.zeros(len(LABELS)), torch.ones(raw.shape, dtype=torch.bool)
    raw[0, 1, 2], raw[1, 0, 3], holds[1, 1, 4], largest[5] = NAN, 0.0, False, 2.0
    expected = torch.full(raw.shape, POSITIVE)
    expected[0, 1, 2], expected[1, 0, 3], expected[1, 1, 4] = MASKED, NEGATIVE, PATTERN_ONLY
    expected[:, :, 5] = NEGATIVE
    assert torch.equal(states(raw, largest, holds), expected)


def test_what_is_stored_of_a_head_is_its_score_its_null_and_its_twin(
    random_subject: Callable[..., Subject],
    battery: Callable[..., Batteries],
    repeated_prompts: Callable[..., Prompts],
):
    subject, prompts, tests = random_subject(), repeated_prompts(8), battery(8)
    config = subject.config
    ramp = torch.arange(1.0, len(LABELS) + 1)
    null = LabelNull(largest=ramp / 100, mean=ramp / 1000, std=ramp / 50)
    found = function_labels(subject, prompts, tests, null)
    scores = raw_scores(subject.stacked, config, tests, (prompts,))
    raw, causal = scores.value, twins(canonical(subject), prompts, scores)
    expected_states = states(raw[0], null.largest, causal.holds)
    for i, node in enumerate(components(config)):
        if node.kind not in ("head", "mlp"):
            assert found.state[i].tolist() == [MASKED] * len(LABELS)
            for values in (found.raw, found.null_max, found.null_z, found.twin):
                assert bool(values[i].isnan().all())
            continue
        where = (node.layer, node.head)  # -1 is the MLP, behind the heads
        torch.testing.assert_close(found.raw[i], raw[0][where], rtol=0, atol=0, equal_nan=True)
        mine = [(label in MLP_LABELS) == (node.kind == "mlp") for label in LABELS]
        assert torch.equal(found.state[i], expected_states[where])
        for j in range(len(LABELS)):
            score = float(raw[0][where][j])
            expected_max = (j + 1) / 100 if mine[j] else NAN
            assert float(found.null_max[i, j]) == pytest.approx(expected_max, nan_ok=True)
            expected_z = (score - (j + 1) / 1000) / ((j + 1) / 50)
            assert float(found.null_z[i, j]) == pytest.approx(expected_z, rel=1e-4, nan_ok=True)
            assert mine[j] or found.state[i, j] == MASKED
            assert float(found.twin[i, j]) == pytest.approx(float(causal.effect[where][j]), nan_ok=True)
