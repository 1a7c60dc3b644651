"""From trained subjects to triples: what flows, which edges matter, what is answered, what each head does.

One call harvests one shard: subjects of one shape and task family. They share the batteries of random tokens
and the null, which cost as much as several subjects and depend on shape, family and variant only; everything
else is a subject's own. Seeds derive from names, so a subject's triple is the same bytes in any shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.config import HarvestConfig
from data_gen.function_labels import function_labels
from data_gen.labels.batteries import Batteries, batteries
from data_gen.labels.registry import MIN_EDGE_EFFECT
from data_gen.null import LabelNull, edge_null_threshold, label_null, reinitialised
from data_gen.seeds import generator_for
from data_gen.tasks.base import Task
from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.base_run import source_outputs
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.graph import component_edges
from metamodel.circuits.metrics import correct, margin
from metamodel.circuits.prompts import Prompts
from metamodel.config import require
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject
from metamodel.triples.schema import Activation, Behavior, CircuitScores, SubjectInfo, Triple, Truth

ACTIVATION_PROBES = 4
"""Probes on which what each component writes is stored: most of a triple's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardNull:
    """What all subjects of a shard share."""

    tests: Batteries
    labels: LabelNull
    edge_threshold: Float[Tensor, ""]


@torch.no_grad()
def harvest(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    infos: Sequence[SubjectInfo],
    config: HarvestConfig,
    seed: int,
    *,
    truths: Sequence[Truth | None] | None = None,
) -> tuple[Triple, ...]:
    """One triple for each subject of a shard.

    Args:
        subjects: of one shape.
        tasks: each subject's own task, all of one length.
        seed: of the zoo.
        truths: each subject's known circuit, if it has one.

    Raises: InputError if a task cannot supply enough prompts whose clean and corrupt answers differ.
    """
    if not subjects:
        return ()
    assert len(subjects) == len(tasks) == len(infos)
    assert all(s.config == subjects[0].config for s in subjects)
    assert all(t.n_pos == tasks[0].n_pos for t in tasks)
    family, variant = infos[0].family, infos[0].variant
    assert all((info.family, info.variant) == (family, variant) for info in infos)
    any_task = tasks[0].renewed(variant, seed)
    null = shard_null(subjects[0].config, any_task, f"{family}-{variant}", config, seed)
    return tuple(
        harvest_one(subject, task, info, null, config, seed, truth)
        for subject, task, info, truth in zip(
            subjects, tasks, infos, truths or [None] * len(subjects), strict=True
        )
    )


def harvest_one(
    subject: Subject,
    task: Task,
    info: SubjectInfo,
    null: ShardNull,
    config: HarvestConfig,
    seed: int,
    truth: Truth | None = None,
) -> Triple:
    """The triple of one subject, given what its shard shares."""
    prompts = circuit_prompts(task, info.id, config, seed)
    fresh = task_prompts(task, generator_for(seed, info.id, "behavior prompts"), config.n_behavior_prompts)
    probes = task_prompts(task, generator_for(seed, info.id, "probes"), config.n_probes)
    shown = task_prompts(task, generator_for(seed, info.id, "shown"), config.n_shown)
    return Triple(
        info=info,
        subject=subject,
        activation=activation_of(subject, prompts, probes),
        circuit=circuit_of(subject, prompts, null.edge_threshold),
        behavior=behavior_of(subject, prompts, fresh, probes, shown),
        labels=function_labels(subject, prompts, null.tests, null.labels, task.structure(prompts)),
        truth=truth,
    )


def shard_null(subject: SubjectConfig, task: Task, kind: str, config: HarvestConfig, seed: int) -> ShardNull:
    """Batteries over the symbols that a kind of task uses, and what untrained copies score on them.

    Nothing here depends on which subjects share the shard, or one subject's labels would change with its
    neighbours.

    Args:
        subject: shape of the shard's subjects.
        task: any task of this kind: its private truth, if it has one, means nothing to untrained copies.
        kind: name of family and variant, from which the seeds derive.
    """
    prompts = task_prompts(task, generator_for(seed, kind, "null prompts"), config.n_prompts)
    many = task.prompts(generator_for(seed, kind, "symbols"), config.n_behavior_prompts).clean
    tests = batteries(
        generator_for(seed, kind, "batteries"),
        n=config.n_random,
        n_pos=task.n_pos,
        bos=task.bos,
        symbols=task.content(many),
    )
    copies = reinitialised(subject, config.n_null_copies, seed)
    return ShardNull(
        tests=tests,
        labels=label_null(copies, subject, tests, prompts, task.structure(prompts)),
        edge_threshold=edge_null_threshold(copies, subject, prompts),
    )


def task_prompts(task: Task, generator: torch.Generator, n: int) -> Prompts:
    """`n` prompts whose clean and corrupt answers differ: equal answers leave no gap to restore.

    Raises: InputError if fewer than half of what the task samples is of use.
    """
    drawn = task.prompts(generator, n)
    if bool((drawn.answer != drawn.corrupt_answer).all()):
        return drawn
    drawn = task.prompts(generator, 2 * n)
    keep = (drawn.answer != drawn.corrupt_answer).nonzero().squeeze(1)[:n]
    require(
        len(keep) == n,
        f"task.{task.family}.prompts",
        expected=f"{n} of {2 * n} prompts whose corrupt answer differs",
        got=len(keep),
        do="Let the task's corruption change the answer.",
    )
    return drawn.where(keep)


def circuit_prompts(task: Task, id: str, config: HarvestConfig, seed: int) -> Prompts:
    """The prompts on which a triple's edges are scored; a zoo does not hold them.

    Args:
        id: of the triple.
        seed: of the zoo.
    """
    return task_prompts(task, generator_for(seed, id, "circuit prompts"), config.n_prompts)


def circuit_of(subject: Subject, prompts: Prompts, null_threshold: Float[Tensor, ""]) -> CircuitScores:
    """Exact scores of every edge, and the members of the circuit.

    A member exceeds the null and `MIN_EDGE_EFFECT` of what corrupting the whole prompt does to the margin.
    """
    noising = edge_scores(subject, prompts, "noising")
    zero = edge_scores(subject, prompts, "zero")
    rows = torch.arange(len(prompts), device=prompts.clean.device)
    corrupted = subject.run(prompts.corrupt).logits[0, rows, prompts.position]
    whole = noising.clean_margin - margin(corrupted, prompts.answer).mean()
    size = noising.margin.abs()
    member = (size > null_threshold) & (size >= MIN_EDGE_EFFECT * whole.abs())
    edges = component_edges(subject.config)
    ends = torch.tensor([edges.source_node, edges.destination_node], device=size.device)
    node_member = torch.zeros(len(edges.nodes), dtype=torch.bool, device=size.device)
    node_member[ends[:, member].flatten()] = True
    return CircuitScores(
        noising_margin=noising.margin,
        noising_kl=noising.kl,
        zero_margin=zero.margin,
        zero_kl=zero.kl,
        null_threshold=null_threshold,
        member=member,
        node_member=node_member,
    )


def activation_of(subject: Subject, prompts: Prompts, probes: Prompts) -> Activation:
    """What each component of the canonical form writes on clean prompts, and where heads attend."""
    whole, config = canonical(subject), subject.config
    nodes, n = components(config), len(prompts)
    names = ["hook_embed", "hook_pos_embed", f"blocks.{config.n_layers - 1}.hook_resid_post"]
    for layer in range(config.n_layers):
        names += [f"blocks.{layer}.attn.hook_{x}" for x in ("result", "pattern")]
        names += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []
    shown = min(ACTIVATION_PROBES, len(probes))
    run = whole.run(torch.cat([prompts.clean, probes.clean[:shown]]), taps=names)
    taps = {name: value[0] for name, value in run.taps.items()}
    outputs = source_outputs(config, taps)
    outputs = torch.cat([outputs, torch.zeros_like(outputs[:1])])  # the unembedding writes nothing
    written = outputs[:, :n].flatten(1, 2)
    rows = torch.arange(n, device=prompts.clean.device)
    final = taps[f"blocks.{config.n_layers - 1}.hook_resid_post"][rows, prompts.position]
    scale = (final.var(-1, correction=0) + config.eps).sqrt() if config.has_norm else torch.ones_like(rows)
    unembed = whole.weights["unembed.W_U"]
    direction = (unembed[:, prompts.answer] - unembed[:, prompts.corrupt_answer]).T / scale.unsqueeze(-1)
    at_answer = outputs[:, rows, prompts.position]
    heads = {node: i for i, node in enumerate(nodes) if node.kind == "head"}
    n_pos = prompts.clean.shape[1]
    entropy, mean = written.new_zeros(len(nodes)), written.new_zeros(len(nodes), n_pos, n_pos)
    for node, i in heads.items():
        pattern = taps[f"blocks.{node.layer}.attn.hook_pattern"][:n, node.head]
        entropy[i] = torch.special.entr(pattern).sum(-1).mean()
        mean[i] = pattern.mean(0)
    return Activation(
        output_norm=written.square().sum(-1).mean(-1).sqrt(),
        second_moment=written.transpose(1, 2) @ written / written.shape[1],
        pattern_entropy=entropy,
        pattern_mean=mean,
        logit_attribution=torch.einsum("nbm,bm->n", at_answer, direction) / n,
        probe_tokens=probes.clean[:shown],
        probe_outputs=outputs[:, n:].permute(1, 2, 0, 3).contiguous(),
    )


def behavior_of(
    subject: Subject, prompts: Prompts, fresh: Prompts, probes: Prompts, shown: Prompts
) -> Behavior:
    """Answers on fresh prompts and on probes; ablations on the circuit's prompts; `shown` as they are."""
    n = len(fresh)
    position = torch.cat([fresh.position, probes.position])
    rows = torch.arange(len(position), device=position.device)
    logits = subject.run(torch.cat([fresh.clean, probes.clean])).logits[0, rows, position]
    right = correct(logits[:n], fresh.answer).to(logits.dtype)
    in_slice = [right[fresh.slice == i] for i in range(len(fresh.slice_names))]
    answer_log_probability = logits[:n].log_softmax(-1).gather(1, fresh.answer.unsqueeze(1))
    ablation_margin, ablation_kl = ablation_effects(subject, prompts)
    return Behavior(
        accuracy=right.mean(),
        margin=margin(logits[:n], fresh.answer).mean(),
        cross_entropy=-answer_log_probability.mean(),
        slice_accuracy=torch.stack([part.mean() for part in in_slice]),
        slice_names=fresh.slice_names,
        ablation_margin=ablation_margin,
        ablation_kl=ablation_kl,
        probe_tokens=probes.clean,
        probe_position=probes.position,
        probe_answer=logits[n:].argmax(-1),
        probe_right_answer=probes.answer,
        probe_slice=probes.slice,
        shown_tokens=shown.clean,
        shown_position=shown.position,
    )
