"""Exact score of every node: the node is changed for all its readers at once, and the answer is recomputed.

    ablate               clean prompts, on which the node carries its patch: what it writes on the corrupt
                         prompt (noising), its mean over clean prompts, or nothing (zero)
    restore              corrupt prompts, on which the node carries what it writes on the clean one
    project_out          a direction is removed from what its component writes: its zero ablation
    project_out_stream   a direction is removed from the whole residual stream, right behind its component,
                         for all that reads it later, whoever wrote it; later components may write it anew

Of a subject only what comes behind a node runs, a bridge runs whole; many nodes run at once. Noising, mean
and restoring are gauge-invariant; so is zero ablation, on the folded subject as through hooks. Position
embeddings say the same on both prompts of a pair, so that noising, restoring and mean ablation of them are
exactly zero; only zero ablation sees them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metamodel.circuits.base_run import Intervention, check_intervention
from metamodel.circuits.directions import Direction, projection
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.graph import stage_of
from metamodel.circuits.metrics import Measure, Metric, check_metric
from metamodel.circuits.network import Network, edge_run, network_of
from metamodel.circuits.nodes import Node, check_nodes, component_of
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import standard_error
from metamodel.circuits.writers import Writers
from metamodel.config.errors import require, require_one_of
from metamodel.subjects.config import SubjectConfig

if TYPE_CHECKING:
    import pandas

Action = Literal["ablate", "restore", "project_out", "project_out_stream"]
ACTIONS: tuple[Action, ...] = get_args(Action)
_NODES_AT_ONCE = 4_000_000
"""Numbers in what the nodes of one group write."""
_INTERVENTIONS: dict[Action, tuple[Intervention, ...]] = {
    "ablate": ("noising", "zero", "mean"),
    "restore": ("denoising",),
    "project_out": ("zero",),
    "project_out_stream": ("zero",),
}
"""What a node can carry under each action; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeScores:
    """A number for each node: metric(node changed) - metric(unchanged), signed."""

    nodes: tuple[Node, ...]
    action: Action
    intervention: Intervention
    metric: Metric
    value: Float[Tensor, " node"]
    """Mean over prompts. What helps is negative when ablated, positive when restored; of `kl` reversed."""
    se: Float[Tensor, " node"]
    """Standard error of that mean over prompts; NaN for one prompt."""
    base: float
    """Mean metric of the run in which nodes are changed."""

    def __len__(self) -> int:
        return len(self.nodes)

    def ranking(self) -> Int[Tensor, " node"]:
        """Indices of nodes, largest effect first; ties in the order given."""
        return self.value.abs().argsort(descending=True, stable=True)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a node, largest effect first: node, component, value, se."""
        import pandas

        rows = [
            {
                "node": self.nodes[i].name,
                "component": component_of(self.nodes[i]).name,
                "value": float(self.value[i]),
                "se": float(self.se[i]),
            }
            for i in self.ranking().tolist()
        ]
        return pandas.DataFrame(rows)


@torch.no_grad()
def node_scores(
    network: Network | nn.Module,
    prompts: Prompts,
    nodes: Sequence[Node],
    metric: str = "margin",
    intervention: str | None = None,
    action: str = "ablate",
    *,
    freeze_norm: bool = False,
) -> NodeScores:
    """Scores of nodes, each changed alone.

    Args:
        network: a subject, or a TransformerBridge whose blocks are pre-norm.
        metric: one of `metrics.METRICS`.
        intervention: what a changed node carries: noising, zero or mean to ablate (by default noising),
            denoising to restore, zero to project out.
        action: one of `ACTIONS`.
        freeze_norm: whether LayerNorms keep the scales of the unchanged run.

    Raises: InputError if prompts or nodes do not fit the network, clean and corrupt answers agree, the
    network is post-norm, the action does not know the intervention, or something else than a direction is
    projected out.
    """
    chosen, how, whole = check_metric(metric), _check_action(action), network_of(network)
    carried = _check_carried(how, intervention)
    check_nodes(whole, nodes)
    for i, node in enumerate(nodes):
        require(
            how in ("ablate", "restore") or isinstance(node, Direction),
            f"nodes[{i}]",
            expected=f"a Direction to {how}",
            got=node.name,
            do="Use action='ablate'.",
        )
    run = edge_run(whole, prompts, carried, freeze_norm=freeze_norm)
    measure = run.measure(chosen)
    effect = _effects(run, measure, nodes, in_stream=how == "project_out_stream")
    return NodeScores(
        nodes=tuple(nodes),
        action=how,
        intervention=carried,
        metric=chosen,
        value=effect.mean(-1),
        se=standard_error(effect),
        base=float(measure(run.logits).mean()),
    )


def _check_action(name: str) -> Action:
    require_one_of(name, ACTIONS, "action")
    return cast(Action, name)


def _check_carried(action: Action, intervention: str | None) -> Intervention:
    allowed = _INTERVENTIONS[action]
    carried = allowed[0] if intervention is None else check_intervention(intervention)
    require(
        carried in allowed,
        "intervention",
        expected=f"{' or '.join(allowed)} to {action}",
        got=repr(carried),
        do="Leave it out." if len(allowed) == 1 else "Use action='restore' for denoising.",
    )
    return carried


def _effects(
    run: EdgeRun, measure: Measure, nodes: Sequence[Node], *, in_stream: bool
) -> Float[Tensor, "node batch"]:
    """Nodes that are computed at one stage run together."""
    writers, effect = Writers.of(run, nodes), run.outputs.new_zeros(len(nodes), len(run.prompts))
    by_stage: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        by_stage.setdefault(stage_of(component_of(node)), []).append(i)
    size = max(1, _NODES_AT_ONCE // run.outputs[0].numel())
    for stage, group in by_stage.items():
        for first in range(0, len(group), size):
            chosen = group[first : first + size]
            part = [nodes[i] for i in chosen]
            delta = _out_of(run.stream(stage), part, run.config) if in_stream else writers.delta(part)
            effect[chosen] = run.node_effects(measure, [component_of(node) for node in part], delta)
    return effect


def _out_of(
    resid: Float[Tensor, "batch pos d_model"], nodes: Sequence[Node], config: SubjectConfig
) -> Float[Tensor, "node batch pos d_model"]:
    """What removes each direction from the residual stream."""
    removed = []
    for node in nodes:
        assert isinstance(node, Direction)
        basis = projection((node,), config, node.name).to(resid.dtype)
        removed.append(-(resid @ basis.T @ basis))
    return torch.stack(removed)
