"""Function labels find what was planted, refuse decoys, and mask what is undefined."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from data_gen.function_labels import function_labels
from data_gen.labels.batteries import Batteries, batteries
from data_gen.labels.entries import answer_entries, attention_entries, offset_entries, row_chance
from data_gen.labels.measure import copying, raw_scores
from data_gen.labels.registry import ATTENTION_LABELS, LABEL_INDEX, LABELS, POSITIONAL_SHARE
from data_gen.labels.twins import CUT_LABELS, clean_run, cut_and_control, intervened_margin, twins
from data_gen.null import LabelNull, label_null, reinitialised
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject, initial_weights, stack
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE, FunctionLabels

N_TOKENS, N_POS, BOS = 24, 13, 0
SYMBOLS = torch.arange(4, N_TOKENS)
TOKEN, PLACE, BEFORE, OUT = 0, 24, 48, 72
"""Where the planted subject keeps the token, its position, the token before, and the answer."""
SHARP = 30.0
PREVIOUS, DECOY, SINK, DUPLICATE, INDUCTION, SELF = "L0H0", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1"


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


def repeated_prompts(n: int, seed: int = 1) -> Prompts:
    """Repeated sequences; the answer comes after the last but one token."""
    tokens = battery(n, seed).repeated
    assert tokens is not None
    shifted = tokens.roll(1, 0)
    return Prompts(
        clean=tokens,
        corrupt=shifted,
        position=torch.full((n,), N_POS - 2),
        answer=tokens[:, -1],
        corrupt_answer=shifted[:, -1],
        slice=torch.zeros(n, dtype=torch.long),
        slice_names=("all",),
    )


def battery(n: int, seed: int = 2, n_pos: int = N_POS) -> Batteries:
    return batteries(generator(seed), n=n, n_pos=n_pos, bos=BOS, symbols=SYMBOLS)


@pytest.fixture(scope="module")
def null() -> LabelNull:
    config = planted().config
    return label_null(reinitialised(config, 20, seed=0), config, battery(32), repeated_prompts(32))


@pytest.fixture(scope="module")
def found(null: LabelNull) -> FunctionLabels:
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


def test_a_head_of_another_distance_is_found_by_offset_k():
    subject, places = planted(), torch.arange(N_POS)
    weights = dict(subject.weights)
    q, k = weights["blocks.0.attn.W_Q"].clone(), weights["blocks.0.attn.W_K"].clone()
    q[1], k[1] = 0, 0
    q[1, PLACE + places[3:], places[3:]] = SHARP * math.sqrt(48)
    k[1, PLACE + places[:-3], places[3:]] = 1.0
    weights |= {"blocks.0.attn.W_Q": q, "blocks.0.attn.W_K": k}
    moved = subject.with_weights(weights)
    scores, offset = raw_scores(moved.stacked, moved.config, battery(16), (repeated_prompts(16),))
    assert offset[0, 0, 1] == 3
    assert scores[0, 0, 1, LABEL_INDEX["offset_k"]] > 0.75
    assert scores[0, 0, 1, LABEL_INDEX["previous_token"]] < 0.1


def test_a_label_is_masked_where_the_prompts_cannot_show_it(null: LabelNull):
    prompts = repeated_prompts(32)
    absent = dataclasses.replace(prompts, answer=torch.full_like(prompts.answer, 1))
    found = function_labels(planted(), absent, battery(32), null)
    assert at(found.state, INDUCTION, "name_mover") == MASKED
    assert math.isnan(at(found.raw, INDUCTION, "name_mover"))
    short = batteries(generator(0), n=32, n_pos=6, bos=BOS, symbols=SYMBOLS)
    assert short.repeated is None
    found = function_labels(planted(), prompts, short, null)
    assert at(found.state, INDUCTION, "induction") == MASKED
    assert at(found.state, PREVIOUS, "previous_token") == POSITIVE


def test_a_twin_without_its_attention_on_task_prompts_leaves_the_pattern_only(null: LabelNull):
    prompts = dataclasses.replace(repeated_prompts(32), clean=battery(32, seed=5).random)
    found = function_labels(planted(), prompts, battery(32), null)
    assert math.isnan(at(found.twin, INDUCTION, "induction"))
    assert at(found.state, INDUCTION, "induction") == PATTERN_ONLY


def test_the_null_repeats_and_its_largest_score_hardly_depends_on_the_seed(null: LabelNull):
    config = planted().config
    again = label_null(reinitialised(config, 20, seed=0), config, battery(32), repeated_prompts(32))
    assert torch.equal(again.largest, null.largest)
    other = label_null(reinitialised(config, 20, seed=1), config, battery(32), repeated_prompts(32))
    assert not torch.equal(other.largest, null.largest)
    on_many_rows = [LABEL_INDEX[label] for label in ("duplicate_token", "induction")]
    torch.testing.assert_close(other.largest[on_many_rows], null.largest[on_many_rows], atol=0.1, rtol=0)
    # Also scored at one row of each prompt, these have heavier tails.
    at_answer = [LABEL_INDEX[label] for label in ("previous_token", "offset_k", "self", "first_token_sink")]
    torch.testing.assert_close(other.largest[at_answer], null.largest[at_answer], atol=0.2, rtol=0)
    assert float(null.largest[on_many_rows].max()) < 0.2


def test_every_entry_of_the_registry_is_complete():
    names = [label.name for label in LABELS]
    assert len(set(names)) == len(names) == 9
    for label in LABELS:
        assert label.statistics
        assert label.twin
        assert label.description.endswith(".")
        assert 0 < label.effect_size < 1
    assert [label.name for label in LABELS if label.determined_by] == ["copying"]


def test_entries_are_those_counted_by_hand():
    tokens = torch.tensor([[0, 5, 6, 5, 6]])
    causal = attention_entries("duplicate_token", tokens, "causal")[0].nonzero().tolist()
    assert causal == [[3, 1], [4, 2]]
    both = attention_entries("duplicate_token", tokens, "bidirectional")[0].nonzero().tolist()
    assert both == [[1, 3], [2, 4], [3, 1], [4, 2]]
    assert attention_entries("induction", tokens, "causal")[0].nonzero().tolist() == [[3, 2], [4, 3]]
    assert offset_entries(tokens, 2, "causal")[0].nonzero().tolist() == [[3, 1], [4, 2]]
    assert attention_entries("first_token_sink", tokens, "causal")[0].sum() == 4
    answers = answer_entries(tokens, torch.tensor([3]), torch.tensor([6]))
    assert answers[0].nonzero().tolist() == [[3, 2]]


def test_repeated_prompts_repeat_with_several_periods_and_starts():
    tests = battery(64)
    assert tests.repeated is not None
    assert all(len(set(row)) == N_POS for row in tests.random.tolist())
    periods, starts = set(), set()
    for row in tests.repeated[:, 1:].tolist():
        start = next(i for i in range(len(row)) if row[i] in row[i + 1 :])
        periods.add(row.index(row[start], start + 1) - start if row[start] in row[start + 1 :] else 0)
        starts.add(start)
    assert periods == {3, 4, 5, 6}
    assert len(starts) > 3


def naive_cut_and_control(pattern: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row and entry by entry, for causal patterns."""
    cut, control = pattern.clone(), pattern.clone()
    for i in range(pattern.shape[0]):
        inside = [j for j in range(i + 1) if entries[i, j]]
        outside = [j for j in range(i + 1) if not entries[i, j]]
        if not inside or not outside:
            continue
        mass = sum(pattern[i, j].item() for j in inside)
        left = sum(pattern[i, j].item() for j in outside)
        taken = min(mass, left)
        for j in inside:
            cut[i, j], control[i, j] = 0, pattern[i, j] / (1 - taken)
        for j in outside:
            cut[i, j] = pattern[i, j] / left
            control[i, j] = pattern[i, j] * (1 - taken / left) / (1 - taken)
    return cut, control


def random_subject(*, n_layers: int = 2, attention_dir: str = "causal") -> Subject:
    config = SubjectConfig(
        n_layers=n_layers,
        n_heads=2,
        d_model=16,
        d_head=8,
        d_mlp=24,
        d_vocab=N_TOKENS,
        n_ctx=N_POS,
        attention_dir="causal" if attention_dir == "causal" else "bidirectional",
    )
    weights = initial_weights(config, [generator(3)], init_std=0.7)
    noise = generator(4)
    return Subject(
        config=config,
        weights={k: v[0] + 0.2 * torch.randn(v.shape[1:], generator=noise) for k, v in weights.items()},
    )


def naive_margin(subject: Subject, prompts: Prompts, layer: int, head: int, pattern: Tensor) -> Tensor:
    """Margin of a full forward in which one head attends by `pattern`."""

    def replaced(value: Tensor) -> Tensor:
        value = value.clone()
        value[0, :, head] = pattern
        return value

    site = f"blocks.{layer}.attn.hook_pattern"
    run = forward(subject.stacked, subject.config, prompts.clean, replace={site: replaced})
    return margin(run.logits[0, torch.arange(len(prompts)), prompts.position], prompts.answer)


def test_fast_twins_equal_a_loop_over_heads_and_labels():
    subject, prompts = random_subject(), repeated_prompts(5)
    offset = torch.tensor([[2, 3], [4, 2]])
    fast = twins(subject, prompts, offset)
    clean = subject.run(prompts.clean, taps=[f"blocks.{i}.attn.hook_pattern" for i in range(2)])
    base = margin(clean.logits[0, torch.arange(5), prompts.position], prompts.answer)
    for layer in range(2):
        for head in range(2):
            pattern = clean.taps[f"blocks.{layer}.attn.hook_pattern"][0, :, head]
            for label in CUT_LABELS:
                match label:
                    case "offset_k":
                        entries = offset_entries(prompts.clean, int(offset[layer, head]), "causal")
                    case "name_mover":
                        entries = answer_entries(prompts.clean, prompts.position, prompts.answer)
                    case _:
                        entries = attention_entries(label, prompts.clean, "causal")
                pairs = [naive_cut_and_control(p, e) for p, e in zip(pattern, entries, strict=True)]
                cut, control = (torch.stack(part) for part in zip(*pairs, strict=True))
                lost = (base - naive_margin(subject, prompts, layer, head, cut)).mean()
                spared = (base - naive_margin(subject, prompts, layer, head, control)).mean()
                expected = lost - spared.clamp_min(0)
                got = fast.effect[layer, head, LABEL_INDEX[label]]
                torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
            average = pattern.mean(0).expand(pattern.shape)
            flat = row_chance(N_POS, "causal", pattern.device).expand(pattern.shape)
            by_average = (base - naive_margin(subject, prompts, layer, head, average)).mean()
            by_flat = (base - naive_margin(subject, prompts, layer, head, flat)).mean()
            expected = by_flat - by_average.clamp_min(0) / POSITIONAL_SHARE
            got = fast.effect[layer, head, LABEL_INDEX["positional"]]
            torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_leaving_a_pattern_as_it_is_leaves_the_margin_and_changing_it_does_not(attention_dir: str):
    subject, prompts = random_subject(n_layers=3, attention_dir=attention_dir), repeated_prompts(4)
    run = clean_run(subject, prompts)
    for layer in range(3):
        pattern = run.taps[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)
        same = intervened_margin(run, layer, torch.tensor([0, 1]), pattern)
        torch.testing.assert_close(same, run.margin.expand(2, -1), atol=2e-5, rtol=1e-4)
        moved = intervened_margin(run, layer, torch.tensor([0, 1]), pattern.roll(1, 2))
        expected = torch.stack(
            [naive_margin(subject, prompts, layer, h, pattern[h].roll(1, 1)) for h in (0, 1)]
        )
        torch.testing.assert_close(moved, expected, atol=2e-5, rtol=1e-4)
        assert (moved - same).abs().max() > 1e-3


def test_rows_whose_every_entry_would_be_cut_stay_as_they_are():
    pattern = torch.tensor([[[1.0, 0.0], [0.3, 0.7]]])
    entries = torch.tensor([[[True, False], [True, False]]])
    cut, control = cut_and_control(pattern, entries, "causal")
    torch.testing.assert_close(cut, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    torch.testing.assert_close(control, torch.tensor([[[1.0, 0.0], [0.3 / 0.7, 0.4 / 0.7]]]))


def test_copying_equals_the_whole_token_matrix_and_ignores_the_gauge():
    subject = random_subject().double()
    fast = copying(subject.stacked, subject.config)
    torch.testing.assert_close(fast, copying(canonical(subject).stacked, subject.config), atol=1e-6, rtol=0)
    w = canonical(subject).weights
    read = torch.nn.functional.layer_norm(w["embed.W_E"], (16,), eps=subject.config.eps)
    read, unembed = read - read.mean(0), w["unembed.W_U"] - w["unembed.W_U"].mean(1, keepdim=True)
    for head in range(2):
        ov = w["blocks.0.attn.W_V"][head] @ w["blocks.0.attn.W_O"][head]
        values = torch.linalg.eigvals(read @ ov @ unembed)
        expected = values.real.sum() / values.abs().sum()
        torch.testing.assert_close(fast[0, 0, head], expected, atol=1e-6, rtol=0)
    weights = dict(subject.weights)
    weights["blocks.0.attn.W_O"] = -weights["blocks.0.attn.W_O"]
    flipped = subject.with_weights(weights)
    torch.testing.assert_close(copying(flipped.stacked, subject.config)[0, 0], -fast[0, 0])


def test_raw_scores_of_a_stack_are_those_of_its_subjects():
    first, second = random_subject(), random_subject()
    second = second.with_weights({k: v.roll(1, -1) for k, v in second.weights.items()})
    prompts = (repeated_prompts(6, seed=8), repeated_prompts(6, seed=9))
    together, _ = raw_scores(stack([first, second]), first.config, battery(8), prompts)
    for i, subject in enumerate((first, second)):
        alone, _ = raw_scores(subject.stacked, subject.config, battery(8), (prompts[i],))
        torch.testing.assert_close(together[i], alone[0], equal_nan=True)
    assert not torch.allclose(together[0], together[1], equal_nan=True)


def test_raw_scores_do_not_depend_on_the_gauge_and_do_on_the_weights():
    subject = random_subject().double()
    scores, _ = raw_scores(subject.stacked, subject.config, battery(8), (repeated_prompts(8),))
    form = canonical(subject)
    same, _ = raw_scores(form.stacked, form.config, battery(8), (repeated_prompts(8),))
    torch.testing.assert_close(scores, same, atol=1e-6, rtol=0)
    other = subject.with_weights({k: v * 1.1 for k, v in subject.weights.items()})
    moved, _ = raw_scores(other.stacked, other.config, battery(8), (repeated_prompts(8),))
    assert (moved - scores).abs().max() > 1e-3
