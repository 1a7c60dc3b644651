"""Random subjects and prompts, as circuit tests need them: no path negligible, no pair of answers equal."""

from collections.abc import Callable

import pytest
import torch

from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights, unstack

MakeSubject = Callable[..., Subject]
MakePrompts = Callable[..., Prompts]
SHARED = ("job", "evaluation")
"""Fixtures that take a minute: the files that use one run in one process, so that it is made once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups tests by file, and files by what they share, for `--dist loadgroup`."""
    groups = {}
    for item in items:
        for name in SHARED:
            if name in getattr(item, "fixturenames", ()):
                groups[item.path] = name
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, str(item.path))))


@pytest.fixture(scope="session")
def make_subject() -> MakeSubject:
    """`make_subject(seed, **shape)`: float64, large random weights everywhere, biases and gains too."""

    def make(seed: int, **shape) -> Subject:
        sizes = {
            "n_layers": 2,
            "n_heads": 2,
            "d_model": 8,
            "d_head": 3,
            "d_mlp": 12,
            "d_vocab": 9,
            "n_ctx": 7,
        }
        config = SubjectConfig(**(sizes | shape))
        generator = torch.Generator().manual_seed(seed)
        weights = unstack(initial_weights(config, [generator], init_std=0.5), 0)
        for key in weights:
            if key.rsplit(".", 1)[1][0] in "bw":
                weights[key] = weights[key] + 0.3 * torch.randn(weights[key].shape, generator=generator)
        return Subject(config=config, weights=weights).double()

    return make


@pytest.fixture(scope="session")
def make_prompts() -> MakePrompts:
    """`make_prompts(seed, config)`: random tokens; with `targets=True` answers at several positions."""

    def make(
        seed: int, config: SubjectConfig, *, n: int = 5, n_pos: int = 6, targets: bool = False
    ) -> Prompts:
        generator = torch.Generator().manual_seed(seed)

        def draw(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(high, shape, generator=generator)

        answer = draw(config.d_vocab, n)
        asked = draw(config.d_vocab, n, n_pos)
        asked[draw(2, n, n_pos) == 0] = -1
        asked[:, -1] = answer
        return Prompts(
            clean=draw(config.d_vocab, n, n_pos),
            corrupt=draw(config.d_vocab, n, n_pos),
            position=draw(n_pos, n),
            answer=answer,
            corrupt_answer=(answer + 1) % config.d_vocab,
            slice=torch.zeros(n, dtype=torch.int64),
            slice_names=("all",),
            targets=asked if targets else None,
        )

    return make
