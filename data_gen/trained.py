"""Subjects that are trained from their own initialisation, and their relatives.

Relatives share their subject's lineage: checkpoints from earlier in its training, a copy that was trained
further, and a copy without the heads that matter least. Known relatives are what matching is tested on.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.acceptance import held_out_accuracy, rejections
from data_gen.harvesting import task_prompts
from data_gen.made import Made, MadeShard
from data_gen.population import ShardSpec, SubjectSpec
from data_gen.seeds import derived_seed, generator_for
from data_gen.stacked_training import TrainedShard, train, train_stack
from data_gen.tasks.base import Task
from data_gen.tasks.mixture import parts_of
from metamodel.circuits.ablation import ablation_effects
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject, stack, unstack
from metamodel.triples.schema import Relation

FINETUNING_SHARE = 0.25
"""Steps of fine-tuning, as a share of those of training."""
FINETUNING_RATE = 0.3
"""Peak learning rate of fine-tuning, as a share of that of training."""
N_PRUNING_PROMPTS = 64
"""Prompts on which heads are ablated to find those that matter least."""
PRUNED_SHARE = 0.5
"""Largest share of heads that a pruned copy lacks."""


def make_trained(spec: ShardSpec, report: Callable[[int, int], None] | None = None) -> MadeShard:
    """Trains a shard's subjects and makes their relatives.

    Args:
        report: called with (steps done, steps in all) now and then.
    """
    trained = train(spec, progress=report)
    tasks = dict(zip(spec.subjects, trained.tasks, strict=True))
    finals = {
        subject: _made(spec, subject, unstack(trained.weights, i), tasks[subject])
        for i, subject in enumerate(spec.subjects)
        if subject.id not in trained.rejected
    }
    accepted, rejected = list(finals.values()), dict(trained.rejected)
    accepted += _checkpoints(spec, trained, finals)
    for n, make in ((spec.cell.n_finetuned, _finetuned), (spec.cell.n_pruned, _pruned)):
        parents = [finals[subject] for subject in spec.among_first(n) if subject in finals]
        if parents:
            made = make(spec, parents)
            accepted += made.accepted
            rejected |= made.rejected
    return MadeShard(accepted=tuple(accepted), rejected=rejected)


def _made(
    spec: ShardSpec,
    subject: SubjectSpec,
    weights: dict[str, Tensor],
    task: Task,
    *,
    suffix: str = "",
    relation: Relation = "none",
) -> Made:
    return Made(
        subject=Subject(config=spec.subject_config, weights=weights, name=subject.id + suffix),
        task=task,
        seed=subject.seed,
        lineage=subject.lineage,
        relation=relation,
        relative=subject.id if suffix else "",
    )


def _checkpoints(spec: ShardSpec, trained: TrainedShard, finals: dict[SubjectSpec, Made]) -> list[Made]:
    """Copies from earlier in training, whatever they had learnt by then, of subjects that were accepted."""
    return [
        _made(
            spec,
            subject,
            unstack(weights, i),
            trained.tasks[i],
            suffix=f"-step{step}",
            relation="checkpoint",
        )
        for step, weights in sorted(trained.stack.checkpoints.items())
        for i, subject in enumerate(spec.subjects)
        if subject in finals
    ]


def _finetuned(spec: ShardSpec, parents: Sequence[Made]) -> MadeShard:
    """Copies that were trained further, on a task with another private truth where there is one."""
    recipe = spec.recipe
    steps = max(1, round(FINETUNING_SHARE * recipe.steps))
    recipe = dataclasses.replace(
        recipe,
        steps=steps,
        warmup_steps=min(recipe.warmup_steps, steps),
        learning_rate=FINETUNING_RATE * recipe.learning_rate,
    )
    seeds = [derived_seed(parent.seed, "finetuned") for parent in parents]
    tasks = [p.task.renewed(spec.variant, seed) for p, seed in zip(parents, seeds, strict=True)]
    tuned = train_stack(
        spec.subject_config,
        recipe,
        stack([parent.subject for parent in parents]),
        tasks,
        [generator_for(seed, "data") for seed in seeds],
    )
    copies = [
        _copy(parent, unstack(tuned.weights, i), "finetuned", task=tasks[i], seed=seeds[i])
        for i, parent in enumerate(parents)
    ]
    return _judged(copies, tuned.diverged_at)


def _pruned(spec: ShardSpec, parents: Sequence[Made]) -> MadeShard:
    """Copies without the heads whose ablation costs least."""
    copies = [
        _copy(parent, without_least(parent), "pruned", task=parent.task, seed=parent.seed)
        for parent in parents
    ]
    return _judged(copies, torch.zeros(len(copies), dtype=torch.int64))


def _copy(parent: Made, weights: dict[str, Tensor], relation: Relation, *, task: Task, seed: int) -> Made:
    name = f"{parent.subject.name}-{relation}"
    return Made(
        subject=dataclasses.replace(parent.subject, weights=weights, name=name),
        task=task,
        seed=seed,
        lineage=parent.lineage,
        relation=relation,
        relative=parent.subject.name,
    )


def _judged(copies: Sequence[Made], diverged_at: Tensor) -> MadeShard:
    """Those copies that still reach the thresholds of their tasks."""
    weights, config = stack([copy.subject for copy in copies]), copies[0].subject.config
    tasks, ids = [copy.task for copy in copies], [copy.subject.name for copy in copies]
    accuracy = held_out_accuracy(weights, config, tasks, [copy.seed for copy in copies])
    rejected = rejections(ids, tasks, accuracy, diverged_at)
    return MadeShard(
        accepted=tuple(copy for copy in copies if copy.subject.name not in rejected), rejected=rejected
    )


@torch.no_grad()
def mean_writes(parent: Made) -> Float[Tensor, "layer head d_model"]:
    """What each head writes on average over prompts and positions of the subject's tasks."""
    subject, layers = parent.subject, range(parent.subject.config.n_layers)
    prompts = parent.task.prompts(generator_for(parent.seed, "pruning"), N_PRUNING_PROMPTS)
    taps = [f"blocks.{layer}.attn.hook_result" for layer in layers]
    run = subject.run(prompts.clean, taps=taps)
    return torch.stack([run.taps[name][0].mean((0, 1)) for name in taps])


def without_least(parent: Made) -> dict[str, Tensor]:
    """Weights without the heads that cost least on any of the subject's tasks.

    What they write on average stays, as in the ablation that ranks them.
    """
    subject = parent.subject
    heads = [(i, node) for i, node in enumerate(components(subject.config)) if node.kind == "head"]
    cost = torch.stack(
        [
            ablation_effects(
                subject,
                task_prompts(part, generator_for(parent.seed, "pruning", i), N_PRUNING_PROMPTS),
            )[0].abs()
            for i, part in enumerate(parts_of(parent.task))
        ]
    ).amax(0)
    order = sorted(heads, key=lambda head: float(cost[head[0]]))
    weights = {name: weight.clone() for name, weight in subject.weights.items()}
    written = mean_writes(parent)
    for _, node in order[: int(PRUNED_SHARE * len(heads))]:
        attn = f"blocks.{node.layer}.attn"
        weights[f"{attn}.b_O"] += written[node.layer, node.head]
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            weights[f"{attn}.{name}"][node.head] = 0.0
    return weights
