"""ACDC (Conmy et al. 2023): edges are dropped one after another, from the logits back to the embeddings.

An edge stays out if dropping it, on top of all that has been dropped so far, moves the metric for the worse
by less than a threshold. Destinations run from the last to the first; for each of them sources run from the
latest to the embeddings. All thresholds run side by side as one batch of masks, equal masks once, and only
what comes after the edge's destination, since nothing before it has been dropped yet.

`for the worse` is the way in which patching what matters moves the metric: up for KL and down for the others,
the reverse under denoising, where patching restores the answer.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.circuits.base_run import Intervention, check_intervention
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.graph import reading_stage
from metamodel.circuits.metrics import Metric, check_metric
from metamodel.circuits.network import Network, edge_run, network_of
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.config.errors import require

THRESHOLDS = tuple(10.0 ** (i / 4) for i in range(-16, 5))
"""From 1e-4 to 10 nats or logits, four a decade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ACDC(EdgeMethod):
    """Greedy circuits at many thresholds. An edge's score is the largest threshold at which it survives.

    Its sign is that of the change for the worse, so that it compares with other methods; edges that survive
    nowhere score 0, and edges that fall between the same thresholds tie. There is no standard error.
    """

    thresholds: tuple[float, ...] = THRESHOLDS
    """Changes of the metric below which an edge is dropped; positive, in the metric's unit."""
    freeze_norm: bool = False
    """Whether LayerNorms keep the scales of the base run."""

    def __post_init__(self):
        require(
            len(self.thresholds) > 0 and min(self.thresholds) > 0,
            "ACDC.thresholds",
            expected="one or more positive thresholds",
            got=self.thresholds,
            do="Conmy et al. use 0.01 to 1 nat.",
        )

    @property
    def name(self) -> str:
        return "acdc_frozen_norm" if self.freeze_norm else "acdc"

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        run = edge_run(network, prompts, intervention, freeze_norm=self.freeze_norm)
        survives, forwards = self._sweep(run, metric, intervention)
        threshold = run.logits.new_tensor(self.thresholds).unsqueeze(1)
        value = _worse(metric, intervention) * (survives * threshold).amax(0)
        return EdgeScores(
            edges=run.edges,
            method=self.name,
            metric=metric,
            intervention=intervention,
            value=value,
            se=torch.full_like(value, torch.nan),
            base=float(run.measure(metric)(run.logits).mean()),
            forwards=run.n_runs + forwards,
            quantity="threshold",
        )

    @torch.no_grad()
    def circuits(
        self,
        network: Network | nn.Module,
        prompts: Prompts,
        metric: str = "kl",
        intervention: str = "noising",
    ) -> Bool[Tensor, "threshold edge"]:
        """The edges that survive at each threshold: `ACDC(thresholds=(0.01,)).circuits(...)[0]` for one.

        Raises: InputError as `score`.
        """
        chosen, how = check_metric(metric), check_intervention(intervention)
        run = edge_run(network_of(network), prompts, how, freeze_norm=self.freeze_norm)
        return self._sweep(run, chosen, how)[0]

    def _sweep(
        self, run: EdgeRun, metric: Metric, intervention: Intervention
    ) -> tuple[Bool[Tensor, "threshold edge"], float]:
        """Surviving edges, and the cost in forwards."""
        measure, worse = run.measure(metric), _worse(metric, intervention)
        edges, threshold = run.edges, run.logits.new_tensor(self.thresholds)
        kept = torch.ones(len(threshold), len(edges), dtype=torch.bool, device=threshold.device)
        live, forwards = run.live.tolist(), 0.0
        current: Float[Tensor, " threshold"] = measure(run.logits).mean().expand(len(threshold))
        for i in reversed(range(len(edges))):
            trial = kept.clone()
            trial[:, i] = False
            if not live[i]:  # it carries the same when patched
                kept = trial
                continue
            stage = reading_stage(edges.edges[i].destination, run.config)
            distinct, which = trial.unique(dim=0, return_inverse=True)
            logits = run.masked_logits(distinct, stage=stage)
            forwards += run.masked_forwards(len(distinct), stage)
            value = measure(logits).mean(1)[which]
            drop = worse * (value - current) < threshold
            kept, current = torch.where(drop.unsqueeze(1), trial, kept), torch.where(drop, value, current)
        return kept, forwards


def _worse(metric: Metric, intervention: Intervention) -> int:
    """Sign of the change of the metric when an edge that matters is patched."""
    return (1 if metric == "kl" else -1) * (-1 if intervention == "denoising" else 1)
