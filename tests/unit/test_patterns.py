"""Named patterns in circuits that are made by hand, and in a subject that does induction by construction."""

import json

import pytest
import torch

from metamodel import find as find_command
from metamodel.analogy.graph import CHANNELS, CircuitGraph, normalised
from metamodel.analogy.patterns import (
    COLUMNS,
    COPYING,
    INDUCTION,
    MOVER_WITH_INHIBITION,
    PATTERNS,
    Condition,
    find,
    pattern_named,
)
from metamodel.circuits.prompt_file import write_prompts
from metamodel.circuits.prompts import Prompts
from metamodel.config import InputError
from metamodel.finding import find_pattern, pattern_graph
from metamodel.subjects.config import KINDS
from metamodel.subjects.subject import Subject
from tests.unit.test_features import planted_induction

NAMES = ("token_embedding", "position_embedding", "L0H0", "L0H1", "L1H0", "L1H1", "unembedding")
EDGES = (("v", "token_embedding", "L0H1"), ("k", "L0H1", "L1H0"), ("in", "L1H0", "unembedding"))


def circuit(edges=EDGES, sign: str = "+", previous: float = 0.8, matches: float = 0.5) -> CircuitGraph:
    """Four heads; L0H1 looks back by one, L1H0 matches what it wrote."""
    matrix = torch.full((len(CHANNELS), len(NAMES), len(NAMES)), 1e-4).triu(1)
    for channel, source, reader in edges:
        matrix[CHANNELS.index(channel + sign), NAMES.index(source), NAMES.index(reader)] = 1.0
    features = torch.zeros(len(NAMES), len(COLUMNS))
    features[3, COLUMNS.index("head.first_order_softmax_offset_1")] = previous
    features[4, COLUMNS.index("head.k_composed_match")] = matches
    kinds = ["head" if name.startswith("L") else name for name in NAMES]
    return CircuitGraph(
        edges=normalised(matrix),
        features=features,
        kinds=torch.tensor([[str(k) for k in KINDS].index(kind) for kind in kinds]),
        depth=torch.linspace(0, 1, len(NAMES)),
        names=NAMES,
    )


def test_induction_is_found_and_its_heads_are_named():
    found = find(INDUCTION, circuit())
    assert found.present
    assert found.strength > 1
    assert found.embeddings == (
        {
            "tokens": "token_embedding",
            "previous-token head": "L0H1",
            "induction head": "L1H0",
            "logits": "unembedding",
        },
    )
    assert (found.missing_edge, found.missing_role) == (None, None)
    assert "previous-token head L0H1; induction head L1H0" in found.describe()


@pytest.mark.parametrize("cut", range(3))
def test_the_edge_that_is_deleted_is_named(cut):
    found = find(INDUCTION, circuit([edge for i, edge in enumerate(EDGES) if i != cut]))
    assert not found.present
    assert found.embeddings == ()
    assert found.missing_edge == INDUCTION.edges[cut].name
    assert found.missing_role == INDUCTION.edges[cut].source
    assert found.rest > 1
    assert f"no edge {found.missing_edge}" in found.describe()
    assert "more" not in found.describe()


def test_edges_that_hurt_the_answer_are_no_mechanism():
    found = find(INDUCTION, circuit(sign="-"))
    assert not found.present
    assert "more than that is missing" in found.describe()


def test_conditions_decide_who_can_play_a_role():
    for weak, role in (({"previous": 0.05}, "previous-token head"), ({"matches": 0.001}, "induction head")):
        found = find(INDUCTION, circuit(**weak))
        assert not found.present
        assert found.missing_role == role
        assert found.missing_edge is not None
        assert role in found.missing_edge
    assert find(INDUCTION, circuit(previous=0.0)).strength == 0


def test_the_strength_grows_with_what_is_weakest():
    values = [find(INDUCTION, circuit(previous=x)).strength for x in (0.01, 0.05, 0.1, 0.2)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    higher = INDUCTION.at(2 * INDUCTION.edge_level, [0.4, 0.1])
    assert [c.level for role in higher.roles for c in role.conditions] == [0.4, 0.1]
    assert find(higher, circuit()).strength == pytest.approx(2.0), "0.8 of a condition of 0.4"


def test_an_inhibition_reaches_the_query_of_a_mover():
    edges = (("q", "L0H0", "L1H1"), ("v", "token_embedding", "L1H1"), ("in", "L1H1", "unembedding"))
    found = find(MOVER_WITH_INHIBITION, circuit(edges))
    assert found.present
    assert found.embeddings[0]["inhibition head"] == "L0H0"
    assert not find(INDUCTION, circuit(edges)).present
    found = find(MOVER_WITH_INHIBITION, circuit(edges[1:]))
    assert found.missing_edge == "q: inhibition head -> mover head"


def test_patterns_say_what_they_are():
    assert set(PATTERNS) == {"induction", "mover_with_inhibition", "copying", "lookup"}
    for name, pattern in PATTERNS.items():
        assert pattern.name == name
        assert pattern.template.roles
        assert pattern.says.endswith(".")
    with pytest.raises(InputError, match="Did you mean 'induction'"):
        pattern_named("inductoin")
    with pytest.raises(InputError, match="one of"):
        Condition(feature="head.induction", level=1.0)
    with pytest.raises(InputError, match="above 0"):
        Condition(feature=COLUMNS[0], level=0.0)


def test_a_circuit_without_features_is_refused_where_conditions_ask_for_them():
    bare = CircuitGraph(
        edges=circuit().edges,
        features=torch.zeros(len(NAMES), 0),
        kinds=circuit().kinds,
        depth=circuit().depth,
        names=NAMES,
    )
    with pytest.raises(InputError, match="not standardised"):
        find(COPYING, bare)
    assert not find(MOVER_WITH_INHIBITION, bare).present


def repeating(subject: Subject) -> Prompts:
    """Six distinct tokens, then the second of them again; the corrupt prompt ends with the third."""
    n_pos = 7
    draw = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(subject.config.d_vocab, generator=draw)[:6] for _ in range(12)])
    clean, corrupt = torch.cat([order, order[:, 1:2]], 1), torch.cat([order, order[:, 2:3]], 1)
    return Prompts(
        clean=clean,
        corrupt=corrupt,
        position=torch.full((12,), n_pos - 1),
        answer=order[:, 2],
        corrupt_answer=order[:, 3],
        slice=torch.zeros(12, dtype=torch.long),
        slice_names=("all",),
    )


def test_a_subject_that_is_made_to_do_induction_does(tmp_path, monkeypatch, capsys):
    subject = planted_induction()
    prompts = repeating(subject)
    found = find_pattern("induction", subject, prompts)
    assert found.present, found.describe()
    assert found.embeddings[0]["induction head"].startswith("L1")
    heads = found.embeddings[0]["previous-token head"], found.embeddings[0]["induction head"]
    graph = pattern_graph(subject, prompts)
    at = [graph.names.index(name) for name in heads]
    assert float(graph.edges[CHANNELS.index("k+"), at[0], at[1]]) > INDUCTION.edge_level
    # its keys no longer read what the first layer wrote
    weights = dict(subject.weights)
    key, write = "blocks.1.attn.W_K", weights["blocks.0.attn.W_O"].flatten(0, 1)
    _, size, basis = torch.linalg.svd(write, full_matrices=False)
    basis = basis[size > 1e-6]
    weights[key] = weights[key] - torch.einsum("rm,rn,hnd->hmd", basis, basis, weights[key])
    assert not find_pattern("induction", subject.with_weights(weights), prompts).present
    # and the command says so too
    file = tmp_path / "prompts.jsonl"
    write_prompts(prompts, file)
    monkeypatch.setattr("metamodel.read.subject_of", lambda text: subject)
    find_command.main(["induction", "planted", "--prompts", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["embeddings"][0] == found.embeddings[0]
    find_command.main(["induction", "planted", "--prompts", str(file)])
    said = capsys.readouterr().out
    assert INDUCTION.says in said
    assert f"previous-token head {heads[0]}; induction head {heads[1]}" in said
    with pytest.raises(InputError, match=r"pattern: expected one of .* Did you mean 'induction'"):
        find_command.main(["inductio", "planted", "--prompts", str(file)])
