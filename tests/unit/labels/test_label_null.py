"""The nulls of labels and edges: what copies that were never trained score, pooled entry by entry."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import raw_scores
from data_gen.labels.registry import LABELS, MLP_LABELS
from data_gen.null import EDGE_NULL_COPIES, edge_null_threshold, label_null, reinitialised
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights, unstack

MakeBattery = Callable[..., Batteries]
MakePrompts = Callable[..., Prompts]
N_COPIES = 6


@pytest.fixture(scope="module")
def config(random_subject: Callable[..., Subject]) -> SubjectConfig:
    return random_subject().config


def test_copies_are_drawn_as_subjects_before_training_are(config: SubjectConfig):
    copies = reinitialised(config, 20, seed=0)
    fresh = initial_weights(config, [torch.Generator().manual_seed(i) for i in range(20)])
    assert copies.keys() == fresh.keys()
    for key, value in copies.items():
        if key.rsplit(".", 1)[1].startswith("W_"):
            assert float(value.std()) == pytest.approx(float(fresh[key].std()), rel=0.1), key
            assert len(value.flatten(1).unique(dim=0)) == 20, "no two copies are the same"
            assert not torch.equal(value, reinitialised(config, 20, seed=1)[key])
        else:
            assert torch.equal(value, fresh[key]), "biases are zero and gains one"


def test_the_label_null_pools_the_scores_of_every_head_of_every_copy(
    config: SubjectConfig, battery: MakeBattery, repeated_prompts: MakePrompts
):
    copies, tests, prompts = reinitialised(config, N_COPIES, seed=0), battery(8), repeated_prompts(8)
    null = label_null(copies, config, tests, prompts)
    alone = [Subject(config=config, weights=unstack(copies, i)) for i in range(N_COPIES)]
    raw = [raw_scores(one.stacked, config, tests, (prompts,)).value[0] for one in alone]
    for i, label in enumerate(LABELS):
        scores = [
            float(one[layer, unit, i])
            for one in raw
            for layer in range(config.n_layers)
            for unit in range(config.n_heads + 1)
            if not one[layer, unit, i].isnan()
        ]
        if not scores:
            assert null.largest[i].isnan()
            continue
        assert len(scores) <= N_COPIES * config.n_layers * (1 if label in MLP_LABELS else config.n_heads)
        mean = sum(scores) / len(scores)
        spread = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        assert float(null.largest[i]) == pytest.approx(max(scores), abs=1e-5), label.name
        assert float(null.mean[i]) == pytest.approx(mean, abs=1e-5), label.name
        assert float(null.std[i]) == pytest.approx(spread, abs=1e-5), label.name


def test_a_label_that_prompts_cannot_show_has_no_null(
    config: SubjectConfig, battery: MakeBattery, repeated_prompts: MakePrompts
):
    copies, prompts = reinitialised(config, 2, seed=0), repeated_prompts(8)
    absent = replace(prompts, answer=torch.ones_like(prompts.answer))
    null = label_null(copies, config, battery(8), absent)
    undefined = [label.name for label, value in zip(LABELS, null.largest, strict=True) if value.isnan()]
    assert undefined == ["name_mover", "negative_mover", "s_inhibition", "successor", "fourier"]


def test_the_edge_null_is_the_99th_percentile_of_edges_that_can_have_an_effect(
    config: SubjectConfig, repeated_prompts: MakePrompts
):
    copies, prompts = reinitialised(config, EDGE_NULL_COPIES + 1, seed=0), repeated_prompts(6)
    edges, sizes = component_edges(config), []
    for i in range(EDGE_NULL_COPIES):
        copy = Subject(config=config, weights=unstack(copies, i))
        effects = edge_scores(copy, prompts, "noising").margin.abs().tolist()
        for edge, size in zip(edges.edges, effects, strict=True):
            # Positions are the same on both prompts: they carry nothing.
            assert (size == 0) == (edge.source.kind == "position_embedding")
            sizes += [size] if size > 0 else []
    sizes.sort()
    place = 0.99 * (len(sizes) - 1)
    below, above = sizes[math.floor(place)], sizes[math.ceil(place)]
    expected = below + (place - math.floor(place)) * (above - below)
    threshold = float(edge_null_threshold(copies, config, prompts))
    assert threshold == pytest.approx(expected, rel=1e-5)
    assert sum(size > threshold for size in sizes) == len(sizes) - math.ceil(place)
