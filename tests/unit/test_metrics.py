"""Margin, KL and accuracy, by hand."""

import math

import torch

from metamodel.circuits.metrics import accuracy, kl, margin


def test_the_margin_is_the_right_logit_minus_the_best_other_one():
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [-1.0, -1.0, -4.0]])
    got = margin(logits, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(got, torch.tensor([0.5, -2.0, 0.0]))


def test_the_margin_takes_patches_in_front_of_prompts():
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 3.0]]])
    torch.testing.assert_close(margin(logits, torch.tensor([0, 1])), torch.tensor([[1.0, -1.0], [-3.0, 3.0]]))


def test_the_divergence_of_known_distributions_is_in_nats_and_directed():
    clean, patched = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    there = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    back = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    torch.testing.assert_close(kl(clean, patched), torch.tensor([there]))
    torch.testing.assert_close(kl(patched, clean), torch.tensor([back]))


def test_the_divergence_ignores_a_shift_of_all_logits_and_sees_a_shift_of_one():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(kl(logits, logits + 3.0), torch.zeros(4, dtype=torch.float64))
    assert (kl(logits, logits + torch.tensor([3.0, 0, 0, 0, 0])) > 1e-3).all()


def test_accuracy_is_the_share_of_prompts_answered_right():
    logits = torch.tensor([[3.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(accuracy(logits, torch.tensor([0, 1, 0, 0])), torch.tensor(0.75))
