"""Trains many subjects at once. One subject is too small to keep a core busy; six side by side are not.

All weights of a subject lie in one row of a buffer `[subject, parameter]` and the named weights are views,
so that clipping, checking and AdamW are a handful of operations whatever the depth. A subject's weights, task
and data come from its own seed: it trains the same alone and in any stack.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.acceptance import held_out_accuracy, rejections
from data_gen.config import RecipeConfig
from data_gen.population import ShardSpec
from data_gen.seeds import DATA, WEIGHTS, generator_of
from data_gen.tasks import make_task
from data_gen.tasks.base import UNSUPERVISED, Task
from metamodel.subjects.config import SubjectConfig, weight_shapes
from metamodel.subjects.forward import logits_at
from metamodel.subjects.subject import initial_weights

NO_FACTORS: Mapping[str, Tensor] = {}
CHUNK_STEPS = 64
"""Steps whose data are drawn at once: drawing each step alone would cost more than training on it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedStack:
    """A stack of subjects after training."""

    weights: dict[str, Tensor]
    """`[subject, ...]` under TransformerLens's names."""
    checkpoints: dict[int, dict[str, Tensor]]
    """Copies of the weights after some of the steps, by number of steps."""
    loss: Float[Tensor, " subject"]
    """Mean cross entropy over the last steps, in nats."""
    diverged_at: Int[Tensor, " subject"]
    """Step, from 1, at which a gradient or weight was first not finite; 0 where none ever was."""

    @classmethod
    def of(
        cls,
        trainer: "StackedTrainer",
        losses: Sequence[Tensor],
        checkpoints: Mapping[int, dict[str, Tensor]],
    ) -> "TrainedStack":
        """What a trainer has made, and the losses `[subject]` of all its steps."""
        weights = trainer.weights()
        finite = torch.stack([v.flatten(1).isfinite().all(1) for v in weights.values()]).all(0)
        step = (trainer.finite_steps + 1).clamp(max=len(losses))
        return cls(
            weights=weights,
            checkpoints=dict(checkpoints),
            loss=torch.stack(list(losses[-20:])).mean(0).cpu(),
            diverged_at=torch.where(trainer.finite.cpu() & finite, 0, step.cpu()),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedShard:
    """Trained subjects of one shard, the rejected among them. Arrays follow the shard's subjects."""

    stack: TrainedStack
    tasks: tuple[Task, ...]
    """Each subject's own instance of the task."""
    accuracy: Float[Tensor, "subject task"]
    """On fresh held-out prompts of each family that the subjects learn."""
    rejected: dict[str, str]
    """Id of each subject that must not enter a zoo -> why."""

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.stack.weights


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


class StackedTrainer:
    """Weights of a stack of subjects under training, and their optimiser.

    Matrices and vectors lie in a buffer each, since AdamW decays the matrices only.
    """

    def __init__(
        self,
        config: SubjectConfig,
        weights: dict[str, Tensor],
        *,
        learning_rate: float,
        weight_decay: float,
        beta2: float = 0.98,
        grad_clip: float = 1.0,
    ):
        self.config, self.grad_clip, self.shapes = config, grad_clip, weight_shapes(config)
        self.names = ([k for k in weights if _is_matrix(k)], [k for k in weights if not _is_matrix(k)])
        self.buffers = [
            torch.cat([weights[k].flatten(1) for k in names], dim=1).requires_grad_() for names in self.names
        ]
        decays = (weight_decay, 0.0)
        groups = [
            {"params": [buffer], "weight_decay": d} for buffer, d in zip(self.buffers, decays, strict=True)
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), fused=True)
        self.finite = torch.ones(len(self.buffers[0]), dtype=torch.bool, device=self.buffers[0].device)
        """Subjects whose gradients have all been finite so far."""
        self.finite_steps = torch.zeros_like(self.finite, dtype=torch.int64)
        """Steps of each subject before the first whose gradient was not finite."""

    @classmethod
    def by(cls, recipe: RecipeConfig, config: SubjectConfig, weights: dict[str, Tensor]) -> "StackedTrainer":
        """With the optimiser of a recipe, whose learning rate the caller sets step by step."""
        return cls(
            config,
            weights,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            beta2=recipe.beta2,
            grad_clip=recipe.grad_clip,
        )

    def views(self) -> dict[str, Tensor]:
        """The named weights, through which gradients reach the buffers."""
        found = {}
        for names, buffer in zip(self.names, self.buffers, strict=True):
            sizes = [math.prod(self.shapes[k]) for k in names]
            for key, part in zip(names, buffer.split(sizes, dim=1), strict=True):
                found[key] = part.unflatten(1, self.shapes[key])
        return found

    def weights(self) -> dict[str, Tensor]:
        """A copy of the named weights on the CPU, in the order of `weight_shapes`."""
        views = self.views()
        return {key: views[key].detach().to("cpu", copy=True) for key in self.shapes}

    def step(
        self, tokens: Int[Tensor, "subject batch pos"], targets: Int[Tensor, "subject batch pos"]
    ) -> Float[Tensor, " subject"]:
        """One step on targets that are UNSUPERVISED where nothing is asked. Returns losses in nats."""
        return self.step_at(tokens, *supervised_rows(targets.flatten(1)))

    def step_at(
        self,
        tokens: Int[Tensor, "subject batch pos"],
        rows: Int[Tensor, "subject row"],
        targets: Int[Tensor, "subject row"],
        *,
        factors: Mapping[str, Tensor] = NO_FACTORS,
    ) -> Float[Tensor, " subject"]:
        """As `step`, with the supervised positions already found.

        Args:
            factors: of named weights, in this step, such as zeros for a head that is left out.
        """
        views = self.views()
        weights = views | {key: views[key] * factor for key, factor in factors.items()}
        logits = logits_at(weights, self.config, tokens, rows)
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=UNSUPERVISED, reduction="none"
        )
        loss = each.view_as(targets).sum(1) / (targets != UNSUPERVISED).sum(1).clamp(min=1)
        self.descend(loss)
        return loss.detach()

    def descend(self, loss: Float[Tensor, " subject"]) -> None:
        """One step of the optimiser on losses that were computed from `views`."""
        self.optimizer.zero_grad()
        loss.sum().backward()
        gradients = [buffer.grad for buffer in self.buffers if buffer.grad is not None]
        self.finite &= clip(gradients, self.grad_clip).isfinite()
        self.finite_steps += self.finite
        self.optimizer.step()

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value


def _is_matrix(key: str) -> bool:
    return key.rsplit(".", 1)[1].startswith("W_")


def draw(
    task: Task, generator: torch.Generator, n_steps: int, batch_size: int
) -> tuple[Int[Tensor, "step batch pos"], Int[Tensor, "step batch pos"]]:
    """Data of one subject for `n_steps`."""
    batch = task.sample(generator, n_steps * batch_size)
    shape = (n_steps, batch_size, task.n_pos)
    return batch.tokens.view(shape), batch.targets.view(shape)


def supervised_rows(
    targets: Int[Tensor, "*stack batch_pos"],
) -> tuple[Int[Tensor, "*stack row"], Int[Tensor, "*stack row"]]:
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


def train_stack(
    config: SubjectConfig,
    recipe: RecipeConfig,
    weights: dict[str, Tensor],
    tasks: Sequence[Task],
    generators: Sequence[torch.Generator],
    *,
    checkpoints: Sequence[int] = (),
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> TrainedStack:
    """Trains subjects of one shape side by side, each on its own task.

    Args:
        weights: `[subject, ...]` to begin with.
        tasks: of one length, one a subject.
        generators: of each subject's data.
        checkpoints: numbers of steps after which a copy of the weights is kept.
        device: where the steps run; data are drawn on the generators' device, and weights come back to the
            CPU. On a GPU, stack hundreds.
        progress: called with (steps done, steps in all) after every chunk of steps.
    """
    trainer = StackedTrainer.by(recipe, config, {key: value.to(device) for key, value in weights.items()})
    losses: list[Tensor] = []
    kept: dict[int, dict[str, Tensor]] = {}
    for first in range(0, recipe.steps, CHUNK_STEPS):
        n_steps = min(CHUNK_STEPS, recipe.steps - first)
        drawn = [draw(t, g, n_steps, recipe.batch_size) for t, g in zip(tasks, generators, strict=True)]
        tokens = torch.stack([d[0] for d in drawn]).to(device)
        rows, targets = supervised_rows(torch.stack([d[1] for d in drawn]).flatten(2).to(device))
        for i in range(n_steps):
            trainer.set_learning_rate(learning_rate(recipe, first + i))
            losses.append(trainer.step_at(tokens[:, i], rows[:, i], targets[:, i]))
            if first + i + 1 in checkpoints:
                kept[first + i + 1] = trainer.weights()
        if progress is not None:
            progress(first + n_steps, recipe.steps)
    return TrainedStack.of(trainer, losses, kept)


def train(shard: ShardSpec, *, progress: Callable[[int, int], None] | None = None) -> TrainedShard:
    """Trains the subjects of one shard, each from its own seed.

    Args:
        progress: called with (steps done, steps in all) after every chunk of steps.
    """
    config, seeds = shard.subject_config, [s.seed for s in shard.subjects]
    tasks = tuple(make_task(shard.family, shard.variant, seed) for seed in seeds)
    stack = train_stack(
        config,
        shard.recipe,
        initial_weights(config, [generator_of(s, WEIGHTS) for s in seeds]),
        tasks,
        [generator_of(s, DATA) for s in seeds],
        checkpoints=[max(1, round(share * shard.recipe.steps)) for share in shard.cell.checkpoints],
        progress=progress,
    )
    accuracy = held_out_accuracy(stack.weights, config, tasks, seeds)
    ids = [subject.id for subject in shard.subjects]
    return TrainedShard(
        stack=stack,
        tasks=tasks,
        accuracy=accuracy,
        rejected=rejections(ids, tasks, accuracy, stack.diverged_at),
    )
