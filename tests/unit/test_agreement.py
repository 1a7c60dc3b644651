"""Soft labels: shares of measurements, the majority's state, the mean score."""

import dataclasses

import torch

from metamodel.features.examples import Truth
from metamodel.losses.function import pad_truth
from metamodel.training.agreement import _agreed
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE


def rows(*states: list[list[int]]) -> list[dict]:
    return [
        {
            "state": [x for row in state for x in row],
            "raw": [float(i)] * 8,
            "node_member": [i == 0, True, False, False],
        }
        for i, state in enumerate(states)
    ]


def test_shares_majority_and_means(planted_examples):
    seen, truth = planted_examples(1)[0]
    stored = torch.tensor(
        [[POSITIVE, NEGATIVE], [NEGATIVE, PATTERN_ONLY], [MASKED, POSITIVE], [NEGATIVE, NEGATIVE]]
    )
    truth = dataclasses.replace(
        truth,
        function_state=stored,
        function_score=torch.full((4, 2), 5.0),
        node_member=torch.tensor([True, False, False, False]),
        edge_member=torch.zeros(4, 4, dtype=torch.bool),
        edge_exists=torch.ones(4, 4, dtype=torch.bool),
    )
    again = [
        [[NEGATIVE, NEGATIVE], [POSITIVE, PATTERN_ONLY], [POSITIVE, MASKED], [NEGATIVE, NEGATIVE]],
        [[PATTERN_ONLY, NEGATIVE], [POSITIVE, NEGATIVE], [POSITIVE, POSITIVE], [NEGATIVE, POSITIVE]],
    ]
    _, found = _agreed((seen, truth), rows(*again))
    assert found.agreement is not None
    third = 1 / 3
    expected = torch.tensor([[third, 0.0], [2 * third, 0.0], [torch.nan, 1.0], [0.0, third]])
    torch.testing.assert_close(found.agreement.positive, expected, equal_nan=True)
    assert found.function_state.tolist() == [
        [NEGATIVE, NEGATIVE],
        [POSITIVE, PATTERN_ONLY],
        [MASKED, POSITIVE],
        [NEGATIVE, NEGATIVE],
    ]
    assert (found.function_score == 2.0).all()
    assert found.node_member.tolist() == [True, True, False, False]
    targets = pad_truth([found])
    torch.testing.assert_close(targets.positive[0], expected, equal_nan=True)
    torch.testing.assert_close(targets.node_member[0], torch.tensor([2 * third, 2 * third, 0.0, 0.0]))
    hard: Truth = truth
    assert pad_truth([hard]).positive[0, 0, 0] == 1.0
