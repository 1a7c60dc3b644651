"""Strict interchange training of many subjects at once: each learns a circuit that it is told.

The loss of a subject (Geiger et al. 2022, and the strict term of Gupta et al. 2024, InterpBench) is

    CE(M(b), y_b) + CE(M[component <- s](b), y_b with its variables from s) + CE(M[worst host <- s](b), y_b)

for prompts b and their partners s. The component of the second term is drawn for each prompt among those that
carry variables. The third is the component without variables whose exchange costs most at this time: drawing
it at random leaves leaks that the mean over components hides.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.config import RecipeConfig
from data_gen.programs.placement import Placement
from data_gen.programs.task import ProgramTask
from data_gen.siit_data import draw, host_nodes, partner
from data_gen.siit_exchange import Written, exchanged_logits, one_node, written_sites
from data_gen.stacked_training import CHUNK_STEPS, StackedTrainer, TrainedStack, learning_rate
from data_gen.tasks.base import UNSUPERVISED
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import Weights, forward

HostChoice = Literal["worst", "uniform"]
"""Which component without variables is trained on: `uniform` draws one a step, for comparison."""
MEASURE_EVERY = 4
"""Steps between measurements of which host is the worst."""
MEASURE_PROMPTS = 32
"""Prompts of the batch on which it is measured."""
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
    tokens: Int[Tensor, "subject batch pos"],
    targets: Int[Tensor, "subject batch pos"],
    other: Written,
    host: Bool[Tensor, "subject node"],
) -> Float[Tensor, "subject node"]:
    """Cross entropy when one component is exchanged; minus infinity for components that are no host."""
    nodes = host.any(0).nonzero().squeeze(1)
    found = torch.full(host.shape, -torch.inf)
    n_subjects, n = tokens.shape[:2]
    node = nodes.repeat_interleave(n).expand(n_subjects, -1)
    logits = exchanged_logits(
        weights,
        config,
        tokens.repeat(1, len(nodes), 1),
        {site: value.repeat(1, len(nodes), *[1] * (value.ndim - 2)) for site, value in other.items()},
        one_node(node, config),
    )
    for i, of_node in enumerate(logits.split(n, 1)):
        found[:, nodes[i]] = mean_loss(of_node, targets)
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
    trainer = StackedTrainer(
        config,
        weights,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        beta2=recipe.beta2,
        grad_clip=recipe.grad_clip,
    )
    host = host_masks(placements, config)
    worst, losses = torch.zeros(len(tasks), dtype=torch.long), []
    for first in range(0, recipe.steps, CHUNK_STEPS):
        n_steps = min(CHUNK_STEPS, recipe.steps - first)
        drawn = [
            draw(task, placement, config, generator, n_steps, recipe.batch_size)
            for task, placement, generator in zip(tasks, placements, generators, strict=True)
        ]
        tokens, targets = torch.stack([d.tokens for d in drawn], 1), torch.stack([d.targets for d in drawn], 1)
        node, exchanged = torch.stack([d.node for d in drawn], 1), torch.stack([d.exchanged for d in drawn], 1)
        for i in range(n_steps):
            trainer.set_learning_rate(learning_rate(recipe, first + i))
            views = trainer.views()
            run = forward(views, config, tokens[i], taps=written_sites(config))
            other = {site: partner(value, 1) for site, value in run.taps.items()}
            if choice == "uniform":
                worst = torch.stack(
                    [_random(h, g) for h, g in zip(host, generators, strict=True)]
                )
            elif (first + i) % MEASURE_EVERY == 0 and host.any():
                few = slice(0, MEASURE_PROMPTS)
                worst = host_losses(
                    views, config, tokens[i, :, few], targets[i, :, few],
                    {site: value[:, few] for site, value in other.items()}, host,
                ).argmax(1)
            swap = torch.cat([one_node(node[i], config), one_node(worst[:, None].expand(node[i].shape), config) & host[:, None]], 1)
            twice = {site: torch.cat([value, value], 1) for site, value in other.items()}
            logits = exchanged_logits(views, config, tokens[i].repeat(1, 2, 1), twice, swap)
            changed, kept = logits.chunk(2, 1)
            behavior = mean_loss(run.logits, targets[i])
            loss = behavior + INTERCHANGE_WEIGHT * balanced_loss(changed, exchanged[i], targets[i])
            loss = loss + HOST_WEIGHT * mean_loss(kept, targets[i])
            trainer.descend(loss)
            losses.append(loss.detach())
        if progress is not None:
            progress(first + n_steps, recipe.steps)
    made = trainer.weights()
    finite = torch.stack([v.flatten(1).isfinite().all(1) for v in made.values()]).all(0)
    return TrainedStack(weights=made, checkpoints={}, loss=torch.stack(losses[-20:]).mean(0), finite=trainer.finite & finite)


def _each(logits: Tensor, targets: Tensor) -> Float[Tensor, "subject batch pos"]:
    flat = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=UNSUPERVISED, reduction="none")
    return flat.view(targets.shape)


def _random(host: Bool[Tensor, " node"], generator: torch.Generator) -> Tensor:
    options = host.nonzero().squeeze(1)
    if len(options) == 0:
        return torch.zeros((), dtype=torch.long)
    return options[torch.randint(len(options), (), generator=generator)]
