"""A canary: the suite checks shapes at run time only while the jaxtyping hook is on."""

import jaxtyping
import pytest
import torch

from metamodel.subjects import SubjectConfig, initial_weights
from metamodel.subjects.forward import run_blocks


def test_a_wrong_rank_is_caught_by_the_shape_hook():
    config = SubjectConfig(n_layers=1, n_heads=1, d_model=4, d_head=4, d_mlp=0, d_vocab=5, n_ctx=3)
    weights = initial_weights(config, [torch.Generator().manual_seed(0)])
    with pytest.raises(jaxtyping.TypeCheckError):
        run_blocks(weights, config, torch.zeros(3, 4), first_layer=0)
