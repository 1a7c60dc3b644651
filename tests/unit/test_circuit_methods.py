"""What all circuit methods have in common, and the methods that run masks or look at no answer."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
import torch

import metamodel.circuits
from metamodel.circuits import (
    ACDC,
    METHODS,
    EdgeMethod,
    Exact,
    RandomScores,
    RandomSubsets,
    WeightNorm,
    component_edges,
    score,
)
from metamodel.circuits.base_run import INTERVENTIONS, base_run
from metamodel.circuits.graph import reading_stage
from metamodel.circuits.masked import masked_logits
from metamodel.circuits.subsets import regression
from metamodel.config import InputError
from metamodel.subjects.canonical import canonical

NAMES = ["exact", "eap", "eap_ig_inputs", "eap_ig_activations", "acdc", "subsets", "weight_norm", "random"]
QUICK: list[EdgeMethod] = [
    *(method for name, method in METHODS.items() if name not in ("acdc", "subsets")),
    ACDC(thresholds=(0.01, 0.1)),
    RandomSubsets(n_masks=20),
]
every_method = pytest.mark.parametrize("method", QUICK, ids=lambda method: method.name)


def test_every_method_has_the_name_under_which_it_is_found():
    assert list(METHODS) == NAMES
    assert all(method.name == name for name, method in METHODS.items())
    assert Exact(freeze_norm=True).name == "exact_frozen_norm"


def test_score_takes_a_name_or_a_method_and_refuses_an_unknown_name(make_subject, make_prompts):
    subject = make_subject(1)
    prompts = make_prompts(2, subject.config)
    by_name = score(subject, prompts, "margin", "mean", method="exact").value
    torch.testing.assert_close(score(subject, prompts, "margin", "mean", method=Exact()).value, by_name)
    torch.testing.assert_close(Exact().score(subject, prompts, "margin", "mean").value, by_name)
    with pytest.raises(InputError) as caught:
        score(subject, prompts, method="eap_ig_input")
    assert str(caught.value) == (
        "method: expected one of exact, eap, eap_ig_inputs, eap_ig_activations, acdc, subsets, weight_norm, "
        "random, got 'eap_ig_input'. Name one of them. Did you mean 'eap_ig_inputs'?"
    )


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@every_method
def test_every_method_scores_every_edge_from_tokens_alone(method, intervention, make_subject, make_prompts):
    subject = make_subject(3)
    prompts = make_prompts(4, subject.config)
    scores = method.score(subject, prompts, "logit_difference", intervention)
    assert scores.value.shape == scores.se.shape == (len(component_edges(subject.config)),)
    assert scores.value.isfinite().all()
    assert scores.value.abs().max() > 0
    assert (scores.method, scores.intervention) == (method.name, intervention)
    run = base_run(subject, prompts, intervention)
    assert scores.base == pytest.approx(float(run.measure("logit_difference")(run.logits).mean()))
    blind = method.name in ("weight_norm", "random")
    assert (scores.forwards == 0) == blind
    assert scores.se.isfinite().any() != (blind or method.name == "acdc")


@every_method
def test_prompts_whose_answers_agree_are_refused_by_every_method(method, make_subject, make_prompts):
    subject = make_subject(5)
    prompts = make_prompts(6, subject.config)
    same = prompts.corrupt_answer.clone()
    same[2] = prompts.answer[2]
    with pytest.raises(InputError) as caught:
        method.score(subject, dataclasses.replace(prompts, corrupt_answer=same))
    assert str(caught.value) == (
        "prompts.corrupt_answer: expected another answer than the clean prompt's, got the same one in 1 of 5 "
        "prompts. Drop those prompts, or corrupt what the answer depends on."
    )


@every_method
def test_every_tensor_is_made_on_the_device_of_the_subject(method, make_subject, make_prompts):
    """A tensor made without a device would lie on the default one, here `meta`, and fail or poison scores."""
    subject = make_subject(7)
    prompts = make_prompts(8, subject.config)
    expected = method.score(subject, prompts).value
    with torch.device("meta"):
        got = method.score(subject, prompts)
    torch.testing.assert_close(got.value, expected, atol=0, rtol=0)
    assert got.se.device.type == "cpu"


def test_no_circuit_code_names_a_device_or_a_tokenizer():
    for path in Path(metamodel.circuits.__file__).parent.glob("*.py"):
        found = re.findall(
            r"cuda|\bmps\b|device=[\"']|to_tokens|to_str_tokens|[Tt]okenizer", path.read_text()
        )
        assert not found, f"{path.name}: {found}"


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("freeze_norm", [False, True])
def test_circuits_that_keep_what_comes_first_run_from_a_later_stage(
    freeze_norm, targets, make_subject, make_prompts
):
    subject = make_subject(9)
    prompts = make_prompts(10, subject.config, targets=targets)
    run = base_run(subject, prompts, "noising", freeze_norm=freeze_norm)
    edges = component_edges(subject.config).edges
    stages = torch.tensor([reading_stage(edge.destination, subject.config) for edge in edges])
    kept = torch.rand(6, len(edges), generator=torch.Generator().manual_seed(0)) < 0.5
    for stage in range(5):
        mask = kept | (stages < stage)
        torch.testing.assert_close(
            masked_logits(run, mask, stage=stage), masked_logits(run, mask), atol=1e-12, rtol=0
        )
    assert (masked_logits(run, kept, stage=3) - masked_logits(run, kept)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("metric", "intervention", "sign"),
    [
        ("kl", "noising", 1),
        ("margin", "noising", -1),
        ("kl", "denoising", -1),
        ("logit_difference", "denoising", 1),
        ("accuracy", "zero", -1),
    ],
)
def test_acdc_equals_one_greedy_sweep_for_each_threshold(
    metric, intervention, sign, make_subject, make_prompts
):
    subject = make_subject(11, n_heads=1)
    prompts = make_prompts(12, subject.config)
    thresholds = (0.3, 0.001, 0.03)
    run = base_run(subject, prompts, intervention)
    measure, edges = run.measure(metric), component_edges(subject.config)
    naive = []
    for threshold in thresholds:
        kept = torch.ones(1, len(edges), dtype=torch.bool)
        current = measure(run.logits).mean()
        for i in reversed(range(len(edges))):
            trial = kept.clone()
            trial[0, i] = False
            value = measure(masked_logits(run, trial))[0].mean()
            if sign * (value - current) < threshold:
                kept, current = trial, value
        naive.append(kept[0])
    naive = torch.stack(naive)
    found = ACDC(thresholds=thresholds).circuits(subject, prompts, metric, intervention)
    assert torch.equal(found, naive)
    scores = ACDC(thresholds=thresholds).score(subject, prompts, metric, intervention)
    largest = (naive * torch.tensor(thresholds).double().unsqueeze(1)).amax(0)
    torch.testing.assert_close(scores.value, sign * largest)
    assert found[1].any()
    assert not found.all()
    assert scores.se.isnan().all()


def test_acdc_judges_by_kl_where_nothing_is_said(make_subject, make_prompts):
    subject = make_subject(13, n_heads=1)
    prompts = make_prompts(14, subject.config)
    method = ACDC(thresholds=(0.01,))
    default = method.circuits(subject, prompts)
    assert torch.equal(default, method.circuits(subject, prompts, "kl", "noising"))
    assert not torch.equal(default, method.circuits(subject, prompts, "margin", "noising"))


def test_the_regression_of_all_masks_is_the_banzhaf_index():
    """Of any function of 6 edges: the mean over sets of others of what patching the edge changes."""
    patched = torch.tensor(list(itertools.product([False, True], repeat=6)))
    outcome = torch.randn(64, generator=torch.Generator().manual_seed(0)).double()
    by_set = dict(zip(map(tuple, patched.tolist()), outcome.tolist(), strict=True))

    def index(edge: int) -> float:
        changes = []
        for which, value in by_set.items():
            if not which[edge]:
                other = (*which[:edge], True, *which[edge + 1 :])
                changes.append(by_set[other] - value)
        return sum(changes) / len(changes)

    value, se = regression(patched, outcome, 0.0)
    expected = torch.tensor([index(i) for i in range(6)]).double()
    torch.testing.assert_close(value, expected)
    # Ordinary least squares by its normal equations, for the standard errors.
    x = torch.cat([torch.ones(64, 1).double(), patched.double()], dim=1)
    residual = outcome - x @ torch.linalg.lstsq(x, outcome.unsqueeze(1)).solution.squeeze(1)
    variance = residual.square().sum() / (64 - 7) * torch.linalg.inv(x.T @ x).diagonal()[1:]
    torch.testing.assert_close(se, variance.sqrt())


def test_a_ridge_is_chosen_where_masks_are_fewer_than_edges():
    generator = torch.Generator().manual_seed(1)
    patched = torch.rand(60, 100, generator=generator) < 0.5
    effect = torch.zeros(100).double()
    effect[:3] = torch.tensor([3.0, -2.0, 2.0])
    outcome = patched.double() @ effect + torch.randn(60, generator=generator).double()
    value, se = regression(patched, outcome, None)
    unpenalised = regression(patched, outcome, 0.0)[0]
    assert (value - effect).norm() < (unpenalised - effect).norm()
    assert value.abs().argsort(descending=True)[:3].sort().values.tolist() == [0, 1, 2]
    assert value[:3].sign().tolist() == [1, -1, 1]
    assert (se > 0).all()
    assert (value[:3].abs() < effect[:3].abs()).all(), "drawn towards zero"
    many = torch.rand(400, 100, generator=generator) < 0.5
    exact, _ = regression(many, many.double() @ effect, 0.0)
    torch.testing.assert_close(exact, effect, atol=1e-10, rtol=0)


def test_subsets_have_the_sign_and_size_of_the_sweep_where_edges_do_not_interact(make_subject, make_prompts):
    """Frozen norms and no MLP: what one block's heads write to the logits adds up."""
    subject = make_subject(15, n_layers=1, d_mlp=0)
    prompts = make_prompts(16, subject.config)
    args = (subject, prompts, "logit_difference", "noising")
    exact = Exact(freeze_norm=True).score(*args)
    few, many = (RandomSubsets(n_masks=n, ridge=0.0, freeze_norm=True).score(*args) for n in (40, 3000))
    direct = torch.tensor([edge.source.kind == "token_embedding" for edge in exact.edges.edges])
    direct &= torch.tensor([edge.destination.channel == "logits" for edge in exact.edges.edges])
    error = (many.value - exact.value)[direct].abs()
    assert (error < 4 * many.se[direct]).all()
    assert exact.value[direct].abs() > 10 * error
    active = few.se > 0
    assert many.se[active].median() < few.se[active].median() / 4
    assert not active.all()
    assert (few.value[~active] == 0).all(), "position embeddings carry the same when patched"


def test_subsets_are_drawn_from_the_seed(make_subject, make_prompts):
    subject = make_subject(17)
    prompts = make_prompts(18, subject.config)
    one, again, other = (RandomSubsets(n_masks=30, seed=s).score(subject, prompts).value for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    with pytest.raises(InputError) as caught:
        RandomSubsets(n_masks=30, ridge=0.0).score(subject, prompts)
    assert str(caught.value) == (
        "RandomSubsets.n_masks: expected more than 47 masks, for least squares over as many edges, got 30. "
        "Take more masks, or a ridge penalty."
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ACDC(thresholds=()),
            "ACDC.thresholds: expected one or more positive thresholds, got (). "
            "Conmy et al. use 0.01 to 1 nat.",
        ),
        (
            lambda: ACDC(thresholds=(0.1, 0.0)),
            "ACDC.thresholds: expected one or more positive thresholds, got (0.1, 0.0). "
            "Conmy et al. use 0.01 to 1 nat.",
        ),
        (
            lambda: RandomSubsets(n_masks=2),
            "RandomSubsets.n_masks: expected at least 3, got 2. Take about twice the number of edges.",
        ),
        (
            lambda: RandomSubsets(ridge=-1.0),
            "RandomSubsets.ridge: expected at least 0, or None, got -1.0. Leave it out to have it chosen.",
        ),
    ],
)
def test_settings_without_meaning_are_refused(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


def test_weight_norms_are_the_norms_of_composed_matrices(make_subject, make_prompts):
    subject = make_subject(19)
    scores = WeightNorm().score(subject, make_prompts(20, subject.config))
    w = canonical(subject).weights
    by_hand = {
        "token_embedding->L0H1.q": w["embed.W_E"] @ w["blocks.0.attn.W_Q"][1],
        "position_embedding->MLP1": w["pos_embed.W_pos"] @ w["blocks.1.mlp.W_in"],
        "L0H1->L1H0.v": w["blocks.0.attn.W_O"][1] @ w["blocks.1.attn.W_V"][0],
        "MLP0->L1H1.k": w["blocks.0.mlp.W_out"] @ w["blocks.1.attn.W_K"][1],
        "L1H0->unembedding": w["blocks.1.attn.W_O"][0] @ w["unembed.W_U"],
    }
    names = [edge.name for edge in scores.edges.edges]
    for name, matrix in by_hand.items():
        torch.testing.assert_close(scores.value[names.index(name)], matrix.norm())


def test_random_scores_come_from_the_seed_alone(make_subject, make_prompts):
    prompts = make_prompts(22, make_subject(21).config)
    one, other = (RandomScores().score(make_subject(seed), prompts).value for seed in (21, 23))
    assert torch.equal(one, other)
    assert not torch.equal(one, RandomScores(seed=1).score(make_subject(21), prompts).value)
