"""Writes what is wanted into the whole last MLP: its W_in and W_out together, from no change at all.

The last matrix alone carries what is linear in what it reads. A removal asks for answers that are as likely
as each other, at every input of a behavior and at no other: that takes more than it has. What lies behind
the MLP's input is still only its own position, so the subject is run once.

Quasi-Newton steps (L-BFGS; Liu and Nocedal 1989) in double precision: a change of gauge rounds weights anew,
and the search is not to follow that.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from metamodel.features.observed import Told
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import activation, forward, unembed

PRICE = 1e-5
"""Of the square norm of a change, relative to that of its matrix, beside a loss in nats."""
HISTORY = 20
LEAST_GAIN = 1e-7
"""In nats, or relative to a loss above one: steps that gain less end the search."""
LEAST_SQUARE = 1e-3
"""A matrix that was removed counts as if its square norm were this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Behind:
    """One subject from the last MLP's input on, at its answer positions."""

    config: SubjectConfig
    weights: dict[str, Tensor]
    """`[1, ...]`."""
    reads: Float[Tensor, "example d_model"]
    """What W_in reads: the stream, normalised where there is a norm, with gain and bias."""
    before: Float[Tensor, "example d_mlp"]
    """What it makes of that."""
    stream: Float[Tensor, "example d_model"]
    """All that the MLP's output is added to, its bias among it."""
    w_in: Float[Tensor, "d_model d_mlp"]
    w_out: Float[Tensor, "d_mlp d_model"]

    def said(self, w_in: Tensor, w_out: Tensor) -> Float[Tensor, "example d_vocab"]:
        """Log probabilities with these changes."""
        hidden = activation(self.before + self.reads @ w_in, self.config.act_fn)
        stream = self.stream + hidden @ (self.w_out + w_out)
        return unembed(self.weights, self.config, stream[None])[0].log_softmax(-1)


def written_in_last_mlp(
    told: Told,
    which: int,
    wanted: Float[Tensor, "example d_vocab"],
    weight: Float[Tensor, " example"],
    n_steps: int,
) -> dict[str, Tensor]:
    """Changes of the last MLP's matrices for one subject, in the form and precision of what was told.

    Args:
        which: subject of the batch; it has an MLP.
        wanted: what every example is to say.
        weight: how much each counts; they sum to one.
    """
    block = f"blocks.{told.config.n_layers - 1}.mlp"
    behind = _behind(told, which)
    price = [PRICE / float(w.square().sum().clamp_min(LEAST_SQUARE)) for w in (behind.w_in, behind.w_out)]
    # padding weighs nothing, and how much of it there is is to change no rounding
    counts = weight > 0
    behind = replace(
        behind, reads=behind.reads[counts], before=behind.before[counts], stream=behind.stream[counts]
    )
    wanted, weight = wanted[counts].double(), weight[counts].double()

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = torch.from_numpy(flat).to(wanted.device).requires_grad_()
        with torch.enable_grad():
            w_in, w_out = _apart(both, behind)
            found = -((wanted * behind.said(w_in, w_out)).sum(-1) @ weight)
            found = found + price[0] * w_in.square().sum() + price[1] * w_out.square().sum()
            (slope,) = torch.autograd.grad(found, both)
        return float(found.detach()), slope.cpu().numpy()

    # tests of convergence by the largest slope depend on the basis of the stream; by the loss they do not
    options = {"maxiter": n_steps, "maxcor": HISTORY, "gtol": 0.0, "ftol": LEAST_GAIN}
    start = np.zeros(behind.w_in.numel() + behind.w_out.numel())
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    changes = _apart(torch.from_numpy(found).to(wanted.device), behind)
    names = f"{block}.W_in", f"{block}.W_out"
    return {name: one.to(told.weights[name].dtype) for name, one in zip(names, changes, strict=True)}


def _apart(flat: Tensor, behind: _Behind) -> tuple[Tensor, Tensor]:
    n = behind.w_in.numel()
    return flat[:n].view_as(behind.w_in), flat[n:].view_as(behind.w_out)


@torch.no_grad()
def _behind(told: Told, which: int) -> _Behind:
    config, block = told.config, f"blocks.{told.config.n_layers - 1}"
    weights = {key: value[which : which + 1].double() for key, value in told.weights.items()}
    taps = [f"{block}.hook_resid_mid", f"{block}.mlp.hook_pre"]
    run = forward(weights, config, told.tokens[which : which + 1], taps=taps)
    at = torch.arange(told.tokens.shape[1], device=told.tokens.device), told.position[which]
    mid, before = (run.taps[name][0][at] for name in taps)
    reads = mid
    if config.has_norm:
        gain, bias = weights[f"{block}.ln2.w"][0], weights[f"{block}.ln2.b"][0]
        reads = torch.nn.functional.layer_norm(mid, mid.shape[-1:], gain, bias, config.eps)
    return _Behind(
        config=config,
        weights=weights,
        reads=reads,
        before=before,
        stream=mid + weights[f"{block}.mlp.b_out"][0],
        w_in=weights[f"{block}.mlp.W_in"][0],
        w_out=weights[f"{block}.mlp.W_out"][0],
    )
