"""Causal twins: the fast batch against full forwards, and a subject whose twins are computed by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_gen.labels.entries import answer_entries, attention_entries, offset_entries, row_chance
from data_gen.labels.interventions import clean_run, cut_and_control, intervened_logits
from data_gen.labels.measure import RawScores
from data_gen.labels.registry import ATTENTION_LABELS, KEPT_SHARE, LABEL_INDEX, TWIN_EFFECT, TWIN_ERRORS
from data_gen.labels.twins import twins
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject

MakePrompts = Callable[..., Prompts]
MakeSubject = Callable[..., Subject]


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


def margin_when(
    subject: Subject, prompts: Prompts, site: str, replaced: Callable[[Tensor], Tensor]
) -> Tensor:
    """Margin of a full forward whose value at one site is another."""
    run = forward(subject.stacked, subject.config, prompts.clean, replace={site: replaced})
    return margin(run.logits[0, torch.arange(len(prompts)), prompts.position], prompts.answer)


def naive_margin(subject: Subject, prompts: Prompts, layer: int, head: int, pattern: Tensor) -> Tensor:
    """Margin of a full forward in which one head attends by `pattern`."""

    def replaced(value: Tensor) -> Tensor:
        value = value.clone()
        value[0, :, head] = pattern
        return value

    return margin_when(subject, prompts, f"blocks.{layer}.attn.hook_pattern", replaced)


def naive_entries(label: str, prompts: Prompts, offset: int) -> Tensor:
    match label:
        case "offset_k":
            return offset_entries(prompts.clean, offset, "causal")
        case "name_mover":
            return answer_entries(prompts.clean, prompts.position, prompts.answer)
    return attention_entries(label, prompts.clean, "causal")


def naive_losses(subject: Subject, prompts: Prompts, layer: int, head: int, offset: int) -> dict[str, Tensor]:
    """What every twin of one head loses on each prompt beyond its control: one full forward after another."""
    sites = {x: f"blocks.{layer}.attn.hook_{x}" for x in ("pattern", "z")}
    last = f"blocks.{subject.config.n_layers - 1}.hook_resid_post"
    clean = subject.run(prompts.clean, taps=sites.values())
    rows = torch.arange(len(prompts))
    base = margin(clean.logits[0, rows, prompts.position], prompts.answer)
    pattern = clean.taps[sites["pattern"]][0, :, head]

    def lost(changed: Tensor) -> Tensor:
        return base - naive_margin(subject, prompts, layer, head, changed)

    def beyond(loss: Tensor, control: Tensor) -> Tensor:
        return loss - control if control.mean() > 0 else loss

    found = {}
    for label in (*ATTENTION_LABELS, "name_mover"):
        entries = naive_entries(label, prompts, offset)
        pairs = [naive_cut_and_control(p, e) for p, e in zip(pattern, entries, strict=True)]
        cut, control = (torch.stack(part) for part in zip(*pairs, strict=True))
        found[label] = beyond(lost(cut), lost(control))
        if label == "name_mover":
            found["negative_mover"] = beyond(-lost(cut), -lost(control))
    average = pattern.mean(0).expand(pattern.shape)
    flat = row_chance(pattern.shape[-1], "causal", pattern.device).expand(pattern.shape)
    found["positional"] = beyond(lost(flat), lost(average) / KEPT_SHARE)

    written = clean.taps[sites["z"]][0, rows, prompts.position, head]
    written = written @ subject.weights[f"blocks.{layer}.attn.W_O"][head]

    def averaged(resid: Tensor) -> Tensor:
        resid = resid.clone()
        resid[0, rows, prompts.position] += written.mean(0) - written
        return resid

    found["copying"] = found["successor"] = base - margin_when(subject, prompts, last, averaged)
    return found


def scores_of(subject: Subject, offset: Tensor) -> RawScores:
    """What twins must know of a subject's scores, but for the distance: nobody moves, nothing composes."""
    c = subject.config
    return RawScores(
        value=torch.zeros(1, c.n_layers, c.n_heads + c.has_mlp, len(LABEL_INDEX)),
        offset=offset.unsqueeze(0),
        primary=torch.zeros(1, c.n_layers, c.n_heads, dtype=torch.bool),
        source=torch.zeros(1, c.n_layers, c.n_heads, 3, dtype=torch.long),
    )


@pytest.mark.parametrize("n_layers", [1, 2])
def test_fast_twins_equal_a_loop_over_heads_and_labels(
    n_layers: int, random_subject: MakeSubject, repeated_prompts: MakePrompts
):
    n = 16
    subject, prompts = random_subject(n_layers=n_layers).double(), repeated_prompts(n)
    offset = torch.tensor([[2, 3], [4, 2]])[:n_layers]
    logits = subject.run(prompts.clean).logits[0, torch.arange(n), prompts.position]
    # The prompt's likeliest token is the answer, so that some heads help.
    best = logits.gather(1, prompts.clean[:, 1:-1]).argmax(1, keepdim=True)
    prompts = replace(prompts, answer=prompts.clean.gather(1, 1 + best).squeeze(1))
    subject = canonical(subject)
    fast = twins(subject, prompts, scores_of(subject, offset))
    size = margin(logits, prompts.answer).mean().abs()
    seen = set()
    for layer in range(n_layers):
        for head in range(2):
            losses = naive_losses(subject, prompts, layer, head, int(offset[layer, head]))
            for label, loss in losses.items():
                where = (layer, head, LABEL_INDEX[label])
                torch.testing.assert_close(fast.effect[where], loss.mean(), atol=1e-6, rtol=0)
                error = ((loss - loss.mean()) ** 2).sum().div(n - 1).sqrt() / n**0.5
                holds = bool(loss.mean() > TWIN_EFFECT * size and loss.mean() > TWIN_ERRORS * error)
                assert bool(fast.holds[where]) == holds, (where, label)
                seen.add(holds)
    assert seen == {True, False}


def hand_subject(values: list[float]) -> Subject:
    """At position 2 its only head looks at position 1, and writes that token's value to the logit of token 1.

    Tokens: 0 is BOS, 1 the answer, then one for each value. The answer's logit starts at 10, others at 0.
    """
    config = SubjectConfig(
        n_layers=1,
        n_heads=1,
        d_model=3,
        d_head=1,
        d_mlp=0,
        d_vocab=2 + len(values),
        n_ctx=3,
        normalization_type="none",
    )
    weights = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in weight_shapes(config).items()}
    weights["embed.W_E"][2:, 0] = torch.tensor(values)
    weights["pos_embed.W_pos"][1, 1] = weights["pos_embed.W_pos"][2, 2] = 1.0
    weights["blocks.0.attn.W_Q"][0, 2] = weights["blocks.0.attn.W_K"][0, 1] = 10.0
    weights["blocks.0.attn.W_V"][0, 0] = weights["blocks.0.attn.W_O"][0, 0, 0] = 1.0
    weights["unembed.W_U"][0, 1], weights["unembed.b_U"][1] = 1.0, 10.0
    return Subject(config=config, weights=weights)


def hand_twins(values: list[float]) -> tuple[dict[str, float], dict[str, bool]]:
    """Effects of the only head's twins, and whether they hold, on one prompt for each value."""
    n = len(values)
    tokens = torch.stack([torch.zeros(n).long(), torch.arange(2, 2 + n), torch.ones(n).long()], dim=1)
    prompts = Prompts(
        clean=tokens,
        corrupt=tokens.roll(1, 0),
        position=torch.full((n,), 2),
        answer=torch.ones(n).long(),
        corrupt_answer=torch.zeros(n).long(),
        slice=torch.zeros(n).long(),
        slice_names=("all",),
    )
    subject = canonical(hand_subject(values))
    found = twins(subject, prompts, scores_of(subject, torch.tensor([[2]])))
    effect, holds = found.effect[0, 0].tolist(), found.holds[0, 0].tolist()
    return {k: effect[i] for k, i in LABEL_INDEX.items()}, {k: holds[i] for k, i in LABEL_INDEX.items()}


def test_a_subject_done_by_hand_gets_the_twins_done_by_hand():
    effect, _ = hand_twins([1.0, 2.0, 3.0, 4.0])
    assert effect["previous_token"] == pytest.approx(2.5), "all that the head writes is lost"
    assert effect["positional"] == pytest.approx(2.5 * 2 / 3), "a third of the flat pattern stays"
    for label in ("self", "first_token_sink"):
        assert effect[label] == pytest.approx(0, abs=1e-9), "there is nothing to cut"
    assert effect["copying"] == pytest.approx(0, abs=1e-9), "the mean helps as much as what it replaces"


def test_a_twin_holds_above_two_percent_of_the_mean_margin():
    # Every prompt loses its value v of a margin of 10 + v, so the bar is at v = 0.2 / 0.98 = 0.204.
    assert not hand_twins([0.19] * 4)[1]["previous_token"]
    assert hand_twins([0.22] * 4)[1]["previous_token"]
    assert not hand_twins([-0.22] * 4)[1]["previous_token"], "an effect of the wrong sign"


def test_a_twin_holds_above_two_standard_errors_over_prompts():
    # Values 1 ± a, two each: mean 1, standard deviation a·sqrt(4/3), so two errors are 1.155·a.
    assert hand_twins([0.2, 1.8, 0.2, 1.8])[1]["previous_token"]
    assert not hand_twins([0.1, 1.9, 0.1, 1.9])[1]["previous_token"]


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_leaving_a_pattern_as_it_is_leaves_the_margin_and_changing_it_does_not(
    attention_dir: str, random_subject: MakeSubject, repeated_prompts: MakePrompts
):
    subject, prompts = random_subject(n_layers=3, attention_dir=attention_dir), repeated_prompts(4)
    subject = canonical(subject)
    run = clean_run(subject, prompts)
    for layer in range(3):
        pattern = run.taps[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)
        same = margin(intervened_logits(run, layer, torch.tensor([0, 1]), pattern), prompts.answer)
        torch.testing.assert_close(same, run.margin.expand(2, -1), atol=2e-5, rtol=1e-4)
        moved = margin(
            intervened_logits(run, layer, torch.tensor([0, 1]), pattern.roll(1, 2)), prompts.answer
        )
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
