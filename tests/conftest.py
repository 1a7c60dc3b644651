"""Random subjects and prompts, as circuit tests need them: no path negligible, no pair of answers equal.

And which files of tests run in one process.
"""

from collections.abc import Callable

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject, initial_weights, unstack

MakeSubject = Callable[..., Subject]
MakePrompts = Callable[..., Prompts]
OF_JOB = (
    "bad_input circuit_commands main_job matching_job models_of_others shipped_files student_job zoo_commands"
)
OF_EVALUATION = "report scores terminal"
SHARE = {f"tests/walk/test_{name}.py": "job" for name in OF_JOB.split()}
SHARE |= {f"tests/unit/test_{name}.py": "evaluation" for name in OF_EVALUATION.split()}
"""Files that share a fixture of a minute: they run in one process, so that it is made once."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, with such files as one."""

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return SHARE.get(file, file)

    return ByFile(config, log)


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
