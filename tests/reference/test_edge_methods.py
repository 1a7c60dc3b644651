"""The exact sweep and runs of whole circuits against a plain transformer, under all that can be asked."""

import dataclasses

import pytest
import torch

from metamodel.circuits import component_edges
from metamodel.circuits.base_run import INTERVENTIONS, base_run
from metamodel.circuits.cost import BACKWARD, forward_products
from metamodel.circuits.exact import Exact
from metamodel.circuits.masked import masked_logits
from metamodel.circuits.metrics import METRICS
from metamodel.circuits.sweep import edge_effects
from metamodel.config import InputError
from tests.reference.slow import SlowRun, random_prompts, random_subject, slow_patches

SHAPES = {
    "norm": {"act_fn": "gelu"},
    "no norm": {"normalization_type": "none", "n_layers": 3},
    "attention only": {"d_mlp": 0, "n_layers": 3},
    "bidirectional": {"attention_dir": "bidirectional", "n_layers": 1},
}


def with_targets(prompts, seed: int):
    """Answers at about half of all positions, at least one a prompt."""
    drawn = torch.rand(prompts.clean.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    drawn[:, -1] = True
    return dataclasses.replace(prompts, targets=torch.where(drawn, prompts.clean.roll(-1, 1), -1))


def slow_values(metric, prompts, logits, clean_logits):
    """A metric of each prompt, answer by answer."""
    if prompts.targets is None:
        asked = [
            [(int(p), int(a), int(c))]
            for p, a, c in zip(prompts.position, prompts.answer, prompts.corrupt_answer, strict=True)
        ]
    else:
        asked = [[(p, int(a), None) for p, a in enumerate(row) if a >= 0] for row in prompts.targets]
    found = []
    for row, questions in enumerate(asked):
        values = []
        for position, answer, wrong in questions:
            x = logits[row, position]
            clean = clean_logits[row, position].log_softmax(-1)
            others = torch.cat([x[:answer], x[answer + 1 :]])
            values.append(
                {
                    "margin": x[answer] - others.max(),
                    "logit_difference": x[answer] - (x[wrong] if wrong is not None else 0),
                    "probability": x.softmax(-1)[answer],
                    "kl": (clean.exp() * (clean - x.log_softmax(-1))).sum(),
                    "accuracy": (x.argmax() == answer).double(),
                }[metric]
            )
        found.append(torch.stack(values).mean())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("shape", "intervention", "freeze_norm", "many_answers"),
    [
        # Every pair of settings occurs; all of them together would take a minute.
        (shape, how, (i + j) % 2 == 0, (i + j // 2) % 2 == 0)
        for i, shape in enumerate(SHAPES)
        for j, how in enumerate(INTERVENTIONS)
    ],
)
def test_the_sweep_equals_the_plain_transformer(shape, intervention, freeze_norm, many_answers):
    subject = random_subject(1, **SHAPES[shape]).double()
    prompts = random_prompts(2, subject.config)
    if many_answers:
        prompts = with_targets(prompts, 3)
    base, tokens, patch = slow_patches(subject, prompts, intervention)
    clean = SlowRun(subject, prompts.clean).logits
    metrics = [m for m in METRICS if not (many_answers and m == "logit_difference")]
    run = base_run(subject, prompts, intervention, freeze_norm=freeze_norm)
    effects = edge_effects(run, [run.measure(metric) for metric in metrics])
    edges = component_edges(subject.config).edges
    expected = []
    for i, edge in enumerate(edges):
        scales = base.own_scales if freeze_norm else None
        logits = SlowRun(subject, tokens, {i: patch[edge.source]}, scales).logits
        found = [
            slow_values(m, prompts, logits, clean) - slow_values(m, prompts, base.logits, clean)
            for m in metrics
        ]
        expected.append(torch.stack(found))
    torch.testing.assert_close(effects, torch.stack(expected, dim=1), atol=1e-12, rtol=0)
    assert (effects.abs().amax(-1) > 1e-6).float().mean() > 0.2, "too few effects to compare anything"


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_circuit_runs_as_in_the_plain_transformer(shape, intervention):
    subject = random_subject(4, **SHAPES[shape]).double()
    prompts = random_prompts(5, subject.config)
    _, tokens, patch = slow_patches(subject, prompts, intervention)
    edges = component_edges(subject.config).edges
    kept = (
        torch.rand(6, len(edges), generator=torch.Generator().manual_seed(6))
        < torch.linspace(0, 1, 6)[:, None]
    )
    kept[-1] = True
    found = masked_logits(base_run(subject, prompts, intervention), kept)
    rows = torch.arange(len(prompts))
    for logits, keep in zip(found, kept.tolist(), strict=True):
        patched = {i: patch[edge.source] for i, edge in enumerate(edges) if not keep[i]}
        expected = SlowRun(subject, tokens, patched).logits[rows, prompts.position]
        torch.testing.assert_close(logits, expected, atol=1e-12, rtol=0)


def test_chunks_of_circuits_give_the_same_logits(monkeypatch):
    subject = random_subject(7).double()
    run = base_run(subject, random_prompts(8, subject.config), "zero")
    kept = (
        torch.rand(5, len(component_edges(subject.config)), generator=torch.Generator().manual_seed(9)) < 0.5
    )
    whole = masked_logits(run, kept)
    monkeypatch.setattr("metamodel.circuits.masked._CHUNK", 1)
    torch.testing.assert_close(masked_logits(run, kept), whole, atol=1e-12, rtol=0)


def test_noising_every_edge_gives_the_corrupt_run_and_denoising_the_clean_one():
    subject = random_subject(10).double()
    prompts = random_prompts(11, subject.config)
    none = torch.zeros(1, len(component_edges(subject.config)), dtype=torch.bool)
    noised = base_run(subject, prompts, "noising")
    restored = base_run(subject, prompts, "denoising")
    torch.testing.assert_close(masked_logits(noised, none)[0], restored.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(masked_logits(restored, none)[0], noised.logits, atol=1e-12, rtol=0)
    assert (noised.logits - restored.logits).abs().max() > 0.1


def test_edges_of_positions_are_invisible_to_counterfactuals_and_not_to_zero_ablation():
    subject = random_subject(21)
    prompts = random_prompts(22, subject.config)
    edges = component_edges(subject.config).edges
    position = torch.tensor([edge.source.kind == "position_embedding" for edge in edges])
    for intervention in ("noising", "denoising", "mean"):
        assert (Exact().score(subject, prompts, "margin", intervention).value[position] == 0).all()
    assert (Exact().score(subject, prompts, "margin", "zero").value[position].abs() > 1e-4).all()


def test_scores_carry_sign_error_and_cost():
    subject = random_subject(12)
    prompts = random_prompts(13, subject.config)
    scores = Exact().score(subject, prompts, "margin", "noising")
    run = base_run(subject, prompts, "noising")
    effects = edge_effects(run, [run.measure("margin")])[0]
    torch.testing.assert_close(scores.value, effects.mean(-1))
    torch.testing.assert_close(scores.se, effects.std(-1) / 5**0.5)
    assert scores.base == pytest.approx(float(run.measure("margin")(run.logits).mean()), abs=1e-6)
    assert scores.value.min() < 0 < scores.value.max()
    table = scores.to_pandas()
    assert list(table.columns) == ["source", "destination", "channel", "value", "se"]
    assert table["value"].abs().is_monotonic_decreasing
    assert len(table) == len(scores)


def test_the_cost_by_arithmetic_of_the_subject_that_the_issue_names():
    # 2 layers x 4 heads, d_model 32, d_mlp 128, 16 positions. In multiply-adds a forward is
    # 2 x 16 x (4·32·32 + 2·16·32 + 2·32·128) + 16·32·64 = 458,752; a sweep adds up as `sweep_forwards` does.
    sizes = {"n_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 128, "d_vocab": 64, "n_ctx": 16}
    subject = random_subject(14, **sizes)
    prompts = random_prompts(15, subject.config, n=4, n_pos=16)
    one = Exact().score(subject, prompts, "margin", "zero").forwards
    noised = Exact().score(subject, prompts, "margin", "noising").forwards
    everywhere = Exact().score(subject, with_targets(prompts, 16), "margin", "zero").forwards
    assert forward_products(subject.config, 16) == 458_752
    assert one == pytest.approx(13.8705357, rel=1e-6)
    assert noised == pytest.approx(9.9910714, rel=1e-6), "positions carry nothing"
    assert everywhere == pytest.approx(63.1607143, rel=1e-6)
    assert BACKWARD == 2.0


def test_what_cannot_be_measured_is_refused_in_one_line():
    subject = random_subject(17)
    prompts = random_prompts(18, subject.config)
    same = dataclasses.replace(prompts, corrupt_answer=prompts.answer)
    empty = dataclasses.replace(with_targets(prompts, 19), targets=torch.full((5, 6), -1))
    for change, message in [
        (
            lambda: Exact().score(subject, same),
            "prompts.corrupt_answer: expected another answer than the clean prompt's, got the same one in 5 "
            "of 5 prompts. Drop those prompts, or corrupt what the answer depends on.",
        ),
        (
            lambda: Exact().score(subject, prompts, "margn"),
            "metric: expected margin or logit_difference or probability or kl or accuracy, got 'margn'. "
            "Choose one of them. Did you mean 'margin'?",
        ),
        (
            lambda: Exact().score(subject, prompts, "margin", "noise"),
            "intervention: expected noising or denoising or zero or mean, got 'noise'. "
            "Choose one of them. Did you mean 'noising'?",
        ),
        (
            lambda: Exact().score(subject, with_targets(prompts, 20), "logit_difference"),
            "metric: expected a metric that needs no corrupt answers, since prompts have targets at all "
            "positions, got 'logit_difference'. Use margin, or leave targets out.",
        ),
        (
            lambda: Exact().score(subject, empty),
            "prompts.targets: expected an answer for each prompt, got 5 of 5 prompts without any. "
            "Drop those prompts.",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            change()
        assert str(caught.value) == message
