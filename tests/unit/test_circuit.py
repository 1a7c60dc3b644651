"""Circuits that are discovered, and the ways to look at them."""

import dataclasses
import json

import pytest
import torch

from metamodel.circuits.base_run import INTERVENTIONS
from metamodel.circuits.baselines import RandomScores, WeightNorm
from metamodel.circuits.circuit import BACKWARDS, Circuit, discover
from metamodel.circuits.faithfulness import CircuitRunner, first_edges
from metamodel.circuits.pruning import without_dangling
from metamodel.circuits.quality import stability
from metamodel.config import InputError
from tests.reference.hand import hand_prompts, hand_subject
from tests.reference.slow import random_prompts, random_subject


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


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_what_is_said_of_a_circuit_is_what_its_runs_show(intervention):
    subject = random_subject(21).double()
    prompts = random_prompts(22, subject.config, n=40)
    circuit = discover(subject, prompts, intervention=intervention, n_edges=20)
    runner = CircuitRunner.of(subject, prompts, "margin", intervention)
    kept, rest = circuit.kept[None], ~circuit.kept[None]
    assert circuit.recovered == pytest.approx(float(runner.recovered(kept)[0]))
    assert circuit.complement == pytest.approx(float(runner.recovered(rest)[0]))
    assert abs(circuit.recovered + circuit.complement - 1) > 0.001, "no complement by subtraction"
    torch.testing.assert_close(circuit.kl, runner.divergence(kept)[0])
    plain = circuit.to_dict()
    assert plain["kl_median"] == pytest.approx(float(circuit.kl.quantile(0.5)))
    assert plain["kl_95"] == pytest.approx(float(circuit.kl.quantile(0.95)))
    alive = without_dangling(circuit.scores.edges, circuit.kept)
    top = first_edges(circuit.scores.ranking(), len(circuit))
    if intervention in ("noising", "denoising"):
        assert torch.equal(alive, circuit.kept)
        assert len(circuit) >= 20
    else:
        assert torch.equal(top, circuit.kept), "under zero and mean every edge stays"
    size = next(k for k in range(1, 62) if len(discovered(circuit, k, intervention)) == len(circuit))
    pruned = circuit.scores.edges if intervention in ("noising", "denoising") else None
    assert circuit.scores.per_prompt is not None
    expected = stability(
        circuit.scores.per_prompt, size, generator=torch.Generator().manual_seed(0), pruned=pruned
    )
    assert circuit.stability == pytest.approx(expected)
    assert circuit.notes == ((BACKWARDS,) if runner.full < runner.empty else ())


def discovered(circuit: Circuit, size: int, intervention: str) -> list[int]:
    """Edges of the circuit of the first `size` edges of the ranking."""
    kept = first_edges(circuit.scores.ranking(), size)
    if intervention in ("noising", "denoising"):
        kept = without_dangling(circuit.scores.edges, kept)
    return kept.nonzero().flatten().tolist()


def test_a_circuit_of_one_edge_is_not_empty():
    subject = random_subject(23)
    prompts = random_prompts(24, subject.config, n=16)
    for n in (1, 3, 7):
        assert len(discover(subject, prompts, n_edges=n)) >= n
    whole = discover(subject, prompts, n_edges=61)
    assert not any(edge.source.kind == "position_embedding" for edge in whole.members)
    assert len(whole) == sum(e.source.kind != "position_embedding" for e in whole.scores.edges.edges)


@pytest.mark.parametrize("method", [WeightNorm(), RandomScores()])
def test_scores_without_a_sign_are_drawn_in_grey(method):
    subject = random_subject(25)
    circuit = discover(subject, random_prompts(26, subject.config, n=8), method=method, n_edges=8)
    arrows = [p for p in circuit.plot().axes[0].patches if type(p).__name__ == "FancyArrowPatch"]
    assert {arrow.get_edgecolor()[:3] for arrow in arrows} == {tuple([0x60 / 255] * 3)}
    assert circuit.stability != circuit.stability, "not scored prompt by prompt"


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
    by_kl = discover(subject, random_prompts(6, subject.config, n=8), n_edges=12, metric="kl")
    arrows = [p for p in by_kl.plot().axes[0].patches if type(p).__name__ == "FancyArrowPatch"]
    assert all(arrow.get_edgecolor()[2] > arrow.get_edgecolor()[0] for arrow in arrows), "KL only rises"
    widths = sorted(arrow.get_linewidth() for arrow in arrows)
    sizes = (by_kl.scores.size[by_kl.kept] / by_kl.scores.size[by_kl.kept].max()).sort().values
    torch.testing.assert_close(torch.tensor(widths), (0.5 + 3 * sizes).double(), check_dtype=False)
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
