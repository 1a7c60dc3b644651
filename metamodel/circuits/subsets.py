"""Average effect of each edge among random sets of others, by regression: the Banzhaf index.

Every mask patches each edge with probability one half, and the metric is regressed on which edges are
patched. A coefficient is then metric(patched) - metric(unpatched) as the exact sweep has it, but averaged
over what else is patched, where the sweep patches the edge alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.metrics import Metric
from metamodel.circuits.network import Network, edge_run
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.config.errors import require

_RIDGES = tuple(10.0 ** (i / 2) for i in range(-6, 7))
"""Penalties to choose from, in units of the number of masks times the variance of an edge, 1/4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSubsets(EdgeMethod):
    """Regression on random sets of patched edges; standard errors are the regression's, over masks.

    With fewer masks than about twice the edges least squares is noisy, and with fewer than edges it has no
    answer. By default a ridge penalty is therefore chosen by generalised cross-validation: coefficients are
    drawn towards zero, and their standard errors are those of the shrunken ones, which leave that bias out.
    """

    n_masks: int = 200
    """Random sets of edges that are run; at least 3."""
    seed: int = 0
    ridge: float | None = None
    """Penalty, in units of n_masks / 4; 0 for least squares, None to choose it from the data."""
    freeze_norm: bool = False
    """Whether LayerNorms keep the scales of the base run."""

    def __post_init__(self):
        where = "RandomSubsets"
        require(
            self.n_masks >= 3,
            f"{where}.n_masks",
            expected="at least 3",
            got=self.n_masks,
            do="Take about twice the number of edges.",
        )
        require(
            self.ridge is None or self.ridge >= 0,
            f"{where}.ridge",
            expected="at least 0, or None",
            got=self.ridge,
            do="Leave it out to have it chosen.",
        )

    @property
    def name(self) -> str:
        return "subsets_frozen_norm" if self.freeze_norm else "subsets"

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        run = edge_run(network, prompts, intervention, freeze_norm=self.freeze_norm)
        measure, edges = run.measure(metric), run.edges
        active = run.live  # other edges carry the same when patched
        require(
            self.ridge != 0 or int(active.sum()) < self.n_masks - 1,
            "RandomSubsets.n_masks",
            expected=f"more than {int(active.sum()) + 1} masks, for least squares over as many edges",
            got=self.n_masks,
            do="Take more masks, or a ridge penalty.",
        )
        generator = torch.Generator("cpu").manual_seed(self.seed)  # the same masks on any device
        drawn = torch.rand(self.n_masks, len(edges), generator=generator, device=generator.device)
        patched = (drawn < 0.5).to(active.device)
        outcome = measure(run.masked_logits(~patched)).mean(1)
        value, se = (outcome.new_zeros(len(edges)) for _ in range(2))
        value[active], se[active] = regression(patched[:, active], outcome, self.ridge)
        return EdgeScores(
            edges=edges,
            method=self.name,
            metric=metric,
            intervention=intervention,
            value=value,
            se=se,
            base=float(measure(run.logits).mean()),
            forwards=run.n_runs + run.masked_forwards(self.n_masks),
            quantity="estimate",
        )


def regression(
    patched: Bool[Tensor, "mask edge"], outcome: Float[Tensor, " mask"], ridge: float | None
) -> tuple[Float[Tensor, " edge"], Float[Tensor, " edge"]]:
    """Coefficients of the outcome on what is patched, with an intercept, and their standard errors.

    Args:
        ridge: penalty in units of n_masks / 4; None for the one with the least generalised cross-validation
            error (Golub, Heath and Wahba 1979).
    """
    n, x, y = len(outcome), patched.double(), outcome.double()
    x, y = x - x.mean(0), y - y.mean()
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    rest = (y.square().sum() - projected.square().sum()).clamp_min(0)  # outside the span of the columns
    found = s > s[0] * 1e-10

    def fit(penalty: float) -> tuple[Tensor, Tensor, float]:
        """Shrinkage of each direction, sum of squared residuals, and degrees of freedom left."""
        keep = torch.where(found, s.square() / (s.square() + penalty * n / 4), 0.0)
        return keep, rest + ((1 - keep) * projected).square().sum(), n - 1 - float(keep.sum())

    def error(penalty: float) -> float:
        _, residual, free = fit(penalty)
        return float(residual) / max(free, 1e-9) ** 2

    keep, residual, free = fit(min(_RIDGES, key=error) if ridge is None else ridge)
    inverse = torch.where(found, keep / s.clamp_min(torch.finfo(s.dtype).tiny), 0.0)
    variance = (vt.T * inverse).square().sum(1) * residual / max(free, 1e-9)
    value = vt.T @ (inverse * projected)
    return value.to(outcome.dtype), variance.sqrt().to(outcome.dtype)
