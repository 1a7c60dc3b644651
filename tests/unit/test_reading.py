"""A reading by one label, and what a user must know of it."""

import pytest
import torch

from metamodel.config import InputError
from metamodel.reading import Reading
from metamodel.subjects import SubjectConfig, components

CONFIG = SubjectConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, d_mlp=0, d_vocab=9, n_ctx=4)


@pytest.fixture
def reading() -> Reading:
    nodes = components(CONFIG)
    nan = float("nan")
    return Reading(
        subject="one",
        nodes=nodes,
        labels=("self", "induction"),
        probabilities=torch.tensor([[nan, nan], [nan, nan], [0.1, 0.2], [0.3, 0.9], [nan, nan]]),
        scores=torch.tensor([[nan, nan], [nan, nan], [0.5, 0.6], [0.7, 0.8], [nan, nan]]),
        in_circuit=torch.zeros(len(nodes)),
        edge_in_circuit=torch.zeros(len(nodes), len(nodes)),
        algorithm="rasp-sort",
        algorithm_probability=0.75,
        notes=("far",),
    )


def test_components_are_ranked_by_a_label_and_those_without_it_left_out(reading):
    ranked = reading.ranked("induction")
    assert list(ranked.index) == ["L0H1", "L0H0"]
    assert ranked["probability"].tolist() == pytest.approx([0.9, 0.2])
    assert ranked["score"].tolist() == pytest.approx([0.8, 0.6])


def test_a_reading_of_one_label_keeps_its_notes(reading):
    plain = reading.only("induction").to_dict()
    assert plain["notes"] == ["far"]
    assert plain["components"][3]["probabilities"] == {"induction": pytest.approx(0.9)}


def test_an_unknown_label_is_refused_in_one_line(reading):
    for ask in (reading.ranked, reading.only):
        with pytest.raises(InputError) as error:
            ask("inducton")
        assert str(error.value) == (
            "label: expected one of self, induction, got 'inducton'. Name one of them. "
            "Did you mean 'induction'?"
        )
