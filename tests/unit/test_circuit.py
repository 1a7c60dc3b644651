"""Circuits that are discovered, and the ways to look at them."""

import dataclasses
import json

import pytest
import torch

from metamodel.circuits.circuit import discover
from metamodel.circuits.faithfulness import CircuitRunner, first_edges
from metamodel.config import InputError
from tests.reference.slow import random_prompts, random_subject
from tests.reference.test_exact_circuits import hand_prompts, hand_subject


def test_the_circuit_done_by_hand_is_discovered():
    circuit = discover(hand_subject(), hand_prompts())
    assert [edge.name for edge in circuit.members] == ["token_embedding->L0H0.v", "L0H0->unembedding"]
    assert circuit.recovered == pytest.approx(1.0)
    assert circuit.complement == pytest.approx(0.0)
    assert circuit.redundant_share == 0.0
    assert circuit.stability == 1.0
    graph = circuit.to_networkx()
    assert sorted(graph.edges(keys=True)) == [
        ("L0H0", "unembedding", "logits"),
        ("token_embedding", "L0H0", "v"),
    ]
    assert graph.nodes["L0H0"] == {"kind": "head", "layer": 0, "head": 0}
    assert graph.edges["token_embedding", "L0H0", "v"]["value"] == pytest.approx(-0.75)
    table = circuit.to_pandas()
    assert table["destination"].tolist() == ["L0H0", "unembedding"]
    assert table["redundant"].tolist() == [False, False]


def test_the_circuit_is_the_smallest_that_recovers_enough():
    subject = random_subject(1)
    prompts = random_prompts(2, subject.config, n=16)
    circuit = discover(subject, prompts, faithful=0.8, metric="logit_difference")
    runner = CircuitRunner.of(subject, prompts, "logit_difference")
    ranking = circuit.scores.ranking()
    below = torch.stack([first_edges(ranking, k) for k in range(1, int(circuit.kept.sum()))])
    lower = max(k for k in (1, 2, 3, 5, 8, 13, 21, 34, 55, 61) if k < circuit.kept.sum())
    assert circuit.recovered >= 0.8 - 1e-5
    assert (runner.recovered(below)[lower:] < 0.8).all()
    fixed = discover(subject, prompts, n_edges=7)
    assert len(fixed) <= 7
    assert torch.equal(fixed.scores.ranking(), discover(subject, prompts, n_edges=9).scores.ranking())


def test_a_circuit_goes_to_json_and_to_a_picture(tmp_path):
    subject = random_subject(3).named("mine")
    circuit = discover(subject, random_prompts(4, subject.config, n=1))
    found = json.loads(circuit.to_json())
    assert found["subject"] == "mine"
    assert found["schema_version"] == 1
    assert sum(edge["member"] for edge in found["edges"]) == found["n_edges"] == len(circuit)
    assert len(found["edges"]) == found["n_edges_of_subject"] == 61
    assert found["edges"][0]["se"] is None, "one prompt has no standard error, and JSON no NaN"
    assert found["curve"]["sizes"][0] == 1
    assert found["recovered"] == pytest.approx(circuit.recovered)
    file = tmp_path / "circuit.png"
    circuit.plot().savefig(file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_members_in_colour_by_what_they_do():
    subject = random_subject(5)
    circuit = discover(subject, random_prompts(6, subject.config, n=8), n_edges=12)
    arrows = [p for p in circuit.plot().axes[0].patches if type(p).__name__ == "FancyArrowPatch"]
    values = circuit.scores.value[circuit.kept]
    assert len(arrows) == len(circuit)
    blue = sum(arrow.get_edgecolor()[2] > arrow.get_edgecolor()[0] for arrow in arrows)
    assert blue == int((values < 0).sum())
    assert 0 < blue < len(arrows), "both kinds are there to be told apart"
    restored = discover(subject, random_prompts(6, subject.config, n=8), n_edges=12, intervention="denoising")
    arrows = [p for p in restored.plot().axes[0].patches if type(p).__name__ == "FancyArrowPatch"]
    blue = sum(arrow.get_edgecolor()[2] > arrow.get_edgecolor()[0] for arrow in arrows)
    assert blue == int((restored.scores.value[restored.kept] > 0).sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"faithful": 0.0}, r"faithful: expected above 0, at most 1, got 0.0\. Take 0\.9\."),
        ({"n_edges": 62}, r"n_edges: expected 1 to 61, the edges of subject, got 62\."),
        ({"metric": "loss"}, "metric: expected margin or"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, message):
    subject = random_subject(7)
    with pytest.raises(InputError, match=message):
        discover(subject, random_prompts(8, subject.config), **settings)


def test_prompts_with_equal_answers_are_refused():
    subject = random_subject(9)
    prompts = random_prompts(10, subject.config)
    same = dataclasses.replace(prompts, corrupt_answer=prompts.answer)
    with pytest.raises(InputError, match="expected another answer than the clean prompt's"):
        discover(subject, same)
