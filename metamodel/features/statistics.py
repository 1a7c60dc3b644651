"""Statistics of raw weights: all that the baseline `statistics` sees of a component.

The seven statistics of every tensor with which Unterthiner et al. (2020, "Predicting neural network accuracy
from weights") predict accuracy. They depend on the gauge, on purpose: this is what one computes without
thinking about symmetry.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.subjects.config import Component, components
from metamodel.subjects.subject import Subject

N_STATISTICS = 7
SLOTS = 7
"""Tensors of the kind that has most: a head's four matrices and three biases."""


def weight_statistics(subject: Subject) -> Float[Tensor, "node statistic"]:
    """Mean, variance and quantiles 0, 25, 50, 75, 100 % of each tensor of each component.

    Every row has `SLOTS` tensors x `N_STATISTICS`, in the order of `_tensors`; kinds with fewer tensors leave
    zeros, so rows are comparable within a kind.
    """
    rows = []
    for component in components(subject.config):
        found = [_seven(tensor) for tensor in _tensors(subject, component)]
        row = torch.zeros(SLOTS * N_STATISTICS, dtype=found[0].dtype, device=found[0].device)
        row[: len(found) * N_STATISTICS] = torch.cat(found)
        rows.append(row)
    return torch.stack(rows).float()


def _tensors(subject: Subject, component: Component) -> list[Tensor]:
    weights = subject.weights
    match component.kind:
        case "token_embedding":
            return [weights["embed.W_E"]]
        case "position_embedding":
            return [weights["pos_embed.W_pos"]]
        case "unembedding":
            return [weights["unembed.W_U"], weights["unembed.b_U"]]
        case "mlp":
            names = ("W_in", "W_out", "b_in", "b_out")
            return [weights[f"blocks.{component.layer}.mlp.{name}"] for name in names]
        case "head":
            names = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")
            return [weights[f"blocks.{component.layer}.attn.{name}"][component.head] for name in names]


def _seven(tensor: Tensor) -> Float[Tensor, " statistic"]:
    ordered = tensor.flatten().sort().values
    at = torch.linspace(0, len(ordered) - 1, 5, device=tensor.device).round().long()
    moments = torch.stack([ordered.mean(), ordered.var(correction=0)])
    return torch.cat([moments, ordered[at]])
