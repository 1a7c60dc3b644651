"""Labels find what was planted, refuse decoys, and mask what is undefined."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from data_gen.function_labels import function_labels
from data_gen.labels.batteries import Batteries
from data_gen.labels.measure import raw_scores
from data_gen.labels.registry import ATTENTION_LABELS, LABEL_INDEX
from data_gen.null import LabelNull, label_null, reinitialised
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject, initial_weights
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, FunctionLabels

N_TOKENS, N_POS, BOS = 24, 13, 0
TOKEN, PLACE, BEFORE, OUT = 0, 24, 48, 72
"""Where the planted subject keeps the token, its position, the token before, and the answer."""
SHARP = 30.0
PREVIOUS, DECOY, SINK, DUPLICATE, INDUCTION, SELF = "L0H0", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1"

MakeBattery = Callable[..., Batteries]
MakePrompts = Callable[..., Prompts]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted() -> Subject:
    """An induction pair, beside heads that show a pattern and write nothing."""
    config = SubjectConfig(
        n_layers=2,
        n_heads=4,
        d_model=96,
        d_head=48,
        d_vocab=N_TOKENS,
        n_ctx=N_POS,
        d_mlp=0,
        normalization_type="none",
    )
    weights = {k: v[0] * 0.01 for k, v in initial_weights(config, [generator(0)]).items()}
    weights["embed.W_E"] = torch.eye(N_TOKENS, 96)
    weights["pos_embed.W_pos"] = torch.zeros(N_POS, 96)
    weights["pos_embed.W_pos"][:, PLACE : PLACE + N_POS] = torch.eye(N_POS)
    weights["unembed.W_U"] = torch.zeros(96, N_TOKENS)
    weights["unembed.W_U"][OUT : OUT + N_TOKENS] = 10 * torch.eye(N_TOKENS)
    for name in "QKVO":
        for layer in range(2):
            weights[f"blocks.{layer}.attn.W_{name}"] = weights[f"blocks.{layer}.attn.W_{name}"].clone()
    sharp, tokens, places = SHARP * math.sqrt(48), torch.arange(N_TOKENS), torch.arange(N_POS)

    def attend(name: str, rows_q: Tensor, rows_k: Tensor, at: Tensor, strength: float = 1.0) -> None:
        layer, head = int(name[1]), int(name[3])
        weights[f"blocks.{layer}.attn.W_Q"][head, rows_q, at] = sharp * strength
        weights[f"blocks.{layer}.attn.W_K"][head, rows_k, at] = 1.0

    def write(name: str, source: int, target: int) -> None:
        layer, head = int(name[1]), int(name[3])
        weights[f"blocks.{layer}.attn.W_V"][head] = 0
        weights[f"blocks.{layer}.attn.W_O"][head] = 0
        weights[f"blocks.{layer}.attn.W_V"][head, source + tokens, tokens] = 1.0
        weights[f"blocks.{layer}.attn.W_O"][head, tokens, target + tokens] = 1.0

    for name in (PREVIOUS, DECOY):
        attend(name, PLACE + places[1:], PLACE + places[:-1], places[1:])
    write(PREVIOUS, TOKEN, BEFORE)
    attend(SINK, PLACE + places, torch.full_like(places, BOS), places)
    attend(DUPLICATE, tokens, tokens, tokens)
    attend(DUPLICATE, PLACE + places, PLACE + places, 24 + places, -1.0)
    attend(INDUCTION, tokens, BEFORE + tokens, tokens)
    attend(SELF, PLACE + places, PLACE + places, places)
    write(INDUCTION, TOKEN, OUT)
    for name in (DECOY, SINK, DUPLICATE, SELF):
        weights[f"blocks.{name[1]}.attn.W_O"][int(name[3])] = 0
    return Subject(config=config, weights=weights, name="planted")


@pytest.fixture(scope="module")
def null(battery: MakeBattery, repeated_prompts: MakePrompts) -> LabelNull:
    config = planted().config
    return label_null(reinitialised(config, 20, seed=0), config, battery(32), repeated_prompts(32))


@pytest.fixture(scope="module")
def found(null: LabelNull, battery: MakeBattery, repeated_prompts: MakePrompts) -> FunctionLabels:
    return function_labels(planted(), repeated_prompts(32), battery(32), null)


def at(values: Tensor, node: str, label: str) -> float:
    names = [component.name for component in components(planted().config)]
    return values[names.index(node), LABEL_INDEX[label]].item()


@pytest.mark.parametrize(
    ("node", "label"),
    [
        (PREVIOUS, "previous_token"),
        (DECOY, "previous_token"),
        (SINK, "first_token_sink"),
        (DUPLICATE, "duplicate_token"),
        (INDUCTION, "induction"),
        (SELF, "self"),
    ],
)
def test_a_planted_head_scores_high_on_its_label_and_low_on_the_others(
    found: FunctionLabels, node: str, label: str
):
    assert at(found.raw, node, label) > 0.75
    others = [at(found.raw, node, other) for other in ATTENTION_LABELS if other != label]
    assert max(others) < 0.2


def test_the_induction_pair_is_positive(found: FunctionLabels):
    assert at(found.state, PREVIOUS, "previous_token") == POSITIVE
    for label in ("induction", "copying", "name_mover"):
        assert at(found.state, INDUCTION, label) == POSITIVE
    assert at(found.state, PREVIOUS, "positional") == POSITIVE
    assert at(found.state, INDUCTION, "previous_token") == NEGATIVE


def test_decoys_that_write_nothing_are_pattern_only(found: FunctionLabels):
    for node, label in (
        (DECOY, "previous_token"),
        (SINK, "first_token_sink"),
        (DUPLICATE, "duplicate_token"),
        (SELF, "self"),
        (DECOY, "positional"),
    ):
        assert at(found.state, node, label) == PATTERN_ONLY
        assert at(found.twin, node, label) == pytest.approx(0, abs=1e-5)


def test_only_heads_are_labelled(found: FunctionLabels):
    for i, node in enumerate(components(planted().config)):
        if node.kind != "head":
            assert bool((found.state[i] == MASKED).all())
            assert bool(found.raw[i].isnan().all())


def looking_back(distance: int, queries: Tensor) -> Subject:
    """The planted subject, its decoy changed: from these queries it looks back and answers what is there."""
    subject, tokens = planted(), torch.arange(N_TOKENS)
    weights = {key: value.clone() for key, value in subject.weights.items()}
    q, k, v, o = (weights[f"blocks.0.attn.W_{name}"][1].zero_() for name in "QKVO")
    q[PLACE + queries, queries] = SHARP * math.sqrt(48)
    k[PLACE + queries - distance, queries] = 1.0
    v[TOKEN + tokens, tokens] = 1.0
    o[tokens, OUT + tokens] = 1.0
    return subject.with_weights(weights)


def test_a_head_of_another_distance_is_found_by_offset_k(battery: MakeBattery, repeated_prompts: MakePrompts):
    moved = looking_back(3, torch.arange(3, N_POS))
    found = raw_scores(moved.stacked, moved.config, battery(16), (repeated_prompts(16),))
    scores, offset = found.value, found.offset
    assert offset[0, 0, 1] == 3
    assert scores[0, 0, 1, LABEL_INDEX["offset_k"]] > 0.75
    assert scores[0, 0, 1, LABEL_INDEX["previous_token"]] < 0.1


def test_a_head_that_looks_back_at_the_answer_position_only_is_positive(
    null: LabelNull, battery: MakeBattery, repeated_prompts: MakePrompts
):
    clean = repeated_prompts(32).clean.clone()
    clean[:, 1:] = battery(32, seed=6).random[:, 1:5].repeat(1, 3)
    prompts = dataclasses.replace(repeated_prompts(32), clean=clean, answer=clean[:, -1])
    subject = looking_back(3, torch.tensor([N_POS - 2]))
    found = function_labels(subject, prompts, battery(32), null)
    assert at(found.raw, DECOY, "offset_k") > 0.75
    assert at(found.state, DECOY, "offset_k") == POSITIVE
    elsewhere = dataclasses.replace(prompts, position=prompts.position - 1, answer=clean[:, -2])
    found = function_labels(subject, elsewhere, battery(32), null)
    assert at(found.raw, DECOY, "offset_k") < 0.2
    assert at(found.state, DECOY, "offset_k") == NEGATIVE


def test_a_label_is_masked_where_the_prompts_cannot_show_it(
    null: LabelNull, battery: MakeBattery, repeated_prompts: MakePrompts
):
    prompts = repeated_prompts(32)
    absent = dataclasses.replace(prompts, answer=torch.full_like(prompts.answer, 1))
    found = function_labels(planted(), absent, battery(32), null)
    assert at(found.state, INDUCTION, "name_mover") == MASKED
    assert math.isnan(at(found.raw, INDUCTION, "name_mover"))
    short = battery(32, seed=0, n_pos=6)
    assert short.repeated is None
    found = function_labels(planted(), prompts, short, null)
    assert at(found.state, INDUCTION, "induction") == MASKED
    assert at(found.state, PREVIOUS, "previous_token") == POSITIVE


def test_a_twin_without_its_attention_on_task_prompts_leaves_the_pattern_only(
    null: LabelNull, battery: MakeBattery, repeated_prompts: MakePrompts
):
    prompts = dataclasses.replace(repeated_prompts(32), clean=battery(32, seed=5).random)
    found = function_labels(planted(), prompts, battery(32), null)
    assert math.isnan(at(found.twin, INDUCTION, "induction"))
    assert at(found.state, INDUCTION, "induction") == PATTERN_ONLY


def test_the_null_repeats_and_its_largest_score_hardly_depends_on_the_seed(
    null: LabelNull, battery: MakeBattery, repeated_prompts: MakePrompts
):
    config = planted().config
    again = label_null(reinitialised(config, 20, seed=0), config, battery(32), repeated_prompts(32))
    torch.testing.assert_close(again.largest, null.largest, rtol=0, atol=0, equal_nan=True)
    other = label_null(reinitialised(config, 20, seed=1), config, battery(32), repeated_prompts(32))
    assert not torch.equal(other.largest, null.largest)
    on_many_rows = [LABEL_INDEX[label] for label in ("duplicate_token", "induction")]
    torch.testing.assert_close(other.largest[on_many_rows], null.largest[on_many_rows], atol=0.1, rtol=0)
    # Also scored at one row of each prompt, these have heavier tails.
    at_answer = [LABEL_INDEX[label] for label in ("previous_token", "offset_k", "self", "first_token_sink")]
    torch.testing.assert_close(other.largest[at_answer], null.largest[at_answer], atol=0.2, rtol=0)
    assert float(null.largest[on_many_rows].max()) < 0.2
