"""Which components of a subject may be damaged, as far as their sizes say."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.networks.editing.component_fit import At, ComponentRun, Fit

REMOVED = 1e-4
"""A component this small beside the median of all heads was removed."""
LEAST_LOSS = 1e-5
"""Losses and entropies below it, in nats, are none."""
USUAL = 0.5
"""How far the logarithm of a head's norm may lie from the median before it speaks for damage."""
MALUS = 1.0
"""What is added to the logarithm of an MLP's loss: it has several times as much to fit with."""


def suspects(run: ComponentRun) -> list[At]:
    """Components that were removed; where none was, all."""
    layers = range(run.config.n_layers)
    every: list[At] = [
        (f"blocks.{layer}.attn.W_O", head) for layer in layers for head in range(run.config.n_heads)
    ]
    if run.config.has_mlp:
        every += [(f"blocks.{layer}.mlp.W_out", None) for layer in layers]
    gone = [at for at in every if removed(run, at)]
    return gone if 0 < len(gone) < len(every) else every


def removed(run: ComponentRun, at: At) -> bool:
    return float(run.own(at).norm()) <= REMOVED * float(_heads(run).quantile(0.5))


def oddness(run: ComponentRun, at: At) -> float:
    """How far the size of a head is out of line with the others, in logarithms, beyond what is usual."""
    if at[1] is None:
        return 0.0
    ratio = run.own(at).norm() / _heads(run).quantile(0.5)
    return max(0.0, abs(float(ratio.clamp_min(REMOVED).log())) - USUAL)


def doubt(run: ComponentRun, fit: Fit) -> float:
    """The less, the more likely is a component to blame. What is not finite is no fit."""
    if not math.isfinite(fit.loss):
        return math.inf
    return math.log(fit.loss + LEAST_LOSS) - oddness(run, fit.at) + MALUS * (fit.at[1] is None)


def _heads(run: ComponentRun) -> Float[Tensor, " head"]:
    """Norms of all heads' `W_O`."""
    names = [f"blocks.{layer}.attn.W_O" for layer in range(run.config.n_layers)]
    return torch.cat([run.weights[name][0].flatten(1).norm(dim=1) for name in names])
