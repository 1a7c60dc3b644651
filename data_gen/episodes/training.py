"""Trains subjects on whole domains, side by side, until they answer every input."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.config import RecipeConfig
from data_gen.domains.base import Domain
from data_gen.episodes.backups import left_out
from data_gen.stacked_training import NO_FACTORS, StackedTrainer, learning_rate
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import logits_at

OPERANDS_SCALE, ANSWERS_SCALE = 0.7, 1.0
OPERANDS_NOISE, ANSWERS_NOISE = 0.1, 0.02


def with_frequencies(
    weights: dict[str, Tensor],
    domains: Sequence[Domain],
    n_frequencies: int,
    generators: Sequence[torch.Generator],
) -> None:
    """Starts operands and answers on a few circles, in a random basis, in place.

    Adders that are trained on (nearly) all problems memorise them, and their answers then have no order that
    a rule could be read from. Started so, training keeps the circles of most. What was learnt is measured.
    """
    for i, (domain, generator) in enumerate(zip(domains, generators, strict=True)):
        p, width = len(domain.answers), weights["embed.W_E"].shape[2]
        frequency = 1 + torch.randperm((p - 1) // 2, generator=generator)[:n_frequencies]
        angle = 2 * math.pi * torch.arange(p)[:, None] * frequency / p
        circles = torch.cat([angle.cos(), angle.sin()], dim=1) / math.sqrt(n_frequencies)
        basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        reads, writes = basis[: 2 * n_frequencies], basis[2 * n_frequencies : 4 * n_frequencies]
        operands = _operands(domain)
        noise = torch.randn(p, width, generator=generator)
        weights["embed.W_E"][i, operands] = (
            circles @ reads * math.sqrt(width) * OPERANDS_SCALE + OPERANDS_NOISE * noise
        )
        noise = torch.randn(width, p, generator=generator)
        weights["unembed.W_U"][i][:, domain.answers] = (
            circles @ writes
        ).T * ANSWERS_SCALE + ANSWERS_NOISE * noise


def _operands(domain: Domain) -> Int[Tensor, " operand"]:
    """Tokens of the operands 0, 1, ... of a domain of arithmetic."""
    p = len(domain.answers)
    return domain.tokens[torch.arange(p) * p, 2]


def circulant_fit(w_u: Float[Tensor, "d_model d_vocab"], answers: Int[Tensor, " answer"]) -> float:
    """Share of the variance of the answers' Gram matrix that depends on their difference alone (R^2).

    1 where answers lie on circles in their order. The diagonal is left out.
    """
    read = w_u[:, answers]
    read = read - read.mean(1, keepdim=True)
    gram, p = read.T @ read, len(answers)
    index = torch.arange(p)
    step = (index[:, None] - index) % p
    mean = torch.stack([gram[step == k].mean() for k in range(p)])
    off = step != 0
    values = gram[off]
    return float(1 - (values - mean[step][off]).square().sum() / (values - values.mean()).square().sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """A stack of subjects after training."""

    weights: dict[str, Tensor]
    accuracy: Float[Tensor, " subject"]
    """On the inputs that were trained on."""
    held_out: Float[Tensor, " subject"]
    """On the others; NaN where there are none."""


def teach(
    config: SubjectConfig,
    recipe: RecipeConfig,
    tokens: Int[Tensor, "subject input pos"],
    targets: Int[Tensor, "subject input"],
    held_out: Bool[Tensor, "subject input"],
    weights: dict[str, Tensor],
    generators: Sequence[torch.Generator],
    report: Callable[[int, int], None] | None = None,
    *,
    head_dropout: float = 0.0,
) -> Taught:
    """Trains each subject on its own inputs, a batch of different ones at every step.

    Args:
        held_out: inputs that are never trained on, as many for each subject.
        head_dropout: share of steps in which one head of a layer is left out.
    """
    n_pos, n = tokens.shape[2], int((~held_out[0]).sum())
    trained = (~held_out).nonzero()[:, 1].view(len(tokens), n)
    size = min(recipe.batch_size, n)
    trainer = StackedTrainer.by(recipe, config, weights)
    rows = (torch.arange(size) * n_pos + n_pos - 1).expand(len(tokens), -1)
    for step in range(recipe.steps):
        trainer.set_learning_rate(learning_rate(recipe, step))
        drawn = torch.stack([torch.randperm(n, generator=g)[:size] for g in generators])
        chosen = trained.gather(1, drawn)
        factors = left_out(config, head_dropout, generators) if head_dropout else NO_FACTORS
        trainer.step_at(_rows(tokens, chosen), rows, targets.gather(1, chosen), factors=factors)
        if report is not None and step % 50 == 0:
            report(step, recipe.steps)
    found = trainer.weights()
    right = (answers_of(found, config, tokens) == targets).float()
    count = held_out.sum(1)
    return Taught(
        weights=found,
        accuracy=(right * ~held_out).sum(1) / (~held_out).sum(1),
        held_out=torch.where(count > 0, (right * held_out).sum(1) / count, torch.nan),
    )


@torch.no_grad()
def answers_of(
    weights: dict[str, Tensor], config: SubjectConfig, tokens: Int[Tensor, "subject input pos"]
) -> Int[Tensor, "subject input"]:
    """What subjects answer at the last position."""
    n, n_pos = tokens.shape[1:]
    rows = (torch.arange(n) * n_pos + n_pos - 1).expand(len(tokens), -1)
    return logits_at(weights, config, tokens, rows).argmax(-1)


def _rows(tokens: Int[Tensor, "subject input pos"], chosen: Int[Tensor, "subject row"]) -> Tensor:
    return tokens.gather(1, chosen.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
