"""Which subjects have learnt their task well enough to enter a zoo, and why the others have not."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_gen.seeds import HELD_OUT, generator_of
from data_gen.tasks.base import Task
from data_gen.tasks.mixture import inner, parts_of
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import logits_at

N_HELD_OUT = 512
"""Fresh prompts of each task on which a subject must reach the task's threshold."""


def held_out_accuracy(
    weights: dict[str, Tensor], config: SubjectConfig, tasks: Sequence[Task], seeds: Sequence[int]
) -> Float[Tensor, "subject task"]:
    """Accuracy at the answer position of fresh prompts, of each family that a subject has learnt.

    Args:
        weights: `[subject, ...]`.
        tasks, seeds: one a subject.
    """
    parts = zip(*[parts_of(task) for task in tasks], strict=True)
    generators = [generator_of(seed, HELD_OUT) for seed in seeds]
    return torch.stack([_accuracy(weights, config, part, generators) for part in parts], dim=1)


def _accuracy(
    weights: dict[str, Tensor],
    config: SubjectConfig,
    tasks: Sequence[Task],
    generators: Sequence[torch.Generator],
) -> Float[Tensor, " subject"]:
    drawn = [task.prompts(g, N_HELD_OUT) for task, g in zip(tasks, generators, strict=True)]
    tokens = torch.stack([p.clean for p in drawn])
    answers = torch.stack([p.answer for p in drawn])
    rows = torch.stack([p.position for p in drawn]) + torch.arange(N_HELD_OUT) * tokens.shape[2]
    with torch.no_grad():
        logits = logits_at(weights, config, tokens, rows)
    # A subject whose logits are not numbers is right about nothing.
    right = (logits.argmax(-1) == answers) & logits.isfinite().all(-1)
    return right.float().mean(1)


def rejections(
    ids: Sequence[str],
    tasks: Sequence[Task],
    accuracy: Float[Tensor, "subject task"],
    finite: Bool[Tensor, " subject"],
) -> dict[str, str]:
    """Id of each subject that must not enter a zoo -> why."""
    rejected = {}
    for i, (id, task) in enumerate(zip(ids, tasks, strict=True)):
        below = [
            f"accuracy {accuracy[i, j]:.3f} on fresh prompts is below {inner(part).threshold}"
            + (f" ({inner(part).family})" if len(parts_of(task)) > 1 else "")
            for j, part in enumerate(parts_of(task))
            if accuracy[i, j] < inner(part).threshold
        ]
        if not finite[i]:
            rejected[id] = "training diverged: weights or gradients are not finite"
        elif below:
            rejected[id] = "; ".join(below)
    return rejected
