"""Prompts and random subjects on which labels are measured in these tests.

Fixtures are functions, since tests cannot import from one another.
"""

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from data_gen.labels.batteries import Batteries, batteries
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights

N_TOKENS, N_POS, BOS = 24, 13, 0
SYMBOLS = torch.arange(4, N_TOKENS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def battery() -> Callable[..., Batteries]:
    """`battery(n, seed=, n_pos=)`: batteries over all symbols."""
    return _battery


def _battery(n: int, seed: int = 2, n_pos: int = N_POS) -> Batteries:
    return batteries(generator(seed), n=n, n_pos=n_pos, bos=BOS, symbols=SYMBOLS)


@pytest.fixture(scope="session")
def repeated_prompts() -> Callable[..., Prompts]:
    """`repeated_prompts(n, seed=)`: repeated sequences; the answer comes after the last but one token."""
    return _repeated_prompts


def _repeated_prompts(n: int, seed: int = 1) -> Prompts:
    tokens = _battery(n, seed).repeated
    assert tokens is not None
    shifted = tokens.roll(1, 0)
    return Prompts(
        clean=tokens,
        corrupt=shifted,
        position=torch.full((n,), N_POS - 2),
        answer=tokens[:, -1],
        corrupt_answer=shifted[:, -1],
        slice=torch.zeros(n, dtype=torch.long),
        slice_names=("all",),
    )


@pytest.fixture(scope="session")
def random_subject() -> Callable[..., Subject]:
    """`random_subject(n_layers=, attention_dir=, normalization_type=)`: large weights, biases and gains, so
    that nothing is negligible."""
    return _random_subject


def _random_subject(
    *,
    n_layers: int = 2,
    attention_dir: Literal["causal", "bidirectional"] = "causal",
    normalization_type: Literal["LN", "none"] = "LN",
) -> Subject:
    config = SubjectConfig(
        n_layers=n_layers,
        n_heads=2,
        d_model=16,
        d_head=8,
        d_mlp=24,
        d_vocab=N_TOKENS,
        n_ctx=N_POS,
        attention_dir=attention_dir,
        normalization_type=normalization_type,
    )
    weights = initial_weights(config, [generator(3)], init_std=0.7)
    noise = generator(4)
    return Subject(
        config=config,
        weights={k: v[0] + 0.2 * torch.randn(v.shape[1:], generator=noise) for k, v in weights.items()},
    )
