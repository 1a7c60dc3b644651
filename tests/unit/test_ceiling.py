"""The noise ceiling: shares of measurements, ties told by scores, pairs from any channel, and no table."""

from pathlib import Path

import pytest
import torch
from datasets import Features, List, Value

from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.evaluation.ceiling import TIE, ceiling_of, noise_ceiling
from metamodel.subjects.config import components
from metamodel.triples import Zoo, begin, finish
from metamodel.triples.remeasured import by_triple
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, LabelDefinition
from metamodel.triples.tables import write_table

NAN = float("nan")
N_LABELS = 2


def rows_of(seen, states, raws):
    """One row a measurement; states and scores of the first three nodes, the others are masked."""
    n, n_edges = len(components(seen.config)), len(component_edges(seen.config).source_node)
    found = []
    for k, (state, raw) in enumerate(zip(states, raws, strict=True)):
        states_of_nodes = torch.full((n, N_LABELS), MASKED)
        scores = torch.full((n, N_LABELS), NAN)
        states_of_nodes[:3, 0], scores[:3, 0] = torch.tensor(state), torch.tensor(raw)
        member, node = [False] * n_edges, [False] * n
        member[k], node[k] = True, True
        found.append(
            {
                "id": seen.id,
                "measurement": k,
                "raw": scores.flatten().tolist(),
                "state": states_of_nodes.flatten().tolist(),
                "member": member,
                "node_member": node,
            }
        )
    return found


@pytest.fixture
def measured(planted_examples):
    (seen, _), (other, _) = planted_examples(2, seed=0)
    states = [(POSITIVE, NEGATIVE, POSITIVE), (POSITIVE, PATTERN_ONLY, MASKED), (NEGATIVE, POSITIVE, MASKED)]
    raws = [(0.9, 0.2, 0.8), (0.7, 0.4, NAN), (0.2, 0.6, NAN)]
    rows = rows_of(seen, states, raws)
    rows += rows_of(other, [(POSITIVE, POSITIVE, NEGATIVE)] * 3, [(0.1, 0.95, 0.5)] * 3)
    return seen, other, rows


def test_probabilities_are_shares_of_measurements_that_are_not_masked(measured):
    seen, _, rows = measured
    said = ceiling_of(by_triple(rows), [seen], n_labels=N_LABELS)[seen.id]
    share = said.function_probability[:, 0]
    torch.testing.assert_close(share[:3], torch.tensor([2 / 3, 1 / 3, 1.0]).double(), atol=TIE, rtol=0)
    assert not share[3:].any()
    assert not said.function_probability[:, 1].any()
    torch.testing.assert_close(said.function_score[:3, 0], torch.tensor([0.6, 0.4, 0.8]).double())
    assert not said.function_score[3:].any()


def test_equally_frequent_components_are_told_apart_by_their_scores_across_subjects(measured):
    seen, other, rows = measured
    said = ceiling_of(by_triple(rows), [seen, other], n_labels=N_LABELS)
    one, two = (said[s.id].function_probability[:3, 0] for s in (seen, other))
    assert two[1] > one[2] > two[0] > one[0]  # 0.95 > 0.8 > 0.1, of those always positive; then two of three
    assert ((one <= 1) & (two <= 1)).all()
    alone = ceiling_of(by_triple(rows), [seen], n_labels=N_LABELS)[seen.id].function_probability[:3, 0]
    assert torch.equal(alone, one)


def test_members_are_shares_and_a_pair_counts_once_in_any_channel(measured):
    seen, _, rows = measured
    said = ceiling_of(by_triple(rows), [seen], n_labels=N_LABELS)[seen.id]
    assert said.node_member[:4].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    graph = component_edges(seen.config)
    expected = torch.zeros_like(said.edge_member)
    pairs = {k: (graph.source_node[k], graph.destination_node[k]) for k in range(3)}
    for pair in set(pairs.values()):
        expected[pair] = len([k for k in pairs if pairs[k] == pair]) / 3
    torch.testing.assert_close(said.edge_member, expected)
    both = [rows[0] | {"member": [True] * len(rows[0]["member"])}]
    assert ceiling_of(by_triple(both), [seen], n_labels=N_LABELS)[seen.id].edge_member.max() == 1.0


@pytest.fixture
def zoo(tmp_path) -> Path:
    labels = tuple(
        LabelDefinition(name=name, description="d", statistics=(), effect_size=0.1, twin="none")
        for name in ("a", "b")
    )
    begin(tmp_path / "z", name="z", config={}, labels=labels, n_shards=0)
    finish(tmp_path / "z")
    return tmp_path / "z"


def test_the_table_is_read_from_the_zoo_and_a_zoo_without_one_has_no_ceiling(zoo, measured):
    seen, _, rows = measured
    assert noise_ceiling(Zoo.open(zoo), [seen]) is None
    kinds = {"raw": "float32", "state": "int8", "member": "bool", "node_member": "bool"}
    features = Features(
        {
            "id": Value("string"),
            "measurement": Value("int32"),
            **{name: List(Value(kind)) for name, kind in kinds.items()},
        }
    )
    path = write_table(zoo, "remeasured", rows, features)
    found = noise_ceiling(Zoo.open(zoo), [seen])
    assert found is not None
    expected = ceiling_of(by_triple(rows), [seen], n_labels=N_LABELS)[seen.id]
    torch.testing.assert_close(found[seen.id].function_probability, expected.function_probability)
    torch.testing.assert_close(found[seen.id].edge_member, expected.edge_member)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="expected a table of this zoo"):
        noise_ceiling(Zoo.open(zoo), [seen])
