"""Readers beside the main one: what each is kept from, what is saved, and naming from exemplars by them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from metamodel.config import InputError
from metamodel.config.function import FunctionConfig, OptimConfig, TrainerConfig, TrainingConfig, TrunkConfig
from metamodel.config.parser import plain
from metamodel.evaluation.k_shot import METHODS, k_shot
from metamodel.features.examples import Example, Truth, unasked
from metamodel.features.graph import graph_of
from metamodel.features.registry import feature_names
from metamodel.subjects import Subject, SubjectConfig, components, initial_weights, unstack
from metamodel.training.checkpoint import FunctionCheckpoint, save
from metamodel.training.companions import (
    ALONE,
    LEAST_POSITIVES,
    Companions,
    function_parts,
    load_companions,
    on_track,
    train_companions,
)
from metamodel.training.fit import fit
from metamodel.triples.schema import MASKED, NEGATIVE, POSITIVE, LabelDefinition
from metamodel.triples.splits import Splits

SHAPE = SubjectConfig(n_layers=1, n_heads=6, d_model=12, d_head=2, d_mlp=0, d_vocab=9, n_ctx=6)
CAUSES = ("ov_eigenvalue_positivity", "qk_eigenvalue_positivity", "ov_log_norm")
LABELS = tuple(
    LabelDefinition(name=name, description="", statistics=(), effect_size=0.0, twin="")
    for name in (*CAUSES, "rare")
)
TINY = FunctionConfig(
    trunk=TrunkConfig(
        width=16, n_layers=1, n_heads=2, edge_width=4, members=1, input_dropout=0.1, encoder_width=4
    ),
    optim=OptimConfig(lr=5e-3, ema=0.0),
    training=TrainingConfig(epochs=12, batch_size=12, loss_exemplars=1.0),
    trainer=TrainerConfig(progress=False),
    k_shot_epochs=12,
)


def example(seed: int) -> Example:
    """Heads are positive for a label where one of their features is high; the last label has next to none."""
    weights = unstack(initial_weights(SHAPE, [torch.Generator().manual_seed(seed)]), 0)
    graph = graph_of(Subject(config=SHAPE, weights=weights, name=str(seed)), "both")
    columns = [feature_names("both").index(f"head.{cause}") for cause in CAUSES]
    cause = torch.cat([graph.nodes[:, columns], torch.full((len(graph.kinds), 1), -9.0)], dim=1)
    heads = torch.tensor([node.kind == "head" for node in components(SHAPE)])
    threshold = torch.tensor([0.1, 0.1, graph.nodes[heads][:, columns[2]].median(), 0.0])
    state = torch.where(cause > threshold, POSITIVE, NEGATIVE)
    state[~heads] = MASKED
    nothing = torch.zeros(len(graph.kinds), dtype=torch.bool)
    truth = Truth(
        lineage=str(seed),
        function_score=cause,
        function_state=state,
        node_member=nothing,
        edge_member=torch.zeros(len(nothing), len(nothing), dtype=torch.bool),
        edge_exists=graph.edges[..., 0] > 0,
        slice_accuracy=torch.zeros(0),
        probe_answer=torch.zeros(1, dtype=torch.long),
        probe_right_answer=torch.zeros(1, dtype=torch.long),
    )
    return unasked(graph, SHAPE, id=str(seed), n_evidence=10), truth


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [example(seed) for seed in range(48)]


@pytest.fixture(scope="module")
def made(examples, tmp_path_factory) -> Companions:
    def make(config, train, validation, name) -> FunctionCheckpoint:
        reader, slices, programs = fit(
            config, train, validation, labels=LABELS, folder=tmp_path_factory.mktemp(name)
        )
        ids = {name: (name,) for name in Splits.__dataclass_fields__}
        return FunctionCheckpoint(
            reader=reader,
            labels=LABELS,
            track=config.track,
            slice_names=slices,
            algorithms=programs,
            zoo={"name": "z", "folder": "data/z", "fingerprint": "f"},
            splits=Splits(**ids),
            training=plain(config),
        )

    config = dataclasses.replace(TINY, also=("weights",), k_shot_parts=2)
    return train_companions(config, examples[:30], examples[30:36], LABELS, make)


def test_functions_are_divided_and_rare_ones_left_out(examples):
    parts = function_parts(examples, LABELS, 2)
    assert sorted(name for part in parts for name in part) == sorted(CAUSES)
    assert len(parts) == 2
    assert "rare" not in parts[0] + parts[1]
    few = [
        (seen, dataclasses.replace(t, function_state=t.function_state.clamp_max(0))) for seen, t in examples
    ]
    assert function_parts(few, LABELS, 2) == ()
    assert LEAST_POSITIVES > 5
    assert function_parts(examples, LABELS, 0) == ()


def test_each_reader_is_kept_from_its_own_part_and_the_narrow_one_from_activations(made):
    held_out = [reader.training["training"]["held_out_functions"] for reader in made.k_shot]
    assert sorted(name for part in held_out for name in part) == sorted(CAUSES)
    assert {track: reader.track for track, reader in made.tracks.items()} == {"weights": "weights"}
    assert made.tracks["weights"].reader.sizes.n_features < made.k_shot[0].reader.sizes.n_features


def test_a_narrow_reader_answers_about_what_was_described_on_both_tracks(made, examples):
    said = on_track(made.tracks["weights"])(examples[40][0])
    assert said.function_probability.shape == (len(components(SHAPE)), len(LABELS))


def test_they_are_saved_inside_the_checkpoint_and_loaded_again(made, examples, tmp_path: Path):
    save(made.k_shot[0], tmp_path)
    nothing = load_companions(tmp_path)
    assert (nothing.tracks, nothing.k_shot) == (ALONE.tracks, ALONE.k_shot) == ({}, ())
    made.save(tmp_path)
    again = load_companions(tmp_path)
    assert again.tracks.keys() == made.tracks.keys()
    assert len(again.k_shot) == 2
    before, after = (on_track(c.tracks["weights"])(examples[40][0]) for c in (made, again))
    assert torch.equal(before.function_probability, after.function_probability)


def test_naming_from_exemplars_is_measured_for_every_method_and_exemplars_tell(made, examples):
    found = k_shot(made.k_shot, examples[:30], examples[36:], counted=CAUSES, seed=0)
    assert set(found) == {f"k_shot_average_precision/{k}" for k in (0, 4, 16)}
    once = np.ones((1, 12))
    value = {
        k: {m: float(found[f"k_shot_average_precision/{k}"][m](once)[0]) for m in METHODS} for k in (0, 16)
    }
    assert value[16]["meta-model"] != value[0]["meta-model"]
    base = value[0]["prior"]
    assert value[0]["nearest"] == value[0]["logistic"] == value[16]["prior"] == base
    assert min(value[16][m] for m in ("nearest", "logistic")) > base + 0.1
    assert k_shot(made.k_shot, examples[:30], examples[36:], counted=("rare",), seed=0) == {}


@pytest.mark.parametrize("tracks", [("both",), ("weights", "weights")])
def test_tracks_beside_the_main_one_are_others_and_each_once(tracks):
    with pytest.raises(InputError) as error:
        dataclasses.replace(TINY, also=tracks)
    assert str(error.value) == (
        "also: expected other tracks than 'both', each once, beside a reader of the track 'both', "
        f"got {list(tracks)} beside 'both'. Set track to both, or leave it out."
    )
