"""Controls: shuffles that keep subject and kind, and untrained copies of the subjects that are scored."""

import importlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from metamodel.evaluation.controls import (
    CONTROLS,
    _order,
    controls,
    save_controls,
    show_controls,
    shuffled_labels,
    untrained,
)
from metamodel.evaluation.items import Items
from metamodel.evaluation.measures import measures_of
from metamodel.features.examples import Prediction
from metamodel.training.examples import examples_of
from metamodel.triples import Zoo
from metamodel.triples.schema import MASKED, POSITIVE

LABELS = ("previous_token", "copying", "induction")


def answers(truth) -> Prediction:
    return Prediction(
        function_probability=(truth.function_state == POSITIVE).double(),
        function_score=truth.function_score.nan_to_num(0.0),
        node_member=truth.node_member.float(),
        edge_member=truth.edge_member.float(),
        slice_accuracy=truth.slice_accuracy.nan_to_num(0.0),
        probe_answer=truth.probe_answer,
    )


def test_a_shuffle_moves_components_within_their_subject_and_kind_only(planted_examples):
    items = Items(planted_examples(5, seed=0), labels=LABELS)
    order = _order(items, np.random.default_rng(0))
    assert sorted(order) == list(range(len(items.kind)))
    assert (items.subject[order] == items.subject).all()
    assert (items.kind[order] == items.kind).all()
    assert (order != np.arange(len(order))).sum() > len(order) / 3
    assert (order != _order(items, np.random.default_rng(1))).any()


def test_a_perfect_reader_falls_to_chance_against_shuffled_labels(planted_examples):
    examples = planted_examples(12, seed=0)
    items = Items(examples, labels=LABELS)
    said = [answers(truth) for _, truth in examples]
    once = np.ones((1, items.n_lineages))
    found = shuffled_labels(items, said, seed=0)
    assert list(found) == ["average_precision", *(f"average_precision/{label}" for label in LABELS)]
    real = measures_of(items, said)["average_precision/previous_token"](once)[0]
    chance = found["average_precision/previous_token"](once)[0]
    known = items.state[:, 0] != MASKED
    assert real == 1.0
    assert (items.state[known, 0] == POSITIVE).mean() < chance < 0.6
    assert np.isnan(found["average_precision/induction"](once)[0])
    assert (
        shuffled_labels(items, said, seed=0)["average_precision"](once)[0]
        == found["average_precision"](once)[0]
    )
    assert (
        shuffled_labels(items, said, seed=1)["average_precision"](once)[0]
        != found["average_precision"](once)[0]
    )


def test_what_a_reader_knows_of_the_subject_alone_survives_the_shuffle(planted_examples):
    examples = []
    for i, (seen, truth) in enumerate(planted_examples(12, seed=0)):
        state = torch.where(truth.function_state == MASKED, MASKED, POSITIVE if i % 2 else 0)
        examples.append((seen, replace(truth, function_state=state)))
    items = Items(examples, labels=LABELS)
    once = np.ones((1, items.n_lineages))
    found = shuffled_labels(items, [answers(truth) for _, truth in examples], seed=0)
    assert found["average_precision"](once)[0] == 1.0


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        stored = importlib.import_module("test_evaluate").store_zoo
        return Zoo.open(stored(tmp_path_factory.mktemp("controls") / "z", name="z"))


@pytest.fixture(scope="module")
def examples(zoo):
    return examples_of(zoo, zoo.ids[:6], "weights", for_baselines=False)


def reads(value_of):
    """A reader whose probability of every function is one number of what it sees."""

    def answer(seen) -> Prediction:
        truth_like = torch.full((len(seen.graph.kinds), 2), value_of(seen)).double()
        return Prediction(
            function_probability=truth_like,
            function_score=truth_like,
            node_member=truth_like[:, 0],
            edge_member=truth_like[:, :1] * truth_like[:, :1].T,
            slice_accuracy=torch.zeros(len(seen.slice_names)),
            probe_answer=torch.zeros_like(seen.probe_slice),
        )

    return answer


def test_untrained_copies_are_read_in_place_of_the_same_subjects(zoo, examples):
    seen_graphs = {seen.id: seen.graph.nodes for seen, _ in examples}
    order: list[tuple[str, bool]] = []

    def is_itself(seen) -> float:
        same = torch.equal(seen.graph.nodes, seen_graphs[seen.id])
        order.append((seen.id, same))
        return 0.9 if same else 0.2

    found = controls(reads(is_itself), zoo, {"seed": examples}, "weights", undetermined=(True, True))
    ids = [seen.id for seen, _ in examples]
    assert order == [*((id, True) for id in ids), *((id, False) for id in ids)]
    assert found.n_subjects == 6
    assert found.trained.highest_probability.value == pytest.approx(0.9)
    assert found.trained.share_positive.value == 1.0
    assert found.untrained.highest_probability.value == pytest.approx(0.2)
    assert found.untrained.share_positive.value == 0.0


def test_labels_that_the_track_determines_and_components_without_labels_are_not_asked(zoo, examples):
    def answer(seen) -> Prediction:
        said = reads(lambda _: 0.1)(seen)
        said.function_probability[:, 1] = 0.8
        said.function_probability[0] = 1.0  # an embedding
        return said

    asked = controls(answer, zoo, {"seed": examples}, "weights", undetermined=(True, True))
    left = controls(answer, zoo, {"seed": examples}, "weights", undetermined=(True, False))
    assert asked.trained.highest_probability.value == pytest.approx(0.8)
    assert left.trained.highest_probability.value == pytest.approx(0.1)
    assert left.trained.share_positive.value == 0.0
    none = controls(answer, zoo, {"seed": examples}, "weights", undetermined=(False, False))
    assert not none.trained.highest_probability.applies


def test_a_copy_has_the_shape_of_its_subject_and_weights_of_its_own(examples):
    seen, other = examples[0][0], examples[1][0]
    one, again, another = untrained(seen, 0), untrained(seen, 0), untrained(other, 0)
    assert one.config == seen.config
    assert one.fingerprint() == again.fingerprint() != another.fingerprint()
    assert one.fingerprint() != untrained(seen, 1).fingerprint()


def test_controls_are_written_and_shown(zoo, examples, tmp_path):
    found = controls(reads(lambda _: 0.7), zoo, {"seed": examples}, "weights", undetermined=(True, True))
    save_controls(found, tmp_path)
    written = json.loads((tmp_path / CONTROLS).read_text())
    assert list(written) == ["schema_version", "n_subjects", "trained", "untrained"]
    assert written["untrained"]["share_positive"]["value"] == 1.0
    console = Console(file=io.StringIO(), width=140)
    show_controls(found, console)
    assert "6 test subjects, untrained copies: highest probability 0.700" in console.file.getvalue()
