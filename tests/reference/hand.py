"""A subject so small that every score of its edges is computed by hand."""

import math

import torch

from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.subject import Subject


def hand_subject() -> Subject:
    """One head at position 1 looks at position 0 three times as much as at 1, and copies: all by hand.

    Tokens are the first three axes, the fourth is +1 at position 0 and -1 at position 1.
    """
    config = SubjectConfig(
        n_layers=1, n_heads=1, d_model=4, d_head=3, d_mlp=0, d_vocab=3, n_ctx=2, normalization_type="none"
    )
    weights = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in weight_shapes(config).items()}
    token = torch.eye(4, dtype=torch.float64)[:3]
    weights["embed.W_E"], weights["unembed.W_U"] = token, token.T
    weights["pos_embed.W_pos"][:, 3] = torch.tensor([1.0, -1.0])
    # Scores ±ln(3)/2 at position 1, so that the pattern is 3/4, 1/4.
    weights["blocks.0.attn.W_Q"][0, 3, 0] = -math.sqrt(3) * math.log(3) / 2
    weights["blocks.0.attn.W_K"][0, 3, 0] = 1.0
    weights["blocks.0.attn.W_V"][0], weights["blocks.0.attn.W_O"][0] = token.T, token
    return Subject(config=config, weights=weights)


def hand_prompts() -> Prompts:
    """Tokens 0 1 against 2 1 and the reverse; the answer is the token at position 0."""
    return Prompts(
        clean=torch.tensor([[0, 1], [2, 1]]),
        corrupt=torch.tensor([[2, 1], [0, 1]]),
        position=torch.tensor([1, 1]),
        answer=torch.tensor([0, 2]),
        corrupt_answer=torch.tensor([2, 0]),
        slice=torch.tensor([0, 0]),
        slice_names=("all",),
    )
