"""How scores of edges are held against a known circuit: by hand, where other scorers have gone wrong."""

import pytest
import torch
from circuit_truth import METHODS, Row, chosen, gaps, interval, table, worst_subjects
from ranking import agreement

from metamodel.circuits.methods import METHODS as BY_NAME


def test_a_true_edge_that_is_missed_counts_against_the_scores():
    truth = torch.tensor([True, True, False, False])
    found = agreement(truth, torch.tensor([2.0, -3.0, 1.0, 0.5]))
    assert found == {"auroc": 1.0, "average_precision": 1.0}
    missed = agreement(truth, torch.tensor([2.0, 0.0, 1.0, 0.5]))
    # Pairs in order: the found edge beats both others, the missed one neither. Precision 1 at the first true
    # edge and 2/4 at the second.
    assert missed == {"auroc": pytest.approx(0.5), "average_precision": pytest.approx(0.75)}
    assert agreement(torch.ones(4, dtype=torch.bool), torch.ones(4)) == {}


def row(method: str, subject: str, lineage: str, precision: float, **changes) -> Row:
    values = {
        "subject": subject,
        "last": f"edge of {subject}",
        "last_size": 0.5,
        "exact_size": 2.0,
        "lineage": lineage,
        "origin": "compiled",
        "size": "s",
        "method": method,
        "truth": "visible",
        "auroc": precision,
        "average_precision": precision,
        "by_channel": {},
        "seconds": 1.0,
    }
    return Row(**(values | changes))


ROWS = [
    row("exact", "a", "x", 1.0),
    row("exact", "b", "x", 0.8),
    row("exact", "c", "y", 0.6),
    row("eap", "a", "x", 0.9),
    row("eap", "b", "x", 0.4),
    row("eap", "c", "y", 0.6),
]


def test_means_are_over_subjects_and_intervals_over_lineages():
    found = table(ROWS, "average_precision")["exact"]["visible"]
    assert found["value"] == pytest.approx(0.8)
    assert (found["n"], found["n_lineages"]) == (3, 2)
    assert found["low"] == pytest.approx(0.6)  # lineage y twice
    assert found["high"] == pytest.approx(0.9)  # lineage x twice
    assert interval({"x": [1.0, 1.0]})["low"] == interval({"x": [1.0, 1.0]})["high"] == 1.0


def test_gaps_are_paired_on_the_same_subject():
    gap = gaps(ROWS, "average_precision")["eap"]["visible"]
    assert gap["value"] == pytest.approx((-0.1 - 0.4 + 0.0) / 3, abs=1e-4)
    assert gap["high"] == pytest.approx(0.0)


def test_the_worst_subject_is_named_with_the_edge_that_comes_last():
    found = worst_subjects(ROWS)["eap"]
    assert (found["subject"], found["edge"], found["exact"]) == ("b", "edge of b", 2.0)


def test_methods_of_the_table_are_those_that_users_have():
    assert set(BY_NAME) <= set(METHODS)
    assert METHODS["exact"][0] == BY_NAME["exact"]


def test_as_many_subjects_are_taken_of_each_program_as_asked_for():
    class Info:
        def __init__(self, family: str, origin: str = "compiled"):
            self.family, self.origin, self.size = family, origin, "s"

    infos = {
        "0": Info("rasp-first"),
        "1": Info("rasp-first"),
        "2": Info("rasp-first", "planted"),
        "3": Info("facts", "trained"),
        **{f"r{i}": Info(f"rasp-random-{i}") for i in range(9)},
    }

    class FakeZoo:
        ids = tuple(infos)

        def info(self, id: str) -> Info:
            return infos[id]

    assert chosen(FakeZoo(), 1) == ["0", "2", *(f"r{i}" for i in range(6))]  # pyright: ignore[reportArgumentType]
