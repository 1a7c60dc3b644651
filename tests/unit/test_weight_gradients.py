"""Trainable edge scores equal attribution patching, and their gradient in the weights is the true one."""

import pytest
import torch

from metamodel.circuits import EAP, EAPIG
from metamodel.circuits.weight_gradients import LEAST_GAP, StackedPrompts, edge_shares
from metamodel.subjects.subject import stack


def stacked(prompts, n: int = 1) -> StackedPrompts:
    names = ("clean", "corrupt", "position", "answer")
    return StackedPrompts(**{name: torch.stack([getattr(prompts, name)] * n) for name in names})


@pytest.mark.parametrize("shape", [{}, {"d_mlp": 0}, {"normalization_type": "none"}, {"n_layers": 1}])
@pytest.mark.parametrize("points", [0, 3])
def test_shares_are_attribution_patching_over_the_gap(make_subject, make_prompts, shape, points):
    subjects = [make_subject(seed, **shape) for seed in (1, 2)]
    prompts = make_prompts(3, subjects[0].config)
    found = edge_shares(stack(subjects), subjects[0].config, stacked(prompts, 2), points=points)
    for subject, shares in zip(subjects, found, strict=True):
        scores = (EAPIG(steps=points) if points else EAP()).score(subject, prompts)
        corrupt = subject.run(prompts.corrupt).logits[0, torch.arange(5), prompts.position]
        right = corrupt.gather(1, prompts.answer[:, None]).squeeze(1)
        others = corrupt.scatter(1, prompts.answer[:, None], -torch.inf).amax(1)
        gap = max(LEAST_GAP, scores.base - float((right - others).mean()))
        assert torch.allclose(shares * gap, scores.value, atol=1e-9)
        assert float(shares.abs().max()) > 1e-3


def test_the_gradient_in_the_weights_is_that_of_finite_differences(make_subject, make_prompts):
    subject = make_subject(5)
    prompts = stacked(make_prompts(6, subject.config))
    weights = {key: value[None].clone() for key, value in subject.weights.items()}
    for key in ("blocks.0.attn.W_Q", "blocks.1.attn.W_V", "blocks.0.mlp.W_in", "blocks.1.ln1.w", "embed.W_E"):

        def total(x, key=key) -> torch.Tensor:
            shares = edge_shares(weights | {key: x}, subject.config, prompts)
            return (shares * torch.linspace(-1, 1, shares.shape[1]).double()).sum()

        x = weights[key].clone().requires_grad_()
        (found,) = torch.autograd.grad(total(x), x)
        way = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        step = 1e-6
        with torch.no_grad():
            expected = (total(x + step * way) - total(x - step * way)) / (2 * step)
        assert float((found * way).sum()) == pytest.approx(float(expected), rel=1e-4, abs=1e-7), key
        assert float(found.abs().max()) > 0
