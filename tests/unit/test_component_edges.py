"""Which component can feed which input, and in which order edges stand."""

import pytest

from metamodel.circuits.graph import component_edges
from metamodel.subjects.config import SubjectConfig, components


def config(n_layers: int, n_heads: int, d_mlp: int = 4) -> SubjectConfig:
    return SubjectConfig(
        n_layers=n_layers, n_heads=n_heads, d_model=4, d_head=2, d_mlp=d_mlp, d_vocab=5, n_ctx=3
    )


@pytest.mark.parametrize(
    ("n_layers", "n_heads", "d_mlp", "count"),
    [
        (2, 4, 4, 137),
        (3, 4, 4, 302),
        (4, 4, 4, 532),
        (4, 8, 4, 1620),
        (2, 4, 0, 106),
        (3, 4, 0, 230),
        (4, 4, 0, 402),
    ],
)
def test_the_number_of_edges_is_the_enumerated_one(n_layers, n_heads, d_mlp, count):
    assert len(component_edges(config(n_layers, n_heads, d_mlp))) == count


def test_edges_are_grouped_by_destination_and_sources_follow_the_computation():
    edges = component_edges(config(1, 2))
    embeddings = ["token_embedding", "position_embedding"]
    readers = ["L0H0.q", "L0H1.q", "L0H0.k", "L0H1.k", "L0H0.v", "L0H1.v"]
    expected = [f"{source}->{reader}" for reader in readers for source in embeddings]
    expected += [f"{source}->MLP0" for source in (*embeddings, "L0H0", "L0H1")]
    expected += [f"{source}->unembedding" for source in (*embeddings, "L0H0", "L0H1", "MLP0")]
    assert [edge.name for edge in edges.edges] == expected


@pytest.mark.parametrize("d_mlp", [0, 4])
def test_no_component_feeds_itself_or_an_earlier_one(d_mlp):
    edges = component_edges(config(3, 2, d_mlp))
    for source, destination in zip(edges.source_node, edges.destination_node, strict=True):
        assert source < destination
        first, second = edges.nodes[source], edges.nodes[destination]
        if first.kind == second.kind == "head":
            assert first.layer < second.layer, "heads of one block compute side by side"


def test_node_indices_point_at_the_components_of_the_subject():
    shape = config(2, 2)
    edges = component_edges(shape)
    assert edges.nodes == components(shape)
    for i, edge in enumerate(edges.edges):
        assert edges.nodes[edges.source_node[i]] == edge.source
        assert edges.nodes[edges.destination_node[i]] == edge.destination.component
