"""Trains many subjects at once. One subject is too small to keep a core busy; six side by side are not.

All weights of a subject lie in one row of a buffer `[subject, parameter]` and the named weights are views,
so that clipping, checking and AdamW are a handful of operations whatever the depth. A subject's weights, task
and data come from its own seed: it trains the same alone and in any stack.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.config import RecipeConfig
from data_gen.population import ShardSpec, SubjectSpec
from data_gen.tasks import make_task
from data_gen.tasks.base import UNSUPERVISED, Task
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.forward import logits_at
from metamodel.subjects.subject import initial_weights

CHUNK_STEPS = 64
"""Steps whose data are drawn at once: drawing each step alone would cost more than training on it."""
N_HELD_OUT = 512
"""Fresh prompts on which a subject must reach its task's threshold."""
WEIGHTS, DATA, HELD_OUT = range(3)
"""Streams of random numbers of one subject."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedShard:
    """Trained subjects of one shard, the rejected among them. Arrays follow the shard's subjects."""

    weights: dict[str, Tensor]
    """`[subject, ...]` under TransformerLens's names."""
    tasks: tuple[Task, ...]
    """Each subject's own instance of the task."""
    accuracy: Float[Tensor, " subject"]
    """On fresh held-out prompts."""
    loss: Float[Tensor, " subject"]
    """Mean cross entropy over the last steps, in nats."""
    rejected: dict[str, str]
    """Id of each subject that must not enter a zoo -> why."""


def generator_of(seed: int, stream: int) -> torch.Generator:
    """A subject's own random numbers; streams never meet."""
    return torch.Generator().manual_seed(seed * 8 + stream)


def learning_rate(recipe: RecipeConfig, step: int) -> float:
    """Linear warmup, then cosine, linear or no decay; `step` counts from 0."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    match recipe.decay:
        case "cosine":
            return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return recipe.learning_rate * (1 - done)
        case "constant":
            return recipe.learning_rate


class _Parameters:
    """Named weights as views of two buffers, matrices (decayed) and vectors (not)."""

    def __init__(self, config: SubjectConfig, weights: dict[str, Tensor]):
        self.names = {
            True: [k for k in weights if _is_matrix(k)],
            False: [k for k in weights if not _is_matrix(k)],
        }
        self.shapes = weight_shapes(config)
        self.buffers = {
            matrix: torch.cat([weights[k].flatten(1) for k in names], dim=1).requires_grad_()
            for matrix, names in self.names.items()
        }

    def views(self) -> dict[str, Tensor]:
        found = {}
        for matrix, names in self.names.items():
            sizes = [math.prod(self.shapes[k]) for k in names]
            for key, part in zip(names, self.buffers[matrix].split(sizes, dim=1), strict=True):
                found[key] = part.unflatten(1, self.shapes[key])
        return found


def _is_matrix(key: str) -> bool:
    return key.rsplit(".", 1)[1].startswith("W_")


def _draw(
    task: Task, generator: torch.Generator, n_steps: int, batch_size: int
) -> tuple[Int[Tensor, "step batch pos"], Int[Tensor, "step batch pos"]]:
    """Data of one subject for `n_steps`."""
    batch = task.sample(generator, n_steps * batch_size)
    shape = (n_steps, batch_size, task.n_pos)
    return batch.tokens.view(shape), batch.targets.view(shape)


def _supervised_rows(
    targets: Int[Tensor, "subject step batch_pos"],
) -> tuple[Int[Tensor, "subject step row"], Int[Tensor, "subject step row"]]:
    """Flat positions that are supervised and their targets, padded to the longest with unsupervised rows."""
    asked = targets != UNSUPERVISED
    longest = max(1, int(asked.sum(-1).max()))
    rows = (~asked).to(torch.uint8).argsort(dim=-1, stable=True)[..., :longest]
    return rows, targets.gather(-1, rows)


def clip(gradients: Sequence[Tensor], largest: float) -> Float[Tensor, " subject"]:
    """Scales each subject's gradient to a norm of at most `largest`, in place, and returns the norms before.

    A gradient that is not finite becomes zero, and its subject is rejected later; the others go on.
    """
    norm = torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = torch.where(norm.isfinite(), (largest / norm.clamp(min=1e-12)).clamp(max=1.0), 0.0)
    for g in gradients:
        g.mul_(scale.unsqueeze(1))
        if not bool(norm.isfinite().all()):
            g.nan_to_num_(0.0, 0.0, 0.0)
    return norm


def _held_out(
    weights: dict[str, Tensor], config: SubjectConfig, tasks: Sequence[Task], subjects: Sequence[SubjectSpec]
) -> Float[Tensor, " subject"]:
    """Accuracy at the answer position of fresh prompts."""
    drawn = [
        task.prompts(generator_of(s.seed, HELD_OUT), N_HELD_OUT)
        for task, s in zip(tasks, subjects, strict=True)
    ]
    tokens = torch.stack([p.clean for p in drawn])
    answers = torch.stack([p.answer for p in drawn])
    rows = torch.stack([p.position for p in drawn]) + torch.arange(N_HELD_OUT) * tokens.shape[2]
    with torch.no_grad():
        logits = logits_at(weights, config, tokens, rows)
    # A subject whose logits are not numbers is right about nothing.
    right = (logits.argmax(-1) == answers) & logits.isfinite().all(-1)
    return right.float().mean(1)


def _rejections(shard: ShardSpec, tasks: Sequence[Task], accuracy: Tensor, finite: Tensor) -> dict[str, str]:
    rejected = {}
    for i, (subject, task) in enumerate(zip(shard.subjects, tasks, strict=True)):
        if not finite[i]:
            rejected[subject.id] = "training diverged: weights or gradients are not finite"
        elif accuracy[i] < task.threshold:
            rejected[subject.id] = f"accuracy {accuracy[i]:.3f} on fresh prompts is below {task.threshold}"
    return rejected


def train(shard: ShardSpec, *, progress: Callable[[int, int], None] | None = None) -> TrainedShard:
    """Trains the subjects of one shard, each from its own seed.

    Args:
        progress: called with (steps done, steps in all) after every chunk of steps.
    """
    config, recipe = shard.subject_config, shard.recipe
    seeds = [s.seed for s in shard.subjects]
    tasks = tuple(make_task(shard.family, shard.variant, seed) for seed in seeds)
    parameters = _Parameters(config, initial_weights(config, [generator_of(s, WEIGHTS) for s in seeds]))
    generators = [generator_of(s, DATA) for s in seeds]
    matrices, vectors = parameters.buffers[True], parameters.buffers[False]
    optimizer = torch.optim.AdamW(
        [
            {"params": [matrices], "weight_decay": recipe.weight_decay},
            {"params": [vectors], "weight_decay": 0.0},
        ],
        betas=(0.9, recipe.beta2),
        fused=True,
    )
    finite = torch.ones(len(seeds), dtype=torch.bool)
    losses: list[Tensor] = []
    for first in range(0, recipe.steps, CHUNK_STEPS):
        n_steps = min(CHUNK_STEPS, recipe.steps - first)
        drawn = [_draw(t, g, n_steps, recipe.batch_size) for t, g in zip(tasks, generators, strict=True)]
        tokens = torch.stack([d[0] for d in drawn])
        rows, targets = _supervised_rows(torch.stack([d[1] for d in drawn]).flatten(2))
        for i in range(n_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, first + i)
            logits = logits_at(parameters.views(), config, tokens[:, i], rows[:, i])
            each = F.cross_entropy(
                logits.flatten(0, 1),
                targets[:, i].flatten(),
                ignore_index=UNSUPERVISED,
                reduction="none",
            ).view(len(seeds), -1)
            loss = each.sum(1) / (targets[:, i] != UNSUPERVISED).sum(1).clamp(min=1)
            optimizer.zero_grad()
            loss.sum().backward()
            gradients = [g for g in (matrices.grad, vectors.grad) if g is not None]
            finite &= clip(gradients, recipe.grad_clip).isfinite()
            optimizer.step()
            losses.append(loss.detach())
        if progress is not None:
            progress(first + n_steps, recipe.steps)
    weights = {key: view.detach().clone() for key, view in parameters.views().items()}
    accuracy = _held_out(weights, config, tasks, shard.subjects)
    finite &= torch.stack([v.flatten(1).isfinite().all(1) for v in weights.values()]).all(0)
    return TrainedShard(
        weights={key: weights[key] for key in weight_shapes(config)},
        tasks=tasks,
        accuracy=accuracy,
        loss=torch.stack(losses[-20:]).mean(0),
        rejected=_rejections(shard, tasks, accuracy, finite),
    )
