"""Every label that has a specimen finds what is planted, refuses decoys, and is masked elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from data_gen.function_labels import function_labels
from data_gen.labels.batteries import batteries
from data_gen.labels.registry import HEAD_LABELS, LABEL_INDEX, MLP_LABELS
from data_gen.null import label_null, reinitialised
from data_gen.specimens import heads, mlps
from data_gen.specimens.specimen import Specimen
from data_gen.tasks.structure import NO_CANDIDATE, Structure
from metamodel.subjects.config import components
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, FunctionLabels

Make = Callable[[int], Specimen]


@cache
def labelled(make: Make, seed: int) -> tuple[Specimen, FunctionLabels]:
    specimen = make(seed)
    return specimen, measured(specimen, specimen.structure)


def measured(specimen: Specimen, structure: Structure) -> FunctionLabels:
    config, prompts = specimen.subject.config, specimen.prompts
    draw, n_pos = torch.Generator().manual_seed(0), prompts.clean.shape[1]
    tests = batteries(draw, n=24, n_pos=n_pos, bos=0, symbols=specimen.symbols)
    null = label_null(reinitialised(config, 8, seed=0), config, tests, prompts, structure)
    return function_labels(specimen.subject, prompts, tests, null, structure)


def states_of(specimen: Specimen, found: FunctionLabels, label: str, *, decoys: bool) -> list[int]:
    nodes = components(specimen.subject.config)
    those = (specimen.decoys if decoys else specimen.planted)[label]
    return [int(found.state[nodes.index(node), LABEL_INDEX[label]]) for node in those]


@pytest.mark.parametrize(
    ("make", "seed", "label"),
    [
        (heads.looking_back, 0, "self"),
        (heads.looking_back, 0, "successor"),
        (heads.looking_back, 0, "first_token_sink"),
        (heads.looking_back, 2, "offset_k"),
        (heads.looking_back, 2, "positional"),
        (heads.repeated, 0, "k_composition"),
        (heads.in_a_row, 0, "v_composition"),
        (heads.indirect, 1, "q_composition"),
        (heads.indirect, 1, "duplicate_token"),
        (heads.indirect, 1, "s_inhibition"),
        (heads.indirect, 1, "negative_mover"),
        (heads.indirect, 1, "backup_mover"),
        (heads.indirect, 1, "copy_suppression"),
        (mlps.by_token, 0, "token_lookup"),
        (mlps.by_pair, 1, "pair_lookup"),
        (mlps.by_share, 2, "threshold"),
        (mlps.by_frequency, 0, "fourier"),
    ],
)
def test_what_is_planted_is_positive_and_its_decoy_is_not(make: Make, seed: int, label: str):
    specimen, found = labelled(make, seed)
    logits = specimen.subject.run(specimen.prompts.clean).logits
    answers = logits[0, torch.arange(len(specimen.prompts)), specimen.prompts.position].argmax(-1)
    assert float((answers == specimen.prompts.answer).float().mean()) > 0.9, "the specimen does its task"
    assert set(states_of(specimen, found, label, decoys=False)) == {POSITIVE}
    decoys = states_of(specimen, found, label, decoys=True)
    assert decoys
    assert set(decoys) <= {PATTERN_ONLY, NEGATIVE}


@pytest.mark.parametrize(
    "label", ["q_composition", "k_composition", "token_lookup", "pair_lookup", "threshold"]
)
def test_decoys_that_show_the_whole_pattern_are_pattern_only(label: str):
    make: Make = {
        "q_composition": heads.indirect,
        "k_composition": heads.repeated,
        "token_lookup": mlps.by_token,
        "pair_lookup": mlps.by_pair,
        "threshold": mlps.by_share,
    }[label]
    specimen, found = labelled(
        make, 1 if make is heads.indirect or make is mlps.by_pair else 2 if make is mlps.by_share else 0
    )
    assert set(states_of(specimen, found, label, decoys=True)) == {PATTERN_ONLY}


def test_labels_of_heads_are_masked_on_mlps_and_labels_of_mlps_on_heads():
    specimen, found = labelled(mlps.by_frequency, 0)
    n_heads_labels = len(HEAD_LABELS)
    for i, node in enumerate(components(specimen.subject.config)):
        head, mlp = found.state[i, :n_heads_labels], found.state[i, n_heads_labels:]
        if node.kind != "head":
            assert bool((head == MASKED).all())
        if node.kind != "mlp":
            assert bool((mlp == MASKED).all())
            assert bool(found.null_max[i, n_heads_labels:].isnan().all())
        else:
            assert not bool((mlp == MASKED).any()), "every label of MLPs is defined on a grid"


def test_a_subject_without_mlps_has_no_label_of_them():
    _, found = labelled(heads.repeated, 0)
    for label in MLP_LABELS:
        assert bool((found.state[:, LABEL_INDEX[label.name]] == MASKED).all())


def test_labels_that_need_something_of_the_task_are_masked_without_it():
    specimen, found = labelled(heads.looking_back, 0)
    assert bool((found.state[:, LABEL_INDEX["successor"]] != MASKED).any())
    bare = measured(specimen, Structure.of(specimen.prompts))
    assert bool((bare.state[:, LABEL_INDEX["successor"]] == MASKED).all())
    specimen, found = labelled(mlps.by_frequency, 0)
    bare = measured(specimen, replace(specimen.structure, grid=None))
    assert bool((bare.state[:, LABEL_INDEX["fourier"]] == MASKED).all())
    assert bool((found.state[:, LABEL_INDEX["fourier"]] != MASKED).any())
    specimen, found = labelled(heads.indirect, 1)
    nobody = torch.full_like(specimen.prompts.answer, NO_CANDIDATE)
    bare = measured(specimen, replace(specimen.structure, candidate=nobody))
    assert bool((bare.state[:, LABEL_INDEX["s_inhibition"]] == MASKED).all())
    assert bool((found.state[:, LABEL_INDEX["s_inhibition"]] != MASKED).any())


def test_labels_about_earlier_or_later_heads_are_masked_where_there_are_none():
    specimen, found = labelled(heads.indirect, 1)
    nodes, last = components(specimen.subject.config), specimen.subject.config.n_layers - 1
    for i, node in enumerate(nodes):
        if node.kind == "head":
            for label in ("q_composition", "k_composition", "v_composition", "backup_mover"):
                assert (int(found.state[i, LABEL_INDEX[label]]) == MASKED) == (node.layer == 0)
            assert (int(found.state[i, LABEL_INDEX["s_inhibition"]]) == MASKED) == (node.layer == last)
