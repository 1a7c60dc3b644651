"""Loss of naming functions from exemplars: functions are drawn anew at every step, some of them made up."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.losses.function import masked_cross_entropy
from metamodel.networks.exemplars import ExemplarReadout, drawn_exemplars, made_up_functions

NUMBERS = (0, 4, 8, 16)
"""Exemplars of a function, one of these at each step."""
MADE_UP = 8
"""Functions that are made up at each step."""


def exemplar_loss(
    readout: ExemplarReadout,
    places: Float[Tensor, "subject node width"],
    positive: Float[Tensor, "subject node label"],
    features: Float[Tensor, "subject node feature"],
    heads: Bool[Tensor, "subject node"],
) -> Float[Tensor, ""]:
    """Half of the subjects lend exemplars, the others are asked.

    Args:
        positive: 1, 0, or NaN where masked or held out.
        features: normalised, of which functions are made up.
        heads: components that made-up functions are about.
    """
    n_subjects, n_nodes, width = places.shape
    lends = (torch.randperm(n_subjects) < n_subjects // 2).to(places.device).repeat_interleave(n_nodes)
    k = NUMBERS[int(torch.randint(len(NUMBERS), ()))]
    made_up = made_up_functions(features.flatten(0, 1), heads.flatten(), MADE_UP)
    asked = torch.cat([positive.flatten(0, 1), made_up], dim=1)
    flat = places.reshape(-1, width)
    chosen, holds = drawn_exemplars(asked, lends, k, None)
    logits = readout(flat, flat[chosen], holds)
    return masked_cross_entropy(logits, torch.where(lends[:, None], torch.nan, asked))
