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
from torch import Tensor, nn

from metamodel.circuits.base_run import Intervention, check_intervention
from metamodel.circuits.graph import Destination, component_edges, reading_stage, stage_of
from metamodel.circuits.metrics import Metric, check_metric
from metamodel.circuits.network import Network, edge_run, network_of
from metamodel.circuits.nodes import Node, check_nodes, component_of
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import standard_error
from metamodel.circuits.writers import Writers
from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig

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


@torch.no_grad()
def path_patch(
    network: Network | nn.Module,
    prompts: Prompts,
    sender: Node,
    receivers: Sequence[Destination],
    metric: str = "margin",
    intervention: str = "noising",
) -> PathScore:
    """Effect of the direct paths from a node to some destinations, patched together.

    Args:
        network: a subject, or a TransformerBridge whose blocks are pre-norm.
        metric: one of `metrics.METRICS`.
        intervention: one of `base_run.INTERVENTIONS`.

    Raises: InputError if prompts, sender or receivers do not fit the network, a receiver comes before the
    sender, clean and corrupt answers agree, or the network is post-norm.
    """
    chosen, how, whole = check_metric(metric), check_intervention(intervention), network_of(network)
    check_nodes(whole, [sender])
    _check_receivers(whole.config, sender, receivers)
    run = edge_run(whole, prompts, how)
    measure = run.measure(chosen)
    effect = reference = measure(run.logits)
    delta = Writers.of(run, [sender]).delta([sender])[0]
    if delta.any():
        effect = measure(run.received_logits(delta, receivers, stage_of(component_of(sender))))
    effect = effect - reference
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
            stage_of(component_of(sender)) <= reading_stage(receiver, config),
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
    network: Network | nn.Module,
    prompts: Prompts,
    nodes: Sequence[Node],
    metric: str = "margin",
    intervention: str = "noising",
    *,
    freeze_norm: bool = False,
) -> NodeEdgeScores:
    """Every edge from each node to each destination behind it, patched alone; exact, as `Exact` is.

    Args:
        network: a subject, or a TransformerBridge whose blocks are pre-norm.
        metric: one of `metrics.METRICS`.
        intervention: one of `base_run.INTERVENTIONS`.
        freeze_norm: whether LayerNorms keep the scales of the unpatched run.

    Raises: InputError if prompts or nodes do not fit the network, clean and corrupt answers agree, or the
    network is post-norm.
    """
    chosen, how, whole = check_metric(metric), check_intervention(intervention), network_of(network)
    check_nodes(whole, nodes)
    run = edge_run(whole, prompts, how, freeze_norm=freeze_norm)
    measure, writers = run.measure(chosen), Writers.of(run, nodes)
    destinations = run.edges.destinations
    stages = [stage_of(component_of(node)) for node in nodes]
    order = sorted(range(len(nodes)), key=stages.__getitem__)
    size = max(1, _NODES_AT_ONCE // run.outputs[0].numel())
    found: dict[tuple[int, int], Tensor] = {}
    for first in range(0, len(order), size):
        group = order[first : first + size]
        stage = torch.tensor([stages[i] for i in group], device=run.outputs.device)
        delta = writers.delta([nodes[i] for i in group])
        effects = run.source_effects([measure], delta, stage)[0]
        edges = [
            (i, j)
            for j, destination in enumerate(destinations)
            for i in group
            if stages[i] <= reading_stage(destination, run.config)
        ]
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
