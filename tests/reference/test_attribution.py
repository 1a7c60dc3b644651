"""Attribution against autograd destination by destination, and against what it claims to approximate."""

import dataclasses
import importlib.util
import inspect

import pytest
import torch

from metamodel.circuits import EAP, EAPIG, Exact, gradients
from metamodel.circuits.base_run import INTERVENTIONS, BaseRun, base_run
from metamodel.circuits.gradients import mean_gradients
from metamodel.circuits.graph import component_edges
from metamodel.config import InputError
from metamodel.subjects.forward import forward

SHAPES = {
    "LN": {},
    "LN, three blocks, bidirectional": {
        "n_layers": 3,
        "attention_dir": "bidirectional",
        "act_fn": "gelu",
    },
    "no norm": {"normalization_type": "none", "n_layers": 1},
    "attention only": {"d_mlp": 0},
}


def naive_eap(run: BaseRun, metric: str) -> torch.Tensor:
    """Autograd at an input of its own for every destination, then a product an edge."""
    config, edges = run.config, component_edges(run.config)
    addends = {}
    for destination in edges.destinations:
        heads = (config.n_heads,) if destination.component.kind == "head" else ()
        shape = (1, *run.tokens.shape, *heads, config.d_model)
        addends[destination.site] = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    logits = forward(run.subject.stacked, config, run.tokens, addends=addends).logits[0]
    asked = run.prompts.asked
    total = run.measure(metric)(logits[asked.row, asked.position]).sum()
    found = torch.autograd.grad(total, list(addends.values()))
    gradient = dict(zip(addends, found, strict=True))
    scores = []
    for edge in edges.edges:
        own = gradient[edge.destination.site][0]
        if edge.destination.component.kind == "head":
            own = own[:, :, edge.destination.component.head]
        scores.append((run.delta[edges.sources.index(edge.source)] * own).sum((1, 2)))
    return torch.stack(scores)


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_eap_equals_autograd_at_every_destination(shape, intervention, targets, make_subject, make_prompts):
    subject = make_subject(1, **shape)
    prompts = make_prompts(2, subject.config, targets=targets)
    scores = EAP().score(subject, prompts, "margin", intervention)
    naive = naive_eap(base_run(subject, prompts, intervention), "margin")
    torch.testing.assert_close(scores.value, naive.mean(1), atol=1e-12, rtol=0)
    torch.testing.assert_close(scores.se, naive.std(1) / 5**0.5, atol=1e-12, rtol=0)
    assert (naive.abs() > 1e-4).float().mean() > 0.3, "too few edges have any score to compare"


def twins(subject, size: float):
    """Tokens 4 to 7 are tokens 0 to 3 but for `size`: corrupting by them changes little."""
    embedding = subject.weights["embed.W_E"].clone()
    noise = torch.randn(4, subject.config.d_model, generator=torch.Generator().manual_seed(0)).double()
    embedding[4:8] = embedding[:4] + size * noise
    return subject.with_weights({**subject.weights, "embed.W_E": embedding})


@pytest.mark.parametrize("freeze_norm", [False, True])
@pytest.mark.parametrize("intervention", ["noising", "denoising"])
@pytest.mark.parametrize("method", [EAP(), EAPIG(), EAPIG(over="activations")], ids=lambda m: m.name)
def test_small_corruptions_have_the_effect_that_attribution_says(
    method, intervention, freeze_norm, make_subject, make_prompts
):
    subject = make_subject(3, act_fn="gelu")
    prompts = make_prompts(4, subject.config)
    prompts = dataclasses.replace(prompts, clean=prompts.clean % 4, corrupt=prompts.clean % 4 + 4)
    method, exact = dataclasses.replace(method, freeze_norm=freeze_norm), Exact(freeze_norm=freeze_norm)

    def error(size: float) -> tuple[float, float]:
        args = (twins(subject, size), prompts, "logit_difference", intervention)
        truth = exact.score(*args).value
        return float((method.score(*args).value - truth).abs().max()), float(truth.abs().max())

    (large, _), (small, scale) = error(1e-2), error(1e-3)
    assert small < 1e-2 * scale
    assert small < large / 50, "the error is of second order"
    frozen_elsewhere = EAP(freeze_norm=not freeze_norm)
    other = frozen_elsewhere.score(twins(subject, 1e-3), prompts, "logit_difference", intervention).value
    truth = exact.score(twins(subject, 1e-3), prompts, "logit_difference", intervention).value
    assert (other - truth).abs().max() > 10 * small, "frozen and recomputed norms are told apart"


def test_where_the_subject_is_linear_attribution_is_exact(make_subject, make_prompts):
    """Frozen norms: logits are linear in what they read, and in the last block's values."""
    subject = make_subject(5, d_mlp=0)
    prompts = make_prompts(6, subject.config)
    args = (subject, prompts, "logit_difference", "noising")
    eap, exact = EAP(freeze_norm=True).score(*args).value, Exact(freeze_norm=True).score(*args).value
    edges = component_edges(subject.config).edges
    linear = torch.tensor(
        [
            e.destination.channel == "logits"
            or (e.destination.channel == "v" and e.destination.component.layer == 1)
            for e in edges
        ]
    )
    torch.testing.assert_close(eap[linear], exact[linear], atol=1e-12, rtol=0)
    assert (eap[~linear] - exact[~linear]).abs().max() > 1e-2, "elsewhere it is not"


def embeddings_patched(run: BaseRun, metric: str) -> float:
    """metric(token and position embeddings patched) - metric(base), by a forward."""
    replace = {"hook_embed": lambda _: run.patch[:1], "hook_pos_embed": lambda _: run.patch[1:2]}
    logits = forward(run.subject.stacked, run.config, run.tokens, replace=replace).logits[0]
    asked, measure = run.prompts.asked, run.measure(metric)
    return float((measure(logits[asked.row, asked.position]) - measure(run.logits)).mean())


@pytest.mark.parametrize("metric", ["logit_difference", "kl", "probability"])
@pytest.mark.parametrize("intervention", ["noising", "denoising", "mean", "zero"])
def test_integrated_gradients_over_inputs_are_complete(metric, intervention, make_subject, make_prompts):
    """Zero embeddings are a singular end of the path under LayerNorm, so that zero is tested without it."""
    norm = "none" if intervention == "zero" else "LN"
    subject = make_subject(7, act_fn="gelu", normalization_type=norm)
    prompts = make_prompts(8, subject.config)
    truth = embeddings_patched(base_run(subject, prompts, intervention), metric)
    edges = component_edges(subject.config)
    leaving = torch.tensor(edges.source_node) < 2

    def error(steps: int) -> float:
        scores = EAPIG(steps=steps).score(subject, prompts, metric, intervention)
        return abs(float(scores.value[leaving].sum()) - truth)

    assert abs(truth) > 1e-3
    assert error(400) < 1e-4
    assert error(400) < error(100) / 8, "midpoints: sixteen times smaller for four times the steps"
    if metric != "kl" or intervention == "denoising":
        plain = EAP().score(subject, prompts, metric, intervention).value[leaving].sum()
        assert abs(float(plain) - truth) > 1e-3, "the gradient in the base run alone is not complete"


@pytest.mark.parametrize("intervention", ["noising", "denoising", "mean"])
def test_integrated_gradients_over_activations_are_complete_for_every_source(
    intervention, make_subject, make_prompts
):
    subject = make_subject(9, act_fn="gelu")
    prompts = make_prompts(10, subject.config)
    run, edges = base_run(subject, prompts, intervention), component_edges(subject.config)
    scores = EAPIG(steps=300, over="activations").score(subject, prompts, "logit_difference", intervention)
    inputs = EAPIG(steps=300).score(subject, prompts, "logit_difference", intervention)
    source, measure, asked = torch.tensor(edges.source_node), run.measure("logit_difference"), prompts.asked
    for i, node in enumerate(edges.sources):
        site = {
            "token_embedding": "hook_embed",
            "position_embedding": "hook_pos_embed",
            "head": f"blocks.{node.layer}.attn.hook_result",
            "mlp": f"blocks.{node.layer}.hook_mlp_out",
        }[node.kind]

        def patched(value, node=node, i=i):
            if node.kind != "head":
                return run.patch[i : i + 1]
            value = value.clone()
            value[:, :, :, node.head] = run.patch[i]
            return value

        logits = forward(run.subject.stacked, run.config, run.tokens, replace={site: patched}).logits[0]
        truth = (measure(logits[asked.row, asked.position]) - measure(run.logits)).mean()
        torch.testing.assert_close(scores.value[source == i].sum(), truth, atol=1e-4, rtol=0)
        if node.kind == "head":
            assert (inputs.value[source == i].sum() - truth).abs() > 1e-3, "another path, another attribution"


@pytest.mark.parametrize("intervention", ["noising", "zero", "mean"])
def test_kl_has_no_gradient_in_the_clean_run_and_eap_says_so(intervention, make_subject, make_prompts):
    subject = make_subject(11)
    prompts = make_prompts(12, subject.config)
    run = base_run(subject, prompts, intervention)
    found = mean_gradients(run, run.measure("kl"), torch.zeros(1, dtype=torch.float64))
    assert found.logits.abs().max() < 1e-12
    with pytest.raises(InputError) as caught:
        EAP().score(subject, prompts, "kl", intervention)
    assert str(caught.value) == (
        f"metric: expected one whose gradient is not zero in the clean run, for eap under {intervention}, "
        "got 'kl', which is at its minimum there. Use another metric, denoising, or EAP-IG."
    )
    assert EAPIG().score(subject, prompts, "kl", intervention).value.abs().max() > 1e-3


def test_kl_has_a_gradient_in_the_corrupt_run(make_subject, make_prompts):
    subject = make_subject(13)
    prompts = make_prompts(14, subject.config)
    naive = naive_eap(base_run(subject, prompts, "denoising"), "kl").mean(1)
    torch.testing.assert_close(
        EAP().score(subject, prompts, "kl", "denoising").value, naive, atol=1e-12, rtol=0
    )
    assert naive.abs().max() > 1e-2


@pytest.mark.parametrize("method", [EAP(), EAPIG(), EAPIG(over="activations")], ids=lambda m: m.name)
def test_accuracy_has_no_gradient_and_is_refused(method, make_subject, make_prompts):
    subject = make_subject(15)
    with pytest.raises(InputError) as caught:
        method.score(subject, make_prompts(16, subject.config), "accuracy")
    assert str(caught.value) == (
        f"metric: expected one that has a gradient, for {method.name}, got 'accuracy'. "
        "Use margin, which is positive where the answer is right, or the exact sweep."
    )


def test_settings_without_meaning_are_refused():
    with pytest.raises(InputError) as caught:
        EAPIG(steps=0)
    assert str(caught.value) == "EAPIG.steps: expected at least 1, got 0. 5 is Hanna et al.'s."
    # Without the suite's hook, which refuses a wrong word before the class itself can.
    spec = importlib.util.spec_from_file_location("unhooked", inspect.getfile(EAPIG))
    assert spec is not None
    assert spec.loader is not None
    unhooked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unhooked)
    with pytest.raises(InputError) as caught:
        unhooked.EAPIG(over="outputs")
    assert str(caught.value) == (
        "EAPIG.over: expected 'inputs' or 'activations', got 'outputs'. Choose one of them."
    )


@pytest.mark.parametrize("over", ["inputs", "activations"])
def test_small_chunks_of_the_path_give_the_same_scores(monkeypatch, over, make_subject, make_prompts):
    subject = make_subject(17)
    prompts = make_prompts(18, subject.config)
    method = EAPIG(steps=7, over=over)
    whole = method.score(subject, prompts).value
    monkeypatch.setattr(gradients, "_CHUNK", 1)
    torch.testing.assert_close(method.score(subject, prompts).value, whole, atol=1e-12, rtol=0)


def test_attribution_runs_where_gradients_are_off_and_leaves_none_behind(make_subject, make_prompts):
    subject = make_subject(19)
    prompts = make_prompts(20, subject.config)
    with torch.no_grad():
        expected = EAP().score(subject, prompts).value
    assert expected.abs().max() > 1e-2
    trained = {key: weight.clone().requires_grad_() for key, weight in subject.weights.items()}
    value = EAP().score(subject.with_weights(trained), prompts).value
    assert not value.requires_grad
    torch.testing.assert_close(value, expected)
    assert all(weight.grad is None for weight in trained.values())
