"""A circuit: the edges that a behavior needs, how well they do alone, and ways to look at them.

circuit = discover(subject, prompts)
circuit.to_pandas(); circuit.to_networkx(); circuit.plot().savefig("circuit.png")
"""

import json
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.circuits.exact import Exact
from metamodel.circuits.faithfulness import CircuitRunner, Curve, first_edges
from metamodel.circuits.graph import Edge
from metamodel.circuits.network import Network, network_of
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.pruning import without_dangling
from metamodel.circuits.quality import Redundancy, redundant, stability
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.config.errors import require

if TYPE_CHECKING:
    import networkx
    import pandas
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1
"""Of a circuit's JSON."""
BACKWARDS = "patching everything makes the answer better: these prompts show no behavior to explain"
_SIZES = 64
"""Circuits that are run at once in search of a size."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Circuit:
    """Edges that recover a behavior of one subject on given prompts."""

    subject: str
    kept: Bool[Tensor, " edge"]
    """Members among `scores.edges`."""
    scores: EdgeScores
    """Of all edges of the subject, members or not."""
    curve: Curve
    """Faithfulness of the first edges of the scores' ranking."""
    recovered: float
    """Share of the effect that the members recover when they run alone."""
    complement: float
    """Share that all other edges recover; large where backups or other paths stand in."""
    kl: Float[Tensor, " batch"]
    """KL(clean ‖ circuit) of each prompt, nats."""
    redundancy: Redundancy
    """Members that the others do as well without, and the bar of that."""
    stability: float
    """Mean Jaccard overlap of circuits of this size over bootstrap resamples of the prompts; NaN for a method
    that does not score prompts one by one."""
    notes: tuple[str, ...] = ()
    """What to know before believing the numbers."""

    def __len__(self) -> int:
        return int(self.kept.sum())

    @property
    def members(self) -> tuple[Edge, ...]:
        """Most important first."""
        edges = self.scores.edges.edges
        return tuple(edges[i] for i in self.scores.ranking().tolist() if self.kept[i])

    @property
    def redundant_share(self) -> float:
        """Share of the members that are redundant, one at a time."""
        return float(self.redundancy.edge.sum()) / max(1, len(self))

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a member, most important first: source, destination, channel, value, se, redundant."""
        table = self.scores.to_pandas()
        order = self.scores.ranking()
        table["redundant"] = self.redundancy.edge[order].tolist()
        return table.loc[self.kept[order].tolist()].reset_index(drop=True)

    def to_networkx(self) -> "networkx.MultiDiGraph":
        """Components as nodes (kind, layer, head), members as edges whose key is the channel (value, se)."""
        import networkx

        graph = networkx.MultiDiGraph(subject=self.subject)
        for i in self.kept.nonzero().squeeze(1).tolist():
            edge = self.scores.edges.edges[i]
            for node in (edge.source, edge.destination.component):
                graph.add_node(node.name, kind=node.kind, layer=node.layer, head=node.head)
            graph.add_edge(
                edge.source.name,
                edge.destination.component.name,
                key=edge.destination.channel,
                value=float(self.scores.value[i]),
                se=float(self.scores.se[i]),
            )
        return graph

    def plot(self) -> "Figure":
        """A picture: inputs at the bottom, logits on top, blue edges help the answer, red ones hurt it."""
        from metamodel.circuits.picture import draw

        return draw(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the circuit, its faithfulness, its curve, and the scores of all edges."""
        edges = self.scores.edges.edges
        return {
            "schema_version": SCHEMA_VERSION,
            "subject": self.subject,
            "notes": list(self.notes),
            "method": self.scores.method,
            "quantity": self.scores.quantity,
            "metric": self.scores.metric,
            "intervention": self.scores.intervention,
            "n_prompts": len(self.kl),
            "n_edges": len(self),
            "n_edges_of_subject": len(edges),
            "recovered": self.recovered,
            "complement": self.complement,
            "kl_median": float(self.kl.quantile(0.5)),
            "kl_95": float(self.kl.quantile(0.95)),
            "redundant_share": self.redundant_share,
            "redundancy_bar": self.redundancy.bar,
            "stability": _finite(self.stability),
            "forwards": self.scores.forwards,
            "curve": {
                "sizes": list(self.curve.sizes),
                "recovered": self.curve.recovered.tolist(),
                "complement": self.curve.complement.tolist(),
                "kl_median": self.curve.kl_median.tolist(),
                "kl_95": self.curve.kl_high.tolist(),
                "cpr": self.curve.cpr,
                "cmd": self.curve.cmd,
                "cpr_log": self.curve.cpr_log,
                "cmd_log": self.curve.cmd_log,
                "full": self.curve.full,
                "empty": self.curve.empty,
            },
            "edges": [
                {
                    "source": edges[i].source.name,
                    "destination": edges[i].destination.component.name,
                    "channel": edges[i].destination.channel,
                    "value": float(self.scores.value[i]),
                    "se": _finite(float(self.scores.se[i])),
                    "member": bool(self.kept[i]),
                    "redundant": bool(self.redundancy.edge[i]),
                }
                for i in self.scores.ranking().tolist()
            ],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None


def discover(
    network: Network | nn.Module,
    prompts: Prompts,
    *,
    metric: str = "margin",
    intervention: str = "noising",
    method: EdgeMethod | None = None,
    faithful: float = 0.9,
    n_edges: int | None = None,
    seed: int = 0,
) -> Circuit:
    """The first edges of a method's ranking that recover a share of the effect.

    Sizes are those of the curve, and then each one between the last that fell short and the first that did
    not. Under noising and denoising, edges along which nothing can flow are dropped, which changes no logit.

    Args:
        network: a subject, or a TransformerBridge whose blocks are pre-norm.
        metric, intervention: see `metrics.Metric` and `base_run`; the circuit runs with the rest patched.
        method: how edges are scored; exact patching of every edge by default.
        faithful: share of the effect that the circuit must recover.
        n_edges: takes at least this many edges instead, counted without those that are dropped.
        seed: of the bootstrap and of the random edges that set the bar of redundant ones.

    Raises: InputError if the prompts do not fit the subject, their clean and corrupt answers agree, patching
        everything changes nothing, or a setting is out of range.
    """
    require(0 < faithful <= 1, "faithful", expected="above 0, at most 1", got=faithful, do="Take 0.9.")
    subject = network_of(network)
    scores = (method or Exact()).score(subject, prompts, metric, intervention)
    n = len(scores)
    require(
        n_edges is None or 1 <= n_edges <= n,
        "n_edges",
        expected=f"1 to {n}, the edges of {subject.name}",
        got=n_edges,
        do="Leave it out to take as many as are needed.",
    )
    runner = CircuitRunner.of(subject, prompts, metric, intervention)
    ranking, prunes = scores.ranking(), intervention in ("noising", "denoising")

    def circuit_of(k: int) -> Bool[Tensor, " edge"]:
        """The first k edges, without dangling ones and those that the network lacks."""
        kept = first_edges(ranking, k) & runner.run.exists
        return without_dangling(scores.edges, kept) if prunes else kept

    curve = runner.curve(ranking)
    if n_edges is None:
        size = _sufficient(runner, ranking, curve, faithful)
    else:  # adding edges brings others to life and never kills one, so that counts grow with the size
        wanted = min(n_edges, int(circuit_of(n).sum()))
        size = bisect_left(range(n + 1), wanted, key=lambda k: int(circuit_of(k).sum()))
    kept = circuit_of(size)
    both = runner.recovered(torch.stack([kept, ~kept]))
    generator = torch.Generator().manual_seed(seed)
    overlap = float("nan")
    if scores.per_prompt is not None:
        pruned = scores.edges if prunes else None
        overlap = stability(scores.per_prompt, size, generator=generator, pruned=pruned)
    notes = (BACKWARDS,) if runner.backwards else ()
    return Circuit(
        subject=subject.name,
        kept=kept,
        scores=scores,
        curve=curve,
        recovered=float(both[0]),
        complement=float(both[1]),
        kl=runner.divergence(kept.unsqueeze(0))[0],
        redundancy=redundant(runner, kept, generator=generator),
        stability=overlap,
        notes=notes,
    )


def _sufficient(runner: CircuitRunner, ranking: Int[Tensor, " edge"], curve: Curve, faithful: float) -> int:
    """Size of the first circuit that recovers enough, behind the last size of the curve that does not."""
    enough = [k for k, f in zip(curve.sizes, curve.recovered.tolist(), strict=True) if f >= faithful]
    upper = enough[0] if enough else len(ranking)
    lower = max((k for k in curve.sizes if k < upper), default=0)
    for first in range(lower + 1, upper, _SIZES):
        sizes = range(first, min(first + _SIZES, upper))
        recovered = runner.recovered(torch.stack([first_edges(ranking, k) for k in sizes]))
        for k, f in zip(sizes, recovered.tolist(), strict=True):
            if f >= faithful:
                return k
    return upper
