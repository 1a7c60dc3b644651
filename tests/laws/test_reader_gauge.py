"""Laws of the reader: no gauge, order or company changes a reading, and a real change of a subject does."""

import dataclasses
import inspect

import pytest
import torch

from metamodel.config.words import Track
from metamodel.features.batch import SeenBatch, pad_seen
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import CHANNELS as EVIDENCE
from metamodel.features.examples import ComponentGraph, Seen
from metamodel.features.graph import graph_of
from metamodel.features.matrices import Matrices
from metamodel.features.registry import closed_form_columns, feature_names
from metamodel.features.view import Shown
from metamodel.networks.reader import Reader, ReaderSizes
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.gauge import gauge_element
from metamodel.training.normaliser import fit_normaliser

TOLERANCE = 1e-3
SHAPES = {
    "layer norm": SubjectConfig(n_layers=2, n_heads=3, d_model=24, d_head=8, d_mlp=16, d_vocab=30, n_ctx=12),
    "no norm": SubjectConfig(
        n_layers=2, n_heads=2, d_model=16, d_head=8, d_mlp=12, d_vocab=30, n_ctx=12, normalization_type="none"
    ),
    "gelu, bidirectional": SubjectConfig(
        n_layers=1,
        n_heads=4,
        d_model=24,
        d_head=6,
        d_mlp=16,
        d_vocab=30,
        n_ctx=12,
        act_fn="gelu",
        attention_dir="bidirectional",
    ),
}


def subject_of(config: SubjectConfig, seed: int = 0) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator]), 0)
    rough = {k: w + 0.1 * torch.randn(w.shape, generator=generator) for k, w in weights.items()}
    return Subject(config=config, weights=rough, name=f"subject-{seed}")


def described(subject: Subject, track: Track) -> ComponentGraph:
    """The graph of a subject that is shown prompts, which ask at several positions."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(subject.config.d_vocab, (24, 9), generator=generator)
    shown = Shown(tokens=tokens, position=torch.tensor([8, 6, 8, 7] * 6))
    return graph_of(subject, track, shown=shown)


def seen_of(graph: ComponentGraph, config: SubjectConfig) -> Seen:
    generator = torch.Generator().manual_seed(9)
    evidence = torch.randn(2, 1, config.d_vocab, len(EVIDENCE), generator=generator)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    return Seen(
        id="x",
        config=config,
        graph=graph,
        family="",
        variant="",
        slice_names=("easy",),
        probe_tokens=tokens,
        probe_position=tokens[:, 0],
        probe_slice=tokens[:, 0],
        evidence=evidence.expand(-1, len(graph.kinds), -1, -1),
    )


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    sizes = ReaderSizes(
        n_features=len(feature_names("both")),
        n_channels=len(CHANNELS),
        n_evidence=len(EVIDENCE),
        n_labels=4,
        n_slices=1,
        n_algorithms=1,
        closed_forms=closed_form_columns("both", ("previous_token", "induction", "positional", "other")),
        width=16,
        n_layers=2,
        n_heads=2,
        edge_width=8,
        encoder_width=6,
        encoded=10,
        members=2,
    )
    made = Reader(sizes)
    subjects = [subject_of(config, seed) for config in SHAPES.values() for seed in (1, 2)]
    fit_normaliser(made.normaliser, [seen_of(described(s, "both"), s.config) for s in subjects], "both")
    return made.eval()


def answers(reader: Reader, *seen: Seen):
    return reader.answers(pad_seen(seen, ("easy",)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_readings_move_with_the_nodes_of_a_random_gauge_and_no_further(reader, shape, seed):
    subject = subject_of(SHAPES[shape])
    element = gauge_element(subject, torch.Generator().manual_seed(seed))
    assert any(not torch.allclose(element.subject.weights[k], w) for k, w in subject.weights.items())
    old, new = described(subject, "both"), described(element.subject, "both")
    order = element.node_order
    torch.testing.assert_close(new.nodes, old.nodes[order], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(new.edges, old.edges[order][:, order], atol=TOLERANCE, rtol=0)
    assert old.matrices is not None
    assert new.matrices is not None
    for name in ("tokens", "positions", "crossed"):
        was, now = getattr(old.matrices, name), getattr(new.matrices, name)
        torch.testing.assert_close(now, was[order], atol=TOLERANCE, rtol=0)
    before, after = (
        answers(reader, seen_of(old, subject.config)),
        answers(reader, seen_of(new, subject.config)),
    )
    torch.testing.assert_close(after.algorithm, before.algorithm, atol=TOLERANCE, rtol=0)
    for name in ("function_probability", "function_score", "node_member"):
        was, now = getattr(before, name)[0], getattr(after, name)[0]
        torch.testing.assert_close(now, was[order], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(
        after.edge_member[0], before.edge_member[0][order][:, order], atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(after.slice_accuracy, before.slice_accuracy, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(after.answer, before.answer, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", ["attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "mlp.W_in", "mlp.W_out"])
def test_a_real_change_of_any_matrix_moves_features_and_readings(reader, shape, weight):
    subject = subject_of(SHAPES[shape])
    name = f"blocks.0.{weight}"
    changed = dict(subject.weights) | {name: subject.weights[name].flip(-2)}
    old, new = described(subject, "both"), described(subject.with_weights(changed), "both")
    assert float((old.nodes - new.nodes).abs().max()) > 100 * TOLERANCE
    before, after = (
        answers(reader, seen_of(old, subject.config)),
        answers(reader, seen_of(new, subject.config)),
    )
    moved = (before.function_probability - after.function_probability).abs().max()
    assert float(moved) > 2 * TOLERANCE


def test_company_and_padding_change_no_reading(reader):
    small, large = subject_of(SHAPES["no norm"]), subject_of(SHAPES["layer norm"])
    seen = [seen_of(described(s, "both"), s.config) for s in (small, large)]
    alone, together = answers(reader, seen[0]), answers(reader, *seen)
    n = len(seen[0].graph.kinds)
    assert together.function_probability.shape[1] > n
    for name in ("function_probability", "function_score", "node_member"):
        torch.testing.assert_close(getattr(together, name)[0, :n], getattr(alone, name)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.edge_member[0, :n, :n], alone.edge_member[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.slice_accuracy[0], alone.slice_accuracy[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.answer[0], alone.answer[0], atol=1e-5, rtol=0)


def permuted(graph: ComponentGraph, order: torch.Tensor) -> Matrices:
    """Matrices of nodes in another order, and of pairs in the order that follows from it."""
    m, exists = graph.matrices, graph.edges[..., 0] > 0
    assert m is not None
    row = torch.full(exists.shape, -1)
    row[exists] = torch.arange(int(exists.sum()))
    moved = row[order][:, order]
    by_node = {name: getattr(m, name)[order] for name in ("tokens", "positions", "crossed", "neurons")}
    return Matrices(**by_node, followed=m.followed[moved[moved >= 0]])


def test_permuted_nodes_give_permuted_readings(reader):
    subject = subject_of(SHAPES["layer norm"])
    graph = described(subject, "both")
    order = torch.randperm(len(graph.kinds), generator=torch.Generator().manual_seed(3))
    other = ComponentGraph(
        nodes=graph.nodes[order],
        edges=graph.edges[order][:, order],
        kinds=graph.kinds[order],
        depth=graph.depth[order],
        matrices=permuted(graph, order),
    )
    was, now = (
        answers(reader, seen_of(graph, subject.config)),
        answers(reader, seen_of(other, subject.config)),
    )
    torch.testing.assert_close(
        now.function_probability[0], was.function_probability[0][order], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(now.edge_member[0], was.edge_member[0][order][:, order], atol=1e-5, rtol=0)


def test_edges_and_activations_reach_the_reading(reader):
    subject = subject_of(SHAPES["layer norm"])
    graph = described(subject, "both")
    whole = answers(reader, seen_of(graph, subject.config)).function_probability
    flat = torch.cat([graph.edges[..., :2], torch.zeros_like(graph.edges[..., 2:])], dim=-1)
    without = dataclasses.replace(graph, edges=flat)
    assert (answers(reader, seen_of(without, subject.config)).function_probability - whole).abs().max() > 1e-3
    nodes = graph.nodes.clone()
    nodes[:, -1] = 0
    unseen = dataclasses.replace(graph, nodes=nodes)
    silent = answers(reader, seen_of(unseen, subject.config)).function_probability
    assert (silent - whole).abs().max() > 1e-3
    nodes = nodes.clone()
    nodes[:, reader.normaliser.of_activations] *= -5
    scrambled = dataclasses.replace(graph, nodes=nodes)
    same = answers(reader, seen_of(scrambled, subject.config)).function_probability
    torch.testing.assert_close(same, silent, atol=1e-6, rtol=0)


def test_no_label_can_reach_the_forward_of_the_reader():
    taken = inspect.signature(Reader.forward).parameters
    assert {name: p.annotation for name, p in taken.items() if name != "self"} == {"batch": SeenBatch}
    held = set(SeenBatch.__dataclass_fields__)
    assert held == {
        "nodes",
        "edges",
        "kinds",
        "depth",
        "node_mask",
        "slices",
        "evidence",
        "n_tokens",
        "matrices",
    }
