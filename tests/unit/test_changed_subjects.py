"""Subjects that were made from others: what they still answer, and where their components went."""

from dataclasses import replace

import pytest
import torch

from data_gen.matching.changed import Growth, damaged, enlarged, gauged, unchanged
from data_gen.matching.circuits import truth_between
from data_gen.matching.program import counterpart_by_variables, orbit_by_claims
from data_gen.tasks import make_task
from metamodel.analogy.graph import circuit_graph
from metamodel.analogy.pairs import NONE
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.prompts import Prompts
from metamodel.config import InputError
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject, initial_weights, unstack

TASK = make_task("sorting", "base", 0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subject(norm: str = "LN", d_mlp: int = 16, seed: int = 0) -> Subject:
    config = SubjectConfig(
        n_layers=2,
        n_heads=3,
        d_model=16,
        d_head=4,
        d_mlp=d_mlp,
        d_vocab=64,
        n_ctx=16,
        normalization_type=norm,  # pyright: ignore[reportArgumentType]
    )
    drawn = initial_weights(config, [generator(seed)], init_std=0.6)
    biased = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator(1)) for key, value in drawn.items()
    }
    return Subject(config=config, weights=unstack(biased, 0))


def prompts(seed: int = 0) -> Prompts:
    return TASK.prompts(generator(seed), 8)


def logits(one: Subject) -> torch.Tensor:
    return one.double().run(prompts().clean).logits[0]


@pytest.mark.parametrize("norm", ["LN", "none"])
@pytest.mark.parametrize("d_mlp", [0, 16])
def test_a_wider_stream_changes_no_logit(norm, d_mlp):
    one = subject(norm, d_mlp)
    made = enlarged(one, Growth(heads=0, width=8), generator(3))
    assert made.subject.config.d_model == 24
    torch.testing.assert_close(logits(made.subject), logits(one), rtol=1e-4, atol=1e-4)
    assert torch.equal(made.counterpart, torch.arange(len(components(one.config))))


@pytest.mark.parametrize("norm", ["LN", "none"])
def test_what_grows_keeps_answers_and_new_components_can_be_told_to_do_nothing(norm):
    one = subject(norm)
    made = enlarged(one, Growth(heads=2, blocks=2, width=8, loud=1), generator(4))
    config = made.subject.config
    assert (config.n_layers, config.n_heads, config.d_model) == (4, 5, 24)
    new = set(range(len(components(config)))) - set(made.counterpart.tolist())
    weights = {key: value.clone() for key, value in made.subject.weights.items()}
    for i in new:
        node = components(config)[i]
        name = f"blocks.{node.layer}." + ("attn.W_O" if node.kind == "head" else "mlp.W_out")
        assert weights[name].any()
        if node.kind == "head":
            weights[name][node.head] = 0
        else:
            weights[name].zero_()
    assert len(new) == 4 * 5 + 4 - (2 * 3 + 2)
    silent = made.subject.with_weights(weights)
    torch.testing.assert_close(logits(silent), logits(one), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(made.subject), logits(one), atol=1e-3)
    agree = (logits(made.subject).argmax(-1) == logits(one).argmax(-1)).double().mean()
    assert agree > 0.8


def test_loud_heads_write_as_much_as_old_ones_and_only_to_new_directions():
    one = subject()
    made = enlarged(one, Growth(heads=1, width=8, loud=2), generator(5)).subject
    for layer in range(2):
        write = made.weights[f"blocks.{layer}.attn.W_O"]
        sizes = write.norm(dim=(1, 2))
        assert sizes[3] > 0.5 * sizes[:3].min()
        read = torch.cat([made.weights[f"blocks.{i}.attn.W_{x}"][:3] for i in range(2) for x in "QKV"])
        assert (write[3] @ read).abs().max() < 1e-5
        assert (write[0] @ read).abs().max() > 1e-2


def test_loud_heads_without_new_directions_are_refused():
    with pytest.raises(InputError, match=r"growth\.loud: expected a wider residual stream to write to"):
        Growth(loud=1)


def test_a_damaged_subject_lacks_what_was_removed_and_has_strangers_of_matched_norm():
    one = subject()
    heads = [i for i, node in enumerate(components(one.config)) if node.kind == "head"]
    made = damaged(one, TASK, heads[:2], 2, generator(6))
    assert made.counterpart[heads[:2]].tolist() == [NONE, NONE]
    assert (made.counterpart != NONE).sum() == len(components(one.config)) - 2
    layers = [made.subject.weights[f"blocks.{i}.attn.W_O"] for i in range(2)]
    assert not layers[0][:2].any()
    norms = torch.cat([layer[3:].norm(dim=(1, 2)) for layer in layers])
    assert (norms > 0).sum() == 2
    old = torch.cat([one.weights[f"blocks.{i}.attn.W_O"].norm(dim=(1, 2)) for i in range(2)])
    assert all(bool(((old - norm).abs() < 1e-4).any()) for norm in norms[norms > 0])
    nothing = damaged(one, TASK, [], 0, generator(6))
    torch.testing.assert_close(logits(nothing.subject), logits(one))


@pytest.mark.parametrize("norm", ["LN", "none"])
def test_a_gauge_moves_edges_as_the_truth_says_and_other_prompts_move_them_otherwise(norm):
    one = subject(norm)
    made = gauged(unchanged(one), generator(12))
    # an order that is its own inverse could not tell the two directions of the map apart
    assert not torch.equal(made.counterpart[made.counterpart], torch.arange(len(made.counterpart)))
    assert sorted(made.counterpart.tolist()) == list(range(len(components(one.config))))
    assert not torch.equal(made.counterpart, torch.arange(len(made.counterpart)))
    first, kept = _circuit(one, prompts())
    second, other = _circuit(made.subject, prompts())
    truth = truth_between(kept, other, made.counterpart)
    assert (truth != NONE).all()
    moved = second.edges[:, truth][:, :, truth]
    assert (moved - first.edges).abs().max() <= 1e-4 * first.edges.abs().max()
    assert not torch.allclose(second.edges, first.edges, atol=1e-3)
    again, _ = _circuit(one, prompts(9))
    assert again.edges.shape != first.edges.shape or not torch.allclose(again.edges, first.edges, atol=1e-3)


def _circuit(one: Subject, on: Prompts):
    values = edge_scores(one.double(), on, "noising").margin
    return circuit_graph(one.config, values, least_share=0.0)


def test_a_component_that_is_no_node_has_no_counterpart():
    counterpart = torch.tensor([2, 0, 1, 3])
    assert truth_between(torch.tensor([0, 1, 3]), torch.tensor([0, 1, 3]), counterpart).tolist() == [
        NONE,
        0,
        2,
    ]


def test_components_that_carry_the_same_variables_correspond_and_copies_are_one_orbit():
    head, other, end = ("head", False, 1), ("head", False, 2), ("unembedding", False, 0)
    first, second = [head, head, other, None, end], [other, head, ("head", True, 1), end]
    truth = counterpart_by_variables(first, second)
    assert truth.tolist() == [1, NONE, 0, NONE, 3]
    assert orbit_by_claims(first, torch.arange(5)).tolist() == [0, 0, 2, 3, 4]
    assert orbit_by_claims(first, torch.tensor([4, 1, 0])).tolist() == [0, 1, 1]


def test_a_stack_of_changes_is_one_map():
    one = subject()
    grown = enlarged(one, Growth(heads=1, blocks=1), generator(8))
    moved = gauged(grown, generator(9))
    nodes = components(one.config)
    there = components(moved.subject.config)
    for old, new in enumerate(moved.counterpart.tolist()):
        assert there[new].kind == nodes[old].kind
    torch.testing.assert_close(logits(moved.subject), logits(grown.subject), rtol=1e-3, atol=1e-3)
    assert moved.counterpart.unique().numel() == len(nodes)
    assert replace(moved).subject.config == grown.subject.config
