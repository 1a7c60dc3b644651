"""Exact scores: every edge patched alone, nothing linearised (`metamodel.circuits.sweep`)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.base_run import Intervention, base_run
from metamodel.circuits.metrics import Metric
from metamodel.circuits.network import Network, edge_run
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores, standard_error
from metamodel.circuits.sweep import edge_effects
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(EdgeMethod):
    """Every edge patched alone."""

    freeze_norm: bool = False
    """Whether LayerNorms keep the scales of the unpatched run."""

    @property
    def name(self) -> str:
        return "exact_frozen_norm" if self.freeze_norm else "exact"

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        run = edge_run(network, prompts, intervention, freeze_norm=self.freeze_norm)
        return self.scores_of(
            run,
            run.edge_effects([run.measure(metric)])[0],
            metric=metric,
            intervention=intervention,
            forwards=run.sweep_forwards(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MarginAndKL:
    """Effect of patching each edge of `component_edges`: metric(patched) - metric(unpatched), signed."""

    margin: Float[Tensor, " edge"]
    """Change of the right answer's logit minus the runner-up's, averaged; negative if the edge helps."""
    margin_se: Float[Tensor, " edge"]
    """Standard error of that mean over prompts; NaN for a single prompt."""
    kl: Float[Tensor, " edge"]
    """KL(clean ‖ patched) of the answer distribution in nats, mean over prompts."""
    clean_margin: Float[Tensor, ""]
    """Mean margin of the clean run."""


@torch.no_grad()
def edge_scores(subject: Subject, prompts: Prompts, intervention: Intervention) -> MarginAndKL:
    """Margin and KL of every edge's patch from one sweep, as a zoo stores them.

    Raises: InputError if the prompts do not fit the subject, or the subject is post-norm.
    """
    run = base_run(subject, prompts, intervention)
    margin, kl = run.measure("margin"), run.measure("kl")
    effect = edge_effects(run, [margin, kl])
    return MarginAndKL(
        margin=effect[0].mean(-1),
        margin_se=standard_error(effect[0]),
        kl=effect[1].mean(-1),
        clean_margin=margin(run.clean_logits).mean(),
    )
