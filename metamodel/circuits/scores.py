"""What every circuit method answers, and the one interface that all of them have."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metamodel.circuits.base_run import Intervention, check_intervention
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.graph import ComponentEdges
from metamodel.circuits.metrics import Metric, check_metric
from metamodel.circuits.network import Network, network_of
from metamodel.circuits.prompts import Prompts

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EdgeScores:
    """A number for each edge of a subject: what patching it does to a metric, or an estimate of that.

    Signed: metric(patched) - metric(unpatched). An edge that helps has a negative score under noising, zero
    and mean, a positive one under denoising; of `kl`, larger for worse answers, the other way round.
    """

    edges: ComponentEdges
    method: str
    metric: Metric
    intervention: Intervention
    value: Float[Tensor, " edge"]
    """Mean over prompts."""
    se: Float[Tensor, " edge"]
    """Standard error of that mean over prompts; NaN for one prompt, or for a method that has none."""
    base: float
    """Mean metric of the run in which edges are patched."""
    forwards: float
    """Cost by arithmetic: runs of the whole subject on all prompts; a backward counts as two."""
    per_prompt: Float[Tensor, "edge batch"] | None = None
    """The effect on each prompt, of methods that score prompts one by one."""
    quantity: str = "effect"
    """What the numbers are: `effect` of patching, its `estimate`, a `threshold`, a `norm`, or `random`."""

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def signed(self) -> bool:
        """Whether a sign says if the edge helps the answer."""
        return self.quantity not in ("norm", "random")

    @property
    def size(self) -> Float[Tensor, " edge"]:
        """Magnitude, by which edges are ranked."""
        return self.value.abs()

    def ranking(self) -> Int[Tensor, " edge"]:
        """Indices of edges, most important first; ties in canonical order."""
        return self.size.argsort(descending=True, stable=True)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row an edge, most important first: source, destination, channel, value, se."""
        import pandas

        edges = self.edges.edges
        rows = [
            {
                "source": edges[i].source.name,
                "destination": edges[i].destination.component.name,
                "channel": edges[i].destination.channel,
                "value": float(self.value[i]),
                "se": float(self.se[i]),
            }
            for i in self.ranking().tolist()
        ]
        return pandas.DataFrame(rows)


class EdgeMethod(ABC):
    """A way to score every edge. Leaves are frozen dataclasses whose fields are the method's settings."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables."""

    @abstractmethod
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        """The scores; metric and intervention are known ones."""

    def score(
        self,
        network: Network | nn.Module,
        prompts: Prompts,
        metric: str = "margin",
        intervention: str = "noising",
    ) -> EdgeScores:
        """Scores of every edge of `component_edges(network.config)`.

        Args:
            network: a subject, or a TransformerBridge whose blocks are pre-norm.
            metric: one of `metrics.METRICS`.
            intervention: one of `base_run.INTERVENTIONS`.

        Raises: InputError if the prompts do not fit the network, clean and corrupt answers agree, the network
        is post-norm, or the method cannot take this metric, with the reason.
        """
        chosen, how = check_metric(metric), check_intervention(intervention)
        return self._score(network_of(network), prompts, chosen, how)

    def scores_of(
        self,
        run: EdgeRun,
        per_prompt: Float[Tensor, "edge batch"],
        *,
        metric: Metric,
        intervention: Intervention,
        forwards: float,
        quantity: str = "effect",
    ) -> EdgeScores:
        """Scores from the effect on each prompt."""
        assert per_prompt.shape[0] == len(run.edges)
        return EdgeScores(
            edges=run.edges,
            method=self.name,
            metric=metric,
            intervention=intervention,
            value=per_prompt.mean(-1),
            se=standard_error(per_prompt),
            base=float(run.measure(metric)(run.logits).mean()),
            forwards=forwards,
            per_prompt=per_prompt,
            quantity=quantity,
        )


def standard_error(x: Float[Tensor, "*rest batch"]) -> Float[Tensor, "*rest"]:
    """Standard error of the mean over prompts; NaN for a single one."""
    n = x.shape[-1]
    return x.std(-1) / math.sqrt(n) if n > 1 else torch.full_like(x[..., 0], torch.nan)
