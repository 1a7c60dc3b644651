"""Edge attribution patching: estimates of the exact sweep from gradients, all edges at once.

    EAP (Syed et al. 2023)            score(s, d) = (patch_s - out_s) · grad_d, grad_d taken in the base run
    EAP-IG (Hanna et al. 2024)        the same with grad_d averaged over a path to the patched run

`out_s` is what source s writes in the base run, `patch_s` what a patched edge carries, `grad_d` the gradient
of the metric in what destination d reads, before its LayerNorm; products are summed over positions. Under
denoising the base is the corrupt run. Two paths:

    inputs        token and position embeddings go to their patch together, all else follows. Summed over the
                  edges that leave the embeddings, scores tend to metric(embeddings patched) - metric(base).
    activations   each source in turn goes to its patch, for all of its readers, and the scores of its own
                  edges come from that path: for each source they tend to the effect of patching it whole.

Points are midpoints of equal steps, (i + 1/2) / steps: the error falls with the square of `steps`. Upstream
(hannamw/EAP-IG) takes left ends, i / steps from the corrupt end, whose error falls with `steps` only, and
under `activations` moves all heads of a block together and averages every edge over the paths of all blocks.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.cost import BACKWARD
from metamodel.circuits.metrics import Metric
from metamodel.circuits.network import Network, edge_run
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.config.errors import require

Path = Literal["inputs", "activations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EAP(EdgeMethod):
    """Change of the source times gradient at the destination, in the base run."""

    freeze_norm: bool = False
    """Whether LayerNorms keep the scales of the base run, so that they are linear."""

    @property
    def name(self) -> str:
        return "eap_frozen_norm" if self.freeze_norm else "eap"

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        check_differentiable(metric, self.name)
        check_gradient(metric, intervention, self.name)
        run = edge_run(network, prompts, intervention, freeze_norm=self.freeze_norm)
        return self.scores_of(
            run,
            run.first_order_effects(run.measure(metric), run.logits.new_zeros(1)),
            metric=metric,
            intervention=intervention,
            forwards=run.n_runs + 1 + BACKWARD,
            quantity="estimate",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EAPIG(EdgeMethod):
    """Change of the source times gradient at the destination, averaged over a path."""

    steps: int = 5
    """Points of the path, midpoints of equal steps; at least 1."""
    over: Path = "inputs"
    """What goes from base to patched: the embeddings, or each source in turn."""
    freeze_norm: bool = False
    """Whether LayerNorms keep the scales of the base run, so that they are linear."""

    def __post_init__(self):
        require(
            self.steps >= 1, "EAPIG.steps", expected="at least 1", got=self.steps, do="5 is Hanna et al.'s."
        )
        known = ("inputs", "activations")
        require(
            self.over in known,
            "EAPIG.over",
            expected=" or ".join(map(repr, known)),
            got=repr(self.over),
            do="Choose one of them.",
        )

    @property
    def name(self) -> str:
        steps = "" if self.steps == 5 else f"_{self.steps}"
        return f"eap_ig_{self.over}{steps}" + "_frozen_norm" * self.freeze_norm

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        check_differentiable(metric, self.name)
        run = edge_run(network, prompts, intervention, freeze_norm=self.freeze_norm)
        measure = run.measure(metric)
        at = (torch.arange(self.steps, device=run.logits.device) + 0.5).to(run.logits) / self.steps
        if self.over == "inputs":
            effects, n_paths = run.first_order_effects(measure, at, (0, 1)), 1
        else:
            active = run.active.nonzero().squeeze(1).tolist()
            effects = run.delta.new_zeros(len(run.edges), len(prompts))
            source = torch.tensor(run.edges.source_node, device=effects.device)
            for i in active:
                own = run.first_order_effects(measure, at, (i,))
                effects[source == i] = own[source == i]
            n_paths = len(active)
        return self.scores_of(
            run,
            effects,
            metric=metric,
            intervention=intervention,
            forwards=run.n_runs + n_paths * self.steps * (1 + BACKWARD),
            quantity="estimate",
        )


def check_differentiable(metric: Metric, who: str) -> None:
    """Raises: InputError for a metric that is constant almost everywhere."""
    require(
        metric != "accuracy",
        "metric",
        expected=f"one that has a gradient, for {who}",
        got="'accuracy'",
        do="Use margin, which is positive where the answer is right, or the exact sweep.",
    )


def check_gradient(metric: Metric, intervention: Intervention, who: str) -> None:
    """Raises: InputError for KL in the clean run, where it is at its minimum and every gradient is 0."""
    require(
        metric != "kl" or intervention == "denoising",
        "metric",
        expected=f"one whose gradient is not zero in the clean run, for {who} under {intervention}",
        got="'kl', which is at its minimum there",
        do="Use another metric, denoising, or EAP-IG.",
    )
