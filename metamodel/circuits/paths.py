"""Path patching: a node is changed for some of its readers only, and all behind them is recomputed.

Only the direct paths from the sender to the named receivers carry the change; what other readers see of the
sender is as in the base run. Everything that the receivers feed is recomputed, receivers that come later
included. So one receiver gives the score of that edge, and all receivers together give the node's ablation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.circuits.base_run import BaseRun, Intervention, base_run, check_intervention
from metamodel.circuits.graph import Destination, component_edges
from metamodel.circuits.metrics import Metric, check_metric
from metamodel.circuits.nodes import Node, check_nodes, stage_of
from metamodel.circuits.prompts import Prompts, check_answers_differ
from metamodel.circuits.scores import standard_error
from metamodel.circuits.sweep import source_effects
from metamodel.circuits.writers import Writers
from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import run_blocks
from metamodel.subjects.subject import Subject

if TYPE_CHECKING:
    import pandas

_NODES_AT_ONCE = 4_000_000
"""Numbers in what the nodes of one group write."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathScore:
    """metric(patched) - metric(unpatched) of the direct paths from a sender to its receivers."""

    sender: Node
    receivers: tuple[Destination, ...]
    intervention: Intervention
    metric: Metric
    value: float
    """Mean over prompts."""
    se: float
    """Standard error of that mean; NaN for one prompt."""
    per_prompt: Float[Tensor, " batch"]
    base: float
    """Mean metric of the base run."""


def _reads(destination: Destination, stage: int) -> bool:
    """Whether a destination reads what has been written by a stage (`metamodel.circuits.nodes.stage_of`)."""
    match destination.channel:
        case "logits":
            return True
        case "in":
            return stage <= 2 * destination.component.layer + 1
    return stage <= 2 * destination.component.layer


@torch.no_grad()
def path_patch(
    subject: Subject,
    prompts: Prompts,
    sender: Node,
    receivers: Sequence[Destination],
    metric: str = "margin",
    intervention: str = "noising",
) -> PathScore:
    """Effect of the direct paths from a node to some destinations, patched together.

    Args:
        metric: one of `metrics.METRICS`.
        intervention: one of `base_run.INTERVENTIONS`.

    Raises: InputError if prompts, sender or receivers do not fit the subject, a receiver comes before the
    sender, clean and corrupt answers agree, or the subject is post-norm.
    """
    chosen, how = check_metric(metric), check_intervention(intervention)
    check_nodes(subject, [sender])
    _check_receivers(subject.config, sender, receivers)
    run = base_run(subject, prompts, how)
    check_answers_differ(prompts)
    measure = run.measure(chosen)
    reference = measure(run.logits)
    delta = Writers.of(subject, run, [sender], how).delta([sender])[0]
    effect = measure(_logits(run, delta, receivers)) - reference if delta.any() else reference * 0
    return PathScore(
        sender=sender,
        receivers=tuple(receivers),
        intervention=how,
        metric=chosen,
        value=float(effect.mean()),
        se=float(standard_error(effect)),
        per_prompt=effect,
        base=float(reference.mean()),
    )


def _logits(
    run: BaseRun, delta: Float[Tensor, "batch pos d_model"], receivers: Sequence[Destination]
) -> Float[Tensor, "ask d_vocab"]:
    """Answer logits where only some destinations see a change; runs from the first block of them on."""
    c, addends = run.config, {}
    layers = [r.component.layer for r in receivers if r.channel != "logits"]
    for receiver in receivers:
        if receiver.channel in ("q", "k", "v"):
            blank = delta.new_zeros(1, *delta.shape[:2], c.n_heads, c.d_model)
            addend = addends.setdefault(receiver.site, blank)
            addend[0, :, :, receiver.component.head] = delta
        else:
            addends[receiver.site] = delta.unsqueeze(0)
    first = min(layers, default=c.n_layers)
    last = c.n_layers - 1
    name = f"blocks.{first}.hook_resid_pre" if layers else f"blocks.{last}.hook_resid_post"
    made = run_blocks(run.subject.stacked, c, run.taps[name].unsqueeze(0), first_layer=first, addends=addends)
    return run.suffix.at_answer(made.logits[0])


def _check_receivers(config: SubjectConfig, sender: Node, receivers: Sequence[Destination]) -> None:
    require(
        len(receivers) > 0,
        "receivers",
        expected="at least one destination",
        got="none",
        do="Name what reads the sender, such as component_edges(subject.config).destinations.",
    )
    known = component_edges(config).destinations
    for i, receiver in enumerate(receivers):
        where = f"receivers[{i}]"
        if receiver not in known:
            do = "Choose among component_edges(subject.config).destinations."
            raise InputError(where, expected="a destination of the subject", got=receiver.name, do=do)
        require(
            _reads(receiver, stage_of(sender)),
            where,
            expected=f"a destination behind {sender.name}",
            got=f"{receiver.name}, which comes before it",
            do="Name later ones.",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeEdgeScores:
    """A number for each edge from a node of any grain to a destination that reads it, signed as edges are."""

    nodes: tuple[Node, ...]
    destinations: tuple[Destination, ...]
    source: Int[Tensor, " edge"]
    """Index into `nodes`; edges run by node, then by destination."""
    destination: Int[Tensor, " edge"]
    """Index into `destinations`."""
    intervention: Intervention
    metric: Metric
    value: Float[Tensor, " edge"]
    """Mean over prompts."""
    se: Float[Tensor, " edge"]
    """Standard error of that mean over prompts; NaN for one prompt."""
    base: float
    """Mean metric of the run in which edges are patched."""

    def __len__(self) -> int:
        return len(self.value)

    def ranking(self) -> Int[Tensor, " edge"]:
        """Indices of edges, largest effect first."""
        return self.value.abs().argsort(descending=True, stable=True)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row an edge, largest effect first: source, destination, channel, value, se."""
        import pandas

        rows = []
        for i in self.ranking().tolist():
            reader = self.destinations[int(self.destination[i])]
            rows.append(
                {
                    "source": self.nodes[int(self.source[i])].name,
                    "destination": reader.component.name,
                    "channel": reader.channel,
                    "value": float(self.value[i]),
                    "se": float(self.se[i]),
                }
            )
        return pandas.DataFrame(rows)


@torch.no_grad()
def node_edge_scores(
    subject: Subject,
    prompts: Prompts,
    nodes: Sequence[Node],
    metric: str = "margin",
    intervention: str = "noising",
    *,
    freeze_norm: bool = False,
) -> NodeEdgeScores:
    """Every edge from each node to each destination behind it, patched alone; exact, as `Exact` is.

    Args:
        metric: one of `metrics.METRICS`.
        intervention: one of `base_run.INTERVENTIONS`.
        freeze_norm: whether LayerNorms keep the scales of the unpatched run.

    Raises: InputError if prompts or nodes do not fit the subject, clean and corrupt answers agree, or the
    subject is post-norm.
    """
    chosen, how = check_metric(metric), check_intervention(intervention)
    check_nodes(subject, nodes)
    run = base_run(subject, prompts, how, freeze_norm=freeze_norm)
    check_answers_differ(prompts)
    measure = run.measure(chosen)
    writers = Writers.of(subject, run, nodes, how)
    destinations = component_edges(subject.config).destinations
    order = sorted(range(len(nodes)), key=lambda i: stage_of(nodes[i]))
    size = max(1, _NODES_AT_ONCE // run.outputs[0].numel())
    found: dict[tuple[int, int], Tensor] = {}
    for first in range(0, len(order), size):
        group = order[first : first + size]
        stages = torch.tensor([stage_of(nodes[i]) for i in group], device=run.outputs.device)
        delta = writers.delta([nodes[i] for i in group])
        effects = source_effects(run, [measure], delta, stages)[0]
        edges = [(i, j) for j, d in enumerate(destinations) for i in group if _reads(d, stage_of(nodes[i]))]
        assert len(edges) == len(effects)
        found |= dict(zip(edges, effects, strict=True))
    edges = sorted(found)
    effect = torch.stack([found[edge] for edge in edges])
    return NodeEdgeScores(
        nodes=tuple(nodes),
        destinations=destinations,
        source=torch.tensor([i for i, _ in edges]),
        destination=torch.tensor([j for _, j in edges]),
        intervention=how,
        metric=chosen,
        value=effect.mean(-1),
        se=standard_error(effect),
        base=float(measure(run.logits).mean()),
    )
