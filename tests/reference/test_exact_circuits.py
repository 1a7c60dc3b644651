"""The fast exact sweep against the naive loop, a forward an edge, and against a subject done by hand."""

import dataclasses
import itertools
import math

import pytest
import torch

from metamodel.circuits import sweep
from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.base_run import source_outputs
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import kl, margin
from metamodel.circuits.prompts import Prompts
from metamodel.config import InputError
from metamodel.subjects.canonical import folded
from metamodel.subjects.config import components
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject
from tests.reference.hand import hand_prompts, hand_subject
from tests.reference.slow import random_prompts, random_subject


def naive_scores(subject: Subject, prompts: Prompts, intervention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One full forward an edge: the source's change is added at that destination alone."""
    whole, config = folded(subject), subject.config
    taps = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        taps += [f"blocks.{layer}.attn.hook_result"]
        taps += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []

    def outputs(tokens):
        run = whole.run(tokens, taps=taps)
        return run.logits[0], source_outputs(config, {name: run.taps[name][0] for name in taps})

    rows = torch.arange(len(prompts))
    logits, clean = outputs(prompts.clean)
    logits = logits[rows, prompts.position]
    delta = -clean if intervention == "zero" else outputs(prompts.corrupt)[1] - clean
    margins, kls = [], []
    edges = component_edges(config)
    for edge in edges.edges:
        change = delta[edges.sources.index(edge.source)]
        reader = edge.destination
        if reader.component.kind == "head":
            addend = change.new_zeros(*change.shape[:2], config.n_heads, config.d_model)
            addend[:, :, reader.component.head] = change
        else:
            addend = change
        patched = forward(whole.stacked, config, prompts.clean, addends={reader.site: addend[None]})
        patched = patched.logits[0][rows, prompts.position]
        margins.append((margin(patched, prompts.answer) - margin(logits, prompts.answer)).mean())
        kls.append(kl(logits, patched).mean())
    return torch.stack(margins), torch.stack(kls)


@pytest.mark.parametrize("intervention", ["noising", "zero"])
@pytest.mark.parametrize(
    ("normalization_type", "d_mlp", "attention_dir", "n_layers", "act_fn"),
    [
        (*shape, n_layers, act_fn)
        for shape, (n_layers, act_fn) in zip(
            itertools.product(["LN", "none"], [12, 0], ["causal", "bidirectional"]),
            [
                (2, "relu"),
                (3, "gelu"),
                (2, "relu"),
                (3, "relu"),
                (3, "gelu_new"),
                (1, "relu"),
                (1, "relu"),
                (3, "relu"),
            ],
            strict=True,
        )
    ],
)
def test_the_sweep_equals_a_full_forward_for_each_edge(
    normalization_type, d_mlp, attention_dir, n_layers, act_fn, intervention
):
    subject = random_subject(
        1,
        normalization_type=normalization_type,
        d_mlp=d_mlp,
        attention_dir=attention_dir,
        n_layers=n_layers,
        act_fn=act_fn,
    ).double()
    prompts = random_prompts(2, subject.config)
    scores = edge_scores(subject, prompts, intervention)
    margins, kls = naive_scores(subject, prompts, intervention)
    torch.testing.assert_close(scores.margin, margins, atol=1e-10, rtol=0)
    torch.testing.assert_close(scores.kl, kls, atol=1e-10, rtol=0)
    assert (kls > 1e-6).float().mean() > 0.5, "too few edges have any effect for this to compare anything"


def test_float32_scores_agree_too():
    subject = random_subject(3)
    prompts = random_prompts(4, subject.config)
    scores = edge_scores(subject, prompts, "noising")
    margins, kls = naive_scores(subject, prompts, "noising")
    torch.testing.assert_close(scores.margin, margins, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.kl, kls, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_small_chunks_give_the_same_scores_as_large_ones(monkeypatch, n_layers):
    subject = random_subject(5, n_layers=n_layers).double()
    prompts = random_prompts(6, subject.config)
    whole = edge_scores(subject, prompts, "zero")
    monkeypatch.setattr(sweep, "_CHUNK", 1)
    torch.testing.assert_close(edge_scores(subject, prompts, "zero").margin, whole.margin, atol=1e-12, rtol=0)


def test_a_subject_done_by_hand_gets_the_scores_done_by_hand():
    # Clean logits are 3/4 for the token at position 0 and 5/4 for the one at position 1: margin -1/2.
    # Edges: q, k, v from (token, position), then logits from (token, position, head).
    noising = edge_scores(hand_subject(), hand_prompts(), "noising")
    zero = edge_scores(hand_subject(), hand_prompts(), "zero")
    by_hand_noising = [0, 0, 0, 0, -0.75, 0, 0, 0, -0.75]
    by_hand_zero = [0, -0.5, 0, -0.5, -0.5, 0, 1, 0, -0.5]
    torch.testing.assert_close(noising.margin, torch.tensor(by_hand_noising, dtype=torch.float64))
    torch.testing.assert_close(zero.margin, torch.tensor(by_hand_zero, dtype=torch.float64))
    torch.testing.assert_close(noising.clean_margin, torch.tensor(-0.5, dtype=torch.float64))
    torch.testing.assert_close(noising.margin_se, torch.zeros(9, dtype=torch.float64))

    # KL when the head's token changes: logits (3/4, 5/4, 0) against (0, 5/4, 3/4), equal normalisers.
    high, norm = math.exp(0.75), math.exp(0.75) + math.exp(1.25) + 1
    expected = (high / norm) * 0.75 - (1 / norm) * 0.75
    torch.testing.assert_close(noising.kl[8], torch.tensor(expected, dtype=torch.float64))


def test_mean_ablation_of_a_subject_done_by_hand():
    # The token at position 0 becomes half 0 and half 2, so its logit falls from 3/4 to 3/8.
    effect, divergence = ablation_effects(hand_subject(), hand_prompts())
    by_hand = torch.tensor([-0.375, 0, -0.375, 0], dtype=torch.float64)
    torch.testing.assert_close(effect, by_hand)
    assert divergence[0] == divergence[2] > 0
    assert divergence[1] == divergence[3] == 0


@pytest.mark.parametrize(
    ("n_layers", "d_mlp", "norm"), [(1, 12, "LN"), (2, 12, "none"), (3, 0, "LN"), (3, 12, "LN")]
)
def test_mean_ablation_equals_a_forward_with_the_output_replaced(n_layers, d_mlp, norm):
    subject = random_subject(7, n_layers=n_layers, d_mlp=d_mlp, normalization_type=norm).double()
    prompts = random_prompts(8, subject.config)
    rows = torch.arange(len(prompts))
    clean = subject.run(prompts.clean).logits[0][rows, prompts.position]
    expected = []
    for node in components(subject.config)[:-1]:
        site = {
            "token_embedding": "hook_embed",
            "position_embedding": "hook_pos_embed",
            "head": f"blocks.{node.layer}.attn.hook_result",
            "mlp": f"blocks.{node.layer}.hook_mlp_out",
        }[node.kind]

        def ablated(value, node=node):
            mean = value.mean(1, keepdim=True).expand_as(value)
            if node.kind != "head":
                return mean
            changed = value.clone()
            changed[:, :, :, node.head] = mean[:, :, :, node.head]
            return changed

        run = forward(subject.stacked, subject.config, prompts.clean, replace={site: ablated})
        logits = run.logits[0][rows, prompts.position]
        change = margin(logits, prompts.answer) - margin(clean, prompts.answer)
        expected.append(torch.stack([change.mean(), kl(clean, logits).mean()]))
    expected = torch.stack([*expected, torch.zeros(2, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(torch.stack(ablation_effects(subject, prompts)), expected, atol=1e-10, rtol=0)


def test_scores_are_measured_where_each_prompt_is_read():
    subject = random_subject(9)
    prompts = random_prompts(10, subject.config)
    elsewhere = dataclasses.replace(prompts, position=(prompts.position + 1) % 6)
    one, other = (edge_scores(subject, p, "zero").margin for p in (prompts, elsewhere))
    assert (one - other).abs().max() > 0.01


def test_a_single_prompt_has_no_standard_error():
    subject = random_subject(11)
    scores = edge_scores(subject, random_prompts(12, subject.config, n=1), "zero")
    assert scores.margin_se.isnan().all()
    assert scores.margin.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"position": torch.tensor([0, 1, 2, 3, 6])},
            "prompts.position: expected positions from 0 to 5, got 0 to 6. "
            "Read the answer inside the prompt.",
        ),
        (
            {"answer": torch.tensor([0, 1, 2, 3, 9])},
            "prompts.answer: expected tokens from 0 to 8, those subject knows, got 9. "
            "Choose tokens that fit the subject's vocabulary.",
        ),
        (
            {"corrupt": torch.full((5, 6), -1)},
            "prompts.corrupt: expected tokens from 0 to 8, those subject knows, got -1. "
            "Choose tokens that fit the subject's vocabulary.",
        ),
        (
            {"clean": torch.zeros(5, 8, dtype=torch.int64), "corrupt": torch.zeros(5, 8, dtype=torch.int64)},
            "prompts: expected at most 7 positions, those subject embeds, got 8. Shorten the prompts.",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_refused_in_one_line(change, message):
    subject = random_subject(13)
    prompts = dataclasses.replace(random_prompts(14, subject.config), **change)
    with pytest.raises(InputError) as caught:
        edge_scores(subject, prompts, "noising")
    assert str(caught.value) == message
