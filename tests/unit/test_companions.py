"""Readers beside the main one: what each is kept from, what is saved, and naming from exemplars by them."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import metamodel
from metamodel.asking import UNTOLD
from metamodel.config import InputError
from metamodel.config.function import FunctionConfig, OptimConfig, TrainerConfig, TrainingConfig, TrunkConfig
from metamodel.config.parser import plain
from metamodel.evaluation.k_shot import METHODS, k_shot
from metamodel.features.examples import Example, Truth, unasked
from metamodel.features.graph import graph_of
from metamodel.features.registry import feature_names
from metamodel.features.view import Shown
from metamodel.naming import Exemplar
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


def subject(seed: int) -> Subject:
    weights = unstack(initial_weights(SHAPE, [torch.Generator().manual_seed(seed)]), 0)
    return Subject(config=SHAPE, weights=weights, name=str(seed))


def example(seed: int) -> Example:
    """Heads are positive for a label where one of their features is high; the last label has next to none."""
    graph = graph_of(subject(seed), "both")
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


@pytest.fixture(scope="module")
def reader(made, tmp_path_factory) -> metamodel.FunctionReader:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(made.k_shot[0], folder)
    made.save(folder)
    return metamodel.load(folder)


def labelled(examples, label: str, seeds: range) -> list[tuple[Subject, str, bool]]:
    """Every head of some subjects, and whether the label holds for it."""
    at, found = [name.name for name in LABELS].index(label), []
    for seed in seeds:
        this, state = subject(seed), examples[seed][1].function_state[:, at]
        pairs = zip(components(SHAPE), state.tolist(), strict=True)
        found += [(this, node.name, value == POSITIVE) for node, value in pairs if value != MASKED]
    return found


def ranked_right(reader, exemplars, examples, label: str) -> float:
    """How often a head that has the label scores above one that has not, in subjects that lend none."""
    truth, said = [], []
    for seed in range(36, 48):
        scores = reader.name_function(subject(seed), exemplars=exemplars).scores
        said += [float(score) for score in scores if not score.isnan()]
        truth += [holds for *_, holds in labelled(examples, label, range(seed, seed + 1))]
    above = torch.tensor([s for s, holds in zip(said, truth, strict=True) if holds])
    below = torch.tensor([s for s, holds in zip(said, truth, strict=True) if not holds])
    return float((above[:, None] > below).float().mean())


def test_a_user_names_a_function_from_exemplars_and_swapped_ones_name_its_opposite(reader, examples):
    exemplars = labelled(examples, CAUSES[0], range(6))
    swapped = [(one, name, not holds) for one, name, holds in exemplars]
    right = ranked_right(reader, exemplars, examples, CAUSES[0])
    assert right > 0.7
    assert ranked_right(reader, swapped, examples, CAUSES[0]) == pytest.approx(1 - right, abs=0.01)


def test_the_answer_is_a_score_for_each_component_of_a_kind_that_exemplars_have(reader, examples):
    named = reader.name_function(subject(40), exemplars=labelled(examples, CAUSES[0], range(2)))
    table = named.to_pandas()
    assert list(table.index) == [node.name for node in components(SHAPE)]
    assert list(table.columns) == ["kind", "layer", "head", "score"]
    assert table[table.kind == "head"].score.notna().all()
    assert table[table.kind != "head"].score.isna().all()
    assert (named.subject, named.notes) == ("40", (UNTOLD,))


def test_order_and_repetition_of_exemplars_change_nothing_and_another_exemplar_does(reader, examples):
    exemplars = labelled(examples, CAUSES[0], range(2))
    mixed = [*exemplars, *exemplars[:4]]
    random.Random(0).shuffle(mixed)
    one, other, more = (
        reader.name_function(subject(40), exemplars=given).scores.nan_to_num()
        for given in (exemplars, mixed, exemplars[:-1])
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert (one - more).abs().max() > 1e-3


def test_all_readers_answer_together_and_for_a_label_the_one_that_never_saw_it(reader, made, examples):
    exemplars = labelled(examples, CAUSES[0], range(2))
    everyone = reader.name_function(subject(40), exemplars=exemplars)
    alone = [
        reader.name_function(subject(40), exemplars=exemplars, function=part.held_out_functions[0])
        for part in made.k_shot
    ]
    assert (everyone.n_readers, *(one.n_readers for one in alone)) == (2, 1, 1)
    mean = torch.stack([one.scores for one in alone]).mean(0)
    torch.testing.assert_close(everyone.scores, mean, equal_nan=True)
    assert not torch.allclose(alone[0].scores.nan_to_num(), alone[1].scores.nan_to_num(), atol=1e-3)


def test_prompts_of_exemplars_and_of_the_subject_are_looked_at(reader, examples):
    exemplars = [Exemplar(*one) for one in labelled(examples, CAUSES[0], range(2))]
    shown = Shown(tokens=torch.arange(6)[None].repeat(2, 1), position=torch.tensor([5, 4]))
    told = [one._replace(prompts=shown) for one in exemplars]
    plain = reader.name_function(subject(40), exemplars=exemplars)
    for given, prompts in ((told, None), (exemplars, shown)):
        other = reader.name_function(subject(40), exemplars=given, prompts=prompts)
        assert not torch.equal(other.scores.nan_to_num(), plain.scores.nan_to_num())
        assert (UNTOLD in other.notes) == (prompts is None)


def test_exemplars_of_which_nothing_can_be_learned_are_refused_in_one_line(reader, made, tmp_path):
    one = subject(0)
    name = next(node.name for node in components(SHAPE) if node.kind == "head")
    sided = (
        "exemplars: expected at least one that has the function and one that has not, got {}. "
        "Add components of any subject, with True or False."
    )
    unknown = (
        "exemplars[1]: expected one of the 6 components of 0 that may have functions, got {}. "
        "Name one of them."
    )
    both = f"exemplars[1]: expected {name} of 0 to have the function or not, got both. Leave one of them out."
    cases = [
        ([], sided.format("0 that have it and 0 that have not")),
        ([(one, name, False)], sided.format("0 that have it and 1 that have not")),
        ([(one, name, True)], sided.format("1 that have it and 0 that have not")),
        ([(one, name, True), (one, "L0H9", False)], unknown.format("'L0H9'") + " Did you mean 'L0H5'?"),
        ([(one, name, True), (one, "unembedding", False)], unknown.format("'unembedding'")),
        ([(one, name, True), (one, name, False)], both),
    ]
    for exemplars, message in cases:
        with pytest.raises(InputError) as error:
            reader.name_function(one, exemplars=exemplars)
        assert str(error.value) == message
    with pytest.raises(InputError) as error:
        reader.name_function(one, exemplars=[(one, name, True)], function="rare")
    assert str(error.value).startswith("function: expected one of ov_eigenvalue_positivity, ov_log_norm, qk_")
    save(made.k_shot[0], tmp_path)
    for alone in (metamodel.load(tmp_path), metamodel.FunctionReader(made.k_shot[0])):
        with pytest.raises(InputError) as error:
            alone.name_function(one, exemplars=[(one, name, True)])
        assert str(error.value) == (
            f"{alone.folder or 'reader'}: k_shot: expected readers that were trained without a part of the "
            "labels, got none. Load checkpoints/function, or train with --k_shot_parts 3."
        )


def test_readers_of_one_job_have_wandb_runs_of_their_own(examples, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = dataclasses.replace(TINY, logger="wandb", training=TrainingConfig(epochs=1, batch_size=12))
    for name in ("main", "weights"):
        fit(config, examples[:12], examples[12:16], labels=LABELS, folder=tmp_path / name)
    for name in ("main", "weights"):
        assert len(list((tmp_path / name / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.parametrize("tracks", [("both",), ("weights", "weights")])
def test_tracks_beside_the_main_one_are_others_and_each_once(tracks):
    with pytest.raises(InputError) as error:
        dataclasses.replace(TINY, also=tracks)
    assert str(error.value) == (
        "also: expected other tracks than 'both', each once, beside a reader of the track 'both', "
        f"got {list(tracks)} beside 'both'. Set track to both, or leave it out."
    )
