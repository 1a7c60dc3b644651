"""How well a circuit does alone: curves over its size, what is left without it, and how stable it is.

A circuit is run alone: its edges carry what flows in the run, all others their patch
(`metamodel.circuits.masked`). With m(C) the metric of that run, M all edges and ∅ none,

    f(C) = (m(C) - m(∅)) / (m(M) - m(∅))

is the share of the effect that C recovers: 1 for a faithful one; below 0 and above 1 are possible. CPR = ∫ f
and CMD = ∫ |1 - f| over the share of edges (Mueller et al. 2025, MIB) give half of their weight to circuits
of more than half the subject; on a logarithmic axis small ones count as much. No curve holds the empty set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.circuits.base_run import check_intervention
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.graph import ComponentEdges
from metamodel.circuits.metrics import Measure, check_metric
from metamodel.circuits.network import Network, edge_run, network_of
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require

_MASKS = 64
"""Circuits whose logits are held at once."""
SMALLEST_GAP = 1e-6
"""Difference of a metric, with and without all edges, below which there is nothing to recover."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Circuits of the k most important edges, for k = 1, 2, 3, 5, 8, … and all."""

    sizes: tuple[int, ...]
    recovered: Float[Tensor, " size"]
    """f of each circuit."""
    complement: Float[Tensor, " size"]
    """f of all other edges: 0 where the circuit is complete, 1 where the rest does as well without it."""
    kl_median: Float[Tensor, " size"]
    kl_high: Float[Tensor, " size"]
    """Median and 95th percentile over prompts of KL(clean ‖ circuit), nats: means hide prompts that fail."""
    full: float
    """m(M)."""
    empty: float
    """m(∅)."""

    @property
    def cpr(self) -> float:
        """∫ f over the share of edges, from one edge to all, divided by the length of the axis."""
        return _area(self.recovered, [float(k) for k in self.sizes])

    @property
    def cmd(self) -> float:
        """∫ |1 - f|, likewise; 0 is best."""
        return _area((1 - self.recovered).abs(), [float(k) for k in self.sizes])

    @property
    def cpr_log(self) -> float:
        """As `cpr`, on a logarithmic axis."""
        return _area(self.recovered, torch.tensor(self.sizes).double().log().tolist())

    @property
    def cmd_log(self) -> float:
        """As `cmd`, on a logarithmic axis."""
        return _area((1 - self.recovered).abs(), torch.tensor(self.sizes).double().log().tolist())


def _area(value: Float[Tensor, " size"], axis: Sequence[float]) -> float:
    """Mean height under the trapezoids."""
    x = torch.tensor(axis, dtype=torch.float64)
    return float(torch.trapezoid(value.double().cpu(), x) / (x[-1] - x[0]))


def curve_sizes(n_edges: int) -> tuple[int, ...]:
    """1, 2, 3, 5, 8, … (Fibonacci) below `n_edges`, and `n_edges`."""
    found, following = [1], 2
    while following < n_edges:
        found.append(following)
        following = found[-1] + found[-2]
    return (*found, n_edges) if n_edges > 1 else (1,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CircuitRunner:
    """Runs circuits of one network on fixed prompts."""

    run: EdgeRun
    measure: Measure
    full: float
    """m(M)."""
    empty: float
    """m(∅)."""

    @classmethod
    def of(
        cls,
        network: Network | nn.Module,
        prompts: Prompts,
        metric: str = "margin",
        intervention: str = "noising",
    ) -> "CircuitRunner":
        """Circuits run on clean prompts; for `denoising`, which patches the inside, as for `noising`.

        Raises: InputError if the prompts do not fit, their answers agree, or patching all edges leaves the
            metric as it is.
        """
        how = check_intervention(intervention)
        run = edge_run(network_of(network), prompts, "noising" if how == "denoising" else how)
        measure = run.measure(check_metric(metric))
        none = torch.zeros(1, len(run.edges), dtype=torch.bool, device=run.logits.device)
        full, empty = float(measure(run.logits).mean()), float(measure(run.masked_logits(none)).mean())
        require(
            abs(full - empty) > SMALLEST_GAP,
            "prompts",
            expected=f"a {metric} that changes when all edges are patched",
            got=f"{full:.4g} with and without",
            do="Corrupt what the answer depends on, or choose another metric.",
        )
        return cls(run=run, measure=measure, full=full, empty=empty)

    @property
    def edges(self) -> ComponentEdges:
        return self.run.edges

    @property
    def backwards(self) -> bool:
        """Whether patching everything makes the answer better: then there is no behavior to explain."""
        return (self.full < self.empty) != (self.measure.metric == "kl")

    @torch.no_grad()
    def values(self, kept: Bool[Tensor, "mask edge"]) -> Float[Tensor, "mask batch"]:
        """The metric of each circuit, run alone, on each prompt."""
        return torch.cat([self.measure(self.run.masked_logits(part)) for part in kept.split(_MASKS)])

    def share(self, value: Float[Tensor, " mask"]) -> Float[Tensor, " mask"]:
        """f of mean metrics."""
        return (value - self.empty) / (self.full - self.empty)

    def recovered(self, kept: Bool[Tensor, "mask edge"]) -> Float[Tensor, " mask"]:
        """f of each circuit."""
        return self.share(self.values(kept).mean(-1))

    @torch.no_grad()
    def divergence(self, kept: Bool[Tensor, "mask edge"]) -> Float[Tensor, "mask batch"]:
        """KL(clean ‖ circuit) on each prompt, in nats."""
        return self.run.measure("kl")(self.run.masked_logits(kept))

    @torch.no_grad()
    def curve(self, ranking: Int[Tensor, " edge"]) -> Curve:
        """Circuits of the first edges of a ranking of all edges, most important first."""
        n = len(self.edges)
        assert sorted(ranking.tolist()) == list(range(n)), "a ranking names each edge once"
        sizes = curve_sizes(n)
        kept = torch.stack([first_edges(ranking, k) for k in sizes])
        logits = self.run.masked_logits(kept)
        kl = self.run.measure("kl")(logits)
        return Curve(
            sizes=sizes,
            recovered=self.share(self.measure(logits).mean(-1)),
            complement=self.recovered(~kept),
            kl_median=kl.quantile(0.5, dim=-1),
            kl_high=kl.quantile(0.95, dim=-1),
            full=self.full,
            empty=self.empty,
        )


def first_edges(ranking: Int[Tensor, " edge"], k: int) -> Bool[Tensor, " edge"]:
    """The first k edges of a ranking, as a set."""
    kept = torch.zeros(len(ranking), dtype=torch.bool, device=ranking.device)
    kept[ranking[:k]] = True
    return kept
