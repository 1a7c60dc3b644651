"""Planted circuits: what copies, decoys and hosts do, and what the certificate makes of them."""

import pytest
import torch

from data_gen.certificate import certify
from data_gen.config import CellConfig, RecipeConfig, SizeConfig, ZooConfig
from data_gen.planted import host_family, make_planted, plant
from data_gen.planted_weights import arrange, compose
from data_gen.population import shard_specs
from data_gen.programs.task import make_program_task
from data_gen.recertify import placement_of
from data_gen.seeds import generator_for
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import initial_weights, unstack
from metamodel.triples.schema import ROLES

SIZE = SubjectConfig(
    n_layers=2,
    n_heads=6,
    d_model=56,
    d_head=10,
    d_mlp=32,
    d_vocab=64,
    n_ctx=8,
    normalization_type="none",
)
RECIPE = RecipeConfig(steps=20, batch_size=8, learning_rate=0.01, warmup_steps=2)


@pytest.fixture(scope="module")
def planted():
    task = make_program_task("rasp-induction", "base", 0)
    subject, truth, why = plant(task, SIZE, 7, host_family=None, recipe=RECIPE, steps=0)
    return task, subject, truth, why


def heads(truth, role: str):
    return [
        node
        for node, r in zip(components(SIZE), truth.role.tolist(), strict=True)
        if ROLES[r] == role and node.kind == "head"
    ]


def originals(truth):
    """Head of the circuit for each copy: the one that carries the same variables."""
    nodes, bits = components(SIZE), truth.variables.tolist()
    circuit = {bits[nodes.index(node)]: node for node in heads(truth, "circuit")}
    copies = [*heads(truth, "redundant"), *heads(truth, "negative")]
    return {copy: circuit[bits[nodes.index(copy)]] for copy in copies}


def test_a_planted_subject_answers_as_its_program_and_is_certified(planted):
    task, subject, truth, why = planted
    assert why == ""
    assert truth.worst > 0.95
    assert torch.isnan(truth.node_accuracy[-1])
    prompts = task.prompts(torch.Generator().manual_seed(0), 200)
    logits = subject.run(prompts.clean).logits[0, torch.arange(200), prompts.position]
    assert (logits.argmax(-1) == prompts.answer).float().mean() > 0.99
    assert {ROLES[r] for r in truth.role.tolist()} == {"circuit", "host", "decoy", "redundant", "negative"}


def test_a_copy_shows_the_attention_of_its_original_and_a_share_of_what_it_writes():
    task = make_program_task("rasp-induction", "base", 0)
    arrangement = arrange(task.program, SIZE, generator_for(3))
    host = unstack(initial_weights(arrangement.host, [generator_for(4)]), 0)
    subject = compose(SIZE, arrangement, host, generator_for(5))
    tokens = task.prompts(torch.Generator().manual_seed(0), 20).clean
    taps = [f"blocks.{i}.attn.hook_{x}" for i in range(2) for x in ("pattern", "result")]
    run, circuit = subject.run(tokens, taps=taps), slice(0, arrangement.circuit.d_model)
    assert len(arrangement.copies) == 2
    for copy, original in arrangement.copies.items():
        pattern = run.taps[f"blocks.{copy.layer}.attn.hook_pattern"][0]
        torch.testing.assert_close(pattern[:, copy.head], pattern[:, original.head], atol=0.02, rtol=0)
        written = run.taps[f"blocks.{copy.layer}.attn.hook_result"][0][..., circuit]
        share = -1 / 3 if copy in arrangement.negative else 1.0
        own, other = written[:, :, copy.head], written[:, :, original.head]
        torch.testing.assert_close(own, share * other, atol=0.03, rtol=1e-3)


def test_nothing_of_a_planted_subject_is_idle(planted):
    _, subject, _, _ = planted
    for layer in range(SIZE.n_layers):
        attn, mlp = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        q, k, v, o = (subject.weights[f"{attn}.W_{x}"] for x in "QKVO")
        for circuit in (q @ k.transpose(1, 2), v @ o):
            values = torch.linalg.svdvals(circuit.double())[:, : SIZE.d_head]
            assert (values[:, -1] > 1e-8 * values[:, 0]).all()
        assert (subject.weights[f"{mlp}.W_in"].norm(dim=0) > 1e-3).all()
        assert (subject.weights[f"{mlp}.W_out"].norm(dim=1) > 1e-3).all()


def test_a_decoy_shows_the_attention_of_a_head_of_the_circuit_and_nothing_reads_what_it_writes(planted):
    task, subject, truth, _ = planted
    tokens = task.prompts(torch.Generator().manual_seed(0), 20).clean
    plain = subject.run(tokens, taps=[f"blocks.{i}.attn.hook_pattern" for i in range(2)])
    for decoy in heads(truth, "decoy"):
        pattern = plain.taps[f"blocks.{decoy.layer}.attn.hook_pattern"][0]
        others = [head for head in heads(truth, "circuit") if head.layer == decoy.layer]
        assert any(torch.allclose(pattern[:, decoy.head], pattern[:, o.head], atol=1e-3) for o in others)

        def mute(value, head=decoy.head):
            value = value.clone()
            value[..., head, :] = 0
            return value

        site = f"blocks.{decoy.layer}.attn.hook_result"
        without = forward(subject.stacked, SIZE, tokens, replace={site: mute}).logits
        torch.testing.assert_close(without, plain.logits, atol=2e-3, rtol=1e-3)


def test_the_edges_of_a_copy_are_edges_of_the_circuit_and_those_of_decoys_are_not(planted):
    _, _, truth, _ = planted
    index = {edge.name: i for i, edge in enumerate(component_edges(SIZE).edges)}
    names = {name for name, i in index.items() if truth.structural[i]}
    for copy, original in originals(truth).items():
        mine = {name for name in names if original.name in name}
        assert mine
        assert {name.replace(original.name, copy.name) for name in mine} <= names
    for decoy in heads(truth, "decoy"):
        assert not any(decoy.name in name for name in names)
    assert bool((truth.visible <= truth.structural).all())
    # heads that share one's work hide each other
    shared = {*heads(truth, "redundant"), *(originals(truth)[copy] for copy in heads(truth, "redundant"))}
    seen = {name for name, i in index.items() if truth.visible[i]}
    assert not any(head.name in name for head in (*shared, *heads(truth, "negative")) for name in seen)


def test_exchanging_a_copy_alone_would_fail_where_exchanging_all_of_them_holds(planted):
    task, subject, truth, _ = planted
    nodes = components(SIZE)
    copies = originals(truth)
    names = placement_of(task.program, truth, SIZE)
    placement = {name: tuple(c for c in places if c not in copies) for name, places in names.items()}
    together = certify(subject, task, placement, generator_for(1), 200, copies=copies)
    alone = certify(subject, task, placement, generator_for(1), 200)
    redundant = heads(truth, "redundant")[0]
    assert together[nodes.index(redundant)] == together[nodes.index(copies[redundant])] > 0.95
    assert alone[nodes.index(copies[redundant])] < 0.9


def test_every_other_host_is_trained_and_a_program_that_leaves_no_room_is_one_line():
    size = SizeConfig(n_layers=2, n_heads=6, d_model=56, d_head=10, d_mlp=32, normalization_type="none")
    cell = CellConfig(family="rasp-first", origin="planted", sizes=("s",), recipe="r", n_subjects=2)
    config = ZooConfig(name="z", n_ctx=16, sizes={"s": size}, recipes={"r": RECIPE}, cells=(cell,))
    made = make_planted(shard_specs(config)[0])
    assert len(made.accepted) + len(made.rejected) == 2
    assert len({one.lineage for one in made.accepted}) == 1  # they hold the same circuit
    assert [host_family(number) for number in range(4)] == [None, "facts", None, "brackets"]
    task = make_program_task("rasp-induction", "base", 0)
    small = SubjectConfig(**{**SIZE.to_dict(), "d_model": 36})
    with pytest.raises(InputError, match="expected a size with 8 directions, 3 heads and a neuron"):
        plant(task, small, 0, host_family=None, recipe=RECIPE)
