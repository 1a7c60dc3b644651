"""Strict interchange training of many subjects at once: each learns a circuit that it is told.

The loss of a subject (Geiger et al. 2022, and the strict term of Gupta et al. 2024, InterpBench) is

    CE(M(b), y_b) + CE(M[component <- s](b), y_b with its variables from s) + CE(M[worst host <- s](b), y_b)

for prompts b and their partners s. The component of the second term is drawn for each prompt among those that
carry variables. The third is the component without variables whose exchange costs most at this time: drawing
it at random leaves leaks that the mean over components hides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.config import RecipeConfig
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask
from data_gen.siit_data import ExchangeData, draw, host_nodes
from data_gen.siit_exchange import CleanRun, exchanged_logits, run_clean
from data_gen.stacked_training import CHUNK_STEPS, StackedTrainer, TrainedStack, learning_rate
from data_gen.tasks.base import UNSUPERVISED
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import Weights

HostChoice = Literal["worst", "uniform"]
"""Which component without variables is trained on: `uniform` draws one a step, for comparison."""
MEASURE_PROMPTS = 16
"""Prompts of each batch on which it is measured which host is the worst."""
INTERCHANGE_WEIGHT, HOST_WEIGHT = 1.0, 1.0


def mean_loss(
    logits: Float[Tensor, "subject batch pos d_vocab"], targets: Int[Tensor, "subject batch pos"]
) -> Float[Tensor, " subject"]:
    """Mean cross entropy over the supervised positions, in nats."""
    asked = targets != UNSUPERVISED
    return (_each(logits, targets) * asked).sum((1, 2)) / asked.sum((1, 2)).clamp(min=1)


def balanced_loss(
    logits: Float[Tensor, "subject batch pos d_vocab"],
    targets: Int[Tensor, "subject batch pos"],
    before: Int[Tensor, "subject batch pos"],
) -> Float[Tensor, " subject"]:
    """As `mean_loss`, positions whose answer an exchange changes weighing as much as the others together.

    Args:
        targets: after the exchange.
        before: without it.
    """
    asked = targets != UNSUPERVISED
    changed = asked & (targets != before)
    each, shares = _each(logits, targets), []
    for where in (changed, asked & ~changed):
        shares.append((each * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1))
    return torch.stack(shares).mean(0)


@torch.no_grad()
def host_losses(
    weights: Weights,
    config: SubjectConfig,
    clean: CleanRun,
    targets: Int[Tensor, "subject batch pos"],
    host: Bool[Tensor, "subject node"],
) -> Float[Tensor, "subject node"]:
    """Cross entropy when one component is exchanged; minus infinity for components that are no host.

    Args:
        targets: of the first prompts of the clean run, which are the ones that are looked at.
    """
    nodes = host.any(0).nonzero().squeeze(1)
    node = nodes[None, :, None].expand(len(targets), -1, targets.shape[1])
    logits = exchanged_logits(weights, config, clean, node)
    found = torch.full(host.shape, -torch.inf)
    for row, i in enumerate(nodes):
        found[:, i] = mean_loss(logits[:, row], targets)
    return found.masked_fill(~host, -torch.inf)


def host_masks(placements: Sequence[Placement], config: SubjectConfig) -> Bool[Tensor, "subject node"]:
    """Heads and MLPs that carry nothing, of each subject."""
    found = torch.zeros(len(placements), len(components(config)), dtype=torch.bool)
    for i, placement in enumerate(placements):
        found[i, host_nodes(placement, config)] = True
    return found


def train_siit(
    config: SubjectConfig,
    recipe: RecipeConfig,
    weights: dict[str, Tensor],
    tasks: Sequence[ProgramTask],
    placements: Sequence[Placement],
    generators: Sequence[torch.Generator],
    *,
    choice: HostChoice = "worst",
    progress: Callable[[int, int], None] | None = None,
) -> TrainedStack:
    """Trains subjects of one shape side by side, each on its own program and circuit.

    Args:
        weights: `[subject, ...]` to begin with.
        tasks: of one length, one a subject.
        placements: one a subject.
        generators: of each subject's data.
        progress: called with (steps done, steps in all) after every chunk of steps.
    """
    trainer = StackedTrainer.by(recipe, config, weights)
    host, losses = host_masks(placements, config), []
    chosen = host.float().argmax(1)
    for first in range(0, recipe.steps, CHUNK_STEPS):
        n_steps = min(CHUNK_STEPS, recipe.steps - first)
        drawn = [
            draw(task, placement, config, generator, n_steps, recipe.batch_size)
            for task, placement, generator in zip(tasks, placements, generators, strict=True)
        ]
        for i in range(n_steps):
            trainer.set_learning_rate(learning_rate(recipe, first + i))
            step = _Step.of(drawn, i)
            views = trainer.views()
            clean = run_clean(views, config, step.tokens)
            if choice == "uniform":
                chosen = torch.stack([_random(h, g) for h, g in zip(host, generators, strict=True)])
            elif host.any():
                few = step.targets[:, :MEASURE_PROMPTS]
                chosen = host_losses(views, config, clean, few, host).argmax(1)
            loss = _loss(views, config, clean, step, chosen, has_host=host.any(1))
            trainer.descend(loss)
            losses.append(loss.detach())
        if progress is not None:
            progress(first + n_steps, recipe.steps)
    return TrainedStack.of(trainer, losses, {})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Step:
    """Data of one step, of all subjects; see `ExchangeData`."""

    tokens: Int[Tensor, "subject batch pos"]
    targets: Int[Tensor, "subject batch pos"]
    node: Int[Tensor, "subject batch"]
    exchanged: Int[Tensor, "subject batch pos"]

    @classmethod
    def of(cls, drawn: Sequence[ExchangeData], i: int) -> "_Step":
        return cls(
            tokens=torch.stack([d.tokens[i] for d in drawn]),
            targets=torch.stack([d.targets[i] for d in drawn]),
            node=torch.stack([d.node[i] for d in drawn]),
            exchanged=torch.stack([d.exchanged[i] for d in drawn]),
        )


def _loss(
    weights: Weights,
    config: SubjectConfig,
    clean: CleanRun,
    step: _Step,
    chosen: Int[Tensor, " subject"],
    has_host: Bool[Tensor, " subject"],
) -> Float[Tensor, " subject"]:
    """All three terms of each subject's loss."""
    nodes = torch.stack([step.node, chosen[:, None].expand_as(step.node)], dim=1)
    changed, kept = exchanged_logits(weights, config, clean, nodes).unbind(1)
    return (
        mean_loss(clean.logits, step.targets)
        + INTERCHANGE_WEIGHT * balanced_loss(changed, step.exchanged, step.targets)
        + HOST_WEIGHT * has_host * mean_loss(kept, step.targets)
    )


def _each(logits: Tensor, targets: Tensor) -> Float[Tensor, "subject batch pos"]:
    flat = F.cross_entropy(
        logits.flatten(0, 2), targets.flatten(), ignore_index=UNSUPERVISED, reduction="none"
    )
    return flat.view(targets.shape)


def _random(host: Bool[Tensor, " node"], generator: torch.Generator) -> Tensor:
    options = host.nonzero().squeeze(1)
    if len(options) == 0:
        return torch.zeros((), dtype=torch.long)
    return options[torch.randint(len(options), (), generator=generator)]
