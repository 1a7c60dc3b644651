"""Patterns in graphs: everything that another implementation finds, and the very edge that was deleted."""

import itertools

import networkx
import pytest
import torch
from networkx.algorithms.isomorphism import DiGraphMatcher

from metamodel.analogy.graph import CHANNELS, CircuitGraph, normalised
from metamodel.analogy.local_conditions import local_conditions
from metamodel.analogy.simulation import (
    INPUTS,
    Required,
    Template,
    contradiction,
    embeddings,
    simulated,
    strength,
)
from metamodel.config.errors import InputError
from metamodel.subjects.config import KINDS

CHAIN = Template(
    roles=("a", "b", "c"),
    edges=(
        Required(source="a", reader="b", channel="k"),
        Required(source="b", reader="c", channel="in"),
        Required(source="a", reader="c", channel="v"),
    ),
)


def drawn_case(seed: int) -> tuple[Template, torch.Tensor, torch.Tensor]:
    """A random pattern, nodes that may play its roles, and a random typed graph `[input, node, node]`."""
    draw = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    n_roles, n = integer(2, 5), integer(3, 9)
    pairs = list(itertools.permutations(range(n_roles), 2))
    chosen = torch.randperm(len(pairs), generator=draw)[: integer(1, n_roles + 2)].tolist()
    roles = tuple("abcde"[:n_roles])
    edges = tuple(
        Required(source=roles[pairs[i][0]], reader=roles[pairs[i][1]], channel=INPUTS[integer(0, 2)])
        for i in chosen
    )
    graph = torch.rand(len(INPUTS), n, n, generator=draw) < 0.25 + 0.1 * integer(0, 4)
    kinds, role_kinds = (torch.randint(2, (m,), generator=draw) for m in (n, n_roles))
    return Template(roles=roles, edges=edges), kinds[None] == role_kinds[:, None], graph


def by_networkx(template: Template, allowed: torch.Tensor, graph: torch.Tensor) -> set[tuple[int, ...]]:
    """Monomorphisms by VF2: nodes of the graph in the order of the roles."""
    n = graph.shape[1]
    host, pattern = networkx.DiGraph(), networkx.DiGraph()
    for node in range(n):
        host.add_node(node, plays=frozenset(allowed[:, node].nonzero().flatten().tolist()))
    for i, k in itertools.permutations(range(n), 2):
        if graph[:, i, k].any():
            host.add_edge(i, k, inputs={INPUTS[c] for c in graph[:, i, k].nonzero().flatten().tolist()})
    for role in range(len(template.roles)):
        pattern.add_node(role, role=role)
    for (a, b), edge in zip(template.ends, template.edges, strict=True):
        held = pattern.edges[a, b]["inputs"] if pattern.has_edge(a, b) else set()
        pattern.add_edge(a, b, inputs=held | {edge.channel})
    matcher = DiGraphMatcher(
        host,
        pattern,
        node_match=lambda node, role: role["role"] in node["plays"],
        edge_match=lambda there, asked: asked["inputs"] <= there["inputs"],
    )
    return {tuple(sorted(found, key=found.__getitem__)) for found in matcher.subgraph_monomorphisms_iter()}


def of_edges(template: Template, graph: torch.Tensor) -> torch.Tensor:
    return torch.stack([graph[INPUTS.index(edge.channel)] for edge in template.edges])


def test_all_that_vf2_finds_is_found_and_no_more():
    n_present = 0
    for seed in range(300):
        template, allowed, graph = drawn_case(seed)
        expected = by_networkx(template, allowed, graph)
        edges = of_edges(template, graph)
        found = {tuple(row) for row in embeddings(template, allowed, edges, most=10**6).tolist()}
        assert found == expected, seed
        left = simulated(template, allowed, edges)
        assert all(bool(left[role, node]) for row in expected for role, node in enumerate(row))
        assert not (left & ~allowed).any()
        held = contradiction(template, allowed.double(), edges.double()) is None
        assert held == bool(expected)
        n_present += bool(expected)
    assert 60 < n_present < 240, "both answers must occur"


def test_candidates_have_the_successors_and_predecessors_that_they_need():
    dropped = 0
    for seed in range(60):
        template, allowed, graph = drawn_case(seed)
        edges = of_edges(template, graph)
        left = simulated(template, allowed, edges)
        for (a, b), there in zip(template.ends, edges, strict=True):
            assert all((there[i] & left[b]).any() for i in left[a].nonzero().flatten())
            assert all((there[:, k] & left[a]).any() for k in left[b].nonzero().flatten())
        dropped += int((allowed & ~left).sum())
    assert dropped > 100


def test_local_conditions_alone_do_not_decide():
    """Two nodes that read from each other hold the local conditions of a chain of three."""
    template = Template(
        roles=("a", "b", "c"),
        edges=(
            Required(source="a", reader="b", channel="k"),
            Required(source="b", reader="c", channel="k"),
        ),
    )
    there = torch.tensor([[False, True], [True, False]]).expand(2, 2, 2)
    allowed = torch.ones(3, 2, dtype=torch.bool)
    assert simulated(template, allowed, there).all()
    assert len(embeddings(template, allowed, there)) == 0
    assert contradiction(template, allowed.double(), there.double()) is not None


def test_the_strength_is_that_of_the_best_embedding():
    for seed in range(80):
        template, allowed, graph = drawn_case(seed)
        draw = torch.Generator().manual_seed(seed)
        scores = torch.where(allowed, 2 * torch.rand(allowed.shape, generator=draw), 0.0)
        weights = graph * 2 * torch.rand(graph.shape, generator=draw)
        edges = of_edges(template, weights)
        weakest = [
            min(
                *(float(scores[role, node]) for role, node in enumerate(row)),
                *(float(e[row[a], row[b]]) for (a, b), e in zip(template.ends, edges, strict=True)),
            )
            for row in by_networkx(template, allowed, graph)
        ]
        value, nodes = strength(template, scores, edges)
        assert value == pytest.approx(max(weakest, default=0.0))
        assert (nodes is None) == (not weakest)


def planted(seed: int, template: Template, n: int = 12) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """One strong embedding in a graph of weak edges, in which every node may play every role."""
    draw = torch.Generator().manual_seed(seed)
    nodes = torch.randperm(n, generator=draw)[: len(template.roles)].tolist()
    edges = 0.8 * torch.rand(len(template.edges), n, n, generator=draw)
    for i, (a, b) in enumerate(template.ends):
        edges[i, nodes[a], nodes[b]] = 1.0 + float(torch.rand((), generator=draw))
    return torch.full((len(template.roles), n), torch.inf), edges, nodes


@pytest.mark.parametrize("missing", range(3))
def test_a_deleted_edge_is_named(missing):
    for seed in range(30):
        scores, edges, nodes = planted(seed, CHAIN)
        assert contradiction(CHAIN, scores, edges) is None
        value, found = strength(CHAIN, scores, edges)
        assert found is not None
        assert found.tolist() == nodes
        assert 1 <= value < 2
        a, b = CHAIN.ends[missing]
        edges[missing, nodes[a], nodes[b]] = 0.0
        why = contradiction(CHAIN, scores, edges)
        assert why is not None
        assert why.edge == CHAIN.edges[missing], seed
        assert why.rest >= value
        assert why.role == CHAIN.edges[missing].source
    assert CHAIN.edges[0].name == "k: a -> b"


def test_of_two_edges_that_would_do_the_one_is_named_of_which_there_is_less():
    scores, edges, nodes = planted(5, CHAIN)
    value, _ = strength(CHAIN, scores, edges)
    a, b, c = nodes
    other = next(i for i in range(edges.shape[1]) if i not in nodes)
    edges[2, a, c] = 0.0
    edges[2, other, c] = 1.0
    assert value > 1.0
    why = contradiction(CHAIN, scores, edges)
    assert why is not None
    assert why.edge == CHAIN.edges[2], "without the first edge the rest holds too, with strength 1"
    assert strength(CHAIN.without(0), scores, edges[1:])[0] == 1.0
    edges[2, a, c] = edges[0, other, b] + 0.05
    why = contradiction(CHAIN, scores, edges)
    assert why is not None
    assert why.edge == CHAIN.edges[0], "there is less of the first edge from the other node"


def test_where_more_is_missing_the_first_edge_in_order_is_named():
    for seed in range(12):
        scores, edges, nodes = planted(seed, CHAIN)
        for i in (1, 2):
            edges[i, nodes[CHAIN.ends[i][0]], nodes[CHAIN.ends[i][1]]] = 0.0
        why = contradiction(CHAIN, scores, edges)
        assert why is not None
        assert why.edge == CHAIN.edges[1]
        assert why.rest < 1


def test_a_role_that_nothing_can_play_is_named():
    scores, edges, _ = planted(4, CHAIN)
    scores[1] = 0.3
    why = contradiction(CHAIN, scores, edges)
    assert why is not None
    assert (why.role, why.edge) == ("b", CHAIN.edges[0])
    lonely = Template(roles=("a",), edges=())
    why = contradiction(lonely, torch.tensor([[0.2, 0.9]]), torch.zeros(0, 2, 2))
    assert why is not None
    assert (why.role, why.edge) == ("a", None)


def test_patterns_that_are_none_are_refused():
    edge = Required(source="a", reader="b", channel="k")
    for roles, edges, message in (
        (("a", "a"), (), "each once"),
        ((), (), "at least one"),
        (("a", "bb"), (edge,), "got 'b'. Add the role. Did you mean 'bb'?"),
        (("a",), (Required(source="a", reader="a", channel="k"),), "expected two roles"),
        (("a", "b"), (Required(source="a", reader="b", channel="kk"),), "Did you mean 'k'?"),
    ):
        with pytest.raises(InputError, match=r"expected") as error:
            Template(roles=roles, edges=edges)
        assert message in str(error.value)


def circuit(edges: list[tuple[str, int, int, float]], n: int) -> CircuitGraph:
    """Node 0 is the token embedding, the last one the unembedding, the rest are heads."""
    kinds = [KINDS.index(k) for k in ("token_embedding", *["head"] * (n - 2), "unembedding")]
    matrix = torch.zeros(len(CHANNELS), n, n)
    for channel, i, k, value in edges:
        matrix[CHANNELS.index(channel), i, k] = value
    return CircuitGraph(
        edges=normalised(matrix),
        features=torch.zeros(n, 0),
        kinds=torch.tensor(kinds),
        depth=torch.linspace(0, 1, n),
        names=tuple("abcdefgh"[:n]),
    )


INDUCTION = [("v+", 0, 1, 1.0), ("k+", 1, 2, 0.8), ("q+", 0, 2, 0.7), ("in+", 2, 3, 0.9)]


def test_a_map_of_a_circuit_to_itself_lacks_nothing():
    one = circuit(INDUCTION, 4)
    found = local_conditions(one, one, torch.arange(4))
    assert found.first is None
    assert not any(found.lacking)
    assert found.kept.tolist() == [1.0] * 4
    assert found.order[:2] == (0, 3)
    # heads one by one, as they gain: b has the edge of 1.0 to an anchor, c those of 0.7 and 0.9
    assert found.order[2:] == (2, 1)


@pytest.mark.parametrize("cut", range(4))
def test_the_edge_that_the_other_circuit_lacks_is_the_first_that_is_met(cut):
    whole = circuit(INDUCTION, 4)
    less = circuit([edge for i, edge in enumerate(INDUCTION) if i != cut], 4)
    channel, i, k, _ = INDUCTION[cut]
    for first, second, in_first in ((whole, less, True), (less, whole, False)):
        found = local_conditions(first, second, torch.arange(4), tau=0.3)
        assert found.first is not None
        assert (found.first.channel, found.first.source, found.first.reader) == (
            channel,
            whole.names[i],
            whole.names[k],
        )
        assert found.first.in_first is in_first
        assert [len(edges) for edges in found.lacking] == [int(node in (i, k)) for node in range(4)]
        assert found.first.counterpart == 0
        assert 0 < float(found.kept[i]) < 1


def test_of_edges_that_are_met_at_once_the_strongest_is_the_first():
    whole, less = circuit(INDUCTION, 4), circuit(INDUCTION[:2], 4)
    found = local_conditions(whole, less, torch.arange(4), tau=0.3, least=0.1)
    assert found.first is not None
    assert found.order == (0, 3, 1, 2)
    assert found.first.channel == "in+"
    assert [edge.channel for edge in found.lacking[2]] == ["in+", "q+"]


def test_a_missing_component_does_not_erase_its_neighbours():
    whole = circuit(INDUCTION, 4)
    less = circuit([("q+", 0, 1, 0.7), ("in+", 1, 2, 0.9)], 3)
    found = local_conditions(whole, less, torch.tensor([0, -1, 1, 2]), tau=0.3)
    assert found.first is None
    assert not any(found.lacking)
    assert found.kept[[0, 2, 3]].tolist() == [1.0] * 3
    assert found.kept[1].isnan()
    assert 1 not in found.order


def test_maps_that_are_none_are_refused():
    one = circuit(INDUCTION, 4)
    for pairs in ([0, 1, 1, 3], [0, 1, 2], [0, 1, 2, 4]):
        with pytest.raises(InputError, match="partial one-to-one map"):
            local_conditions(one, one, torch.tensor(pairs))
