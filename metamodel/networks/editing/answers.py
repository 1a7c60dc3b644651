"""Answers as distributions: the likeliest for certain, and over all tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.features.observed import Told


def one_hot(x: Float[Tensor, "*rest answer"]) -> Float[Tensor, "*rest answer"]:
    """The likeliest answer, for certain."""
    return torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype)


def over_vocabulary(
    told: Told, wanted: Float[Tensor, "subject example answer"]
) -> Float[Tensor, "subject example d_vocab"]:
    """Distributions over answers as distributions over all tokens."""
    size = told.weights["unembed.W_U"].shape[2]
    index = told.answers[:, None].expand_as(wanted)
    masked = wanted * told.answer_mask[:, None]
    return wanted.new_zeros(*wanted.shape[:2], size).scatter_add(2, index, masked)
