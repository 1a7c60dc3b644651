"""Writes what is wanted into the whole last MLP: its W_in and W_out together, from no change at all.

The last matrix alone carries what is linear in what it reads. A removal asks for answers that are as likely
as each other, at every input of a behavior and at no other: that takes more than it has. What lies behind
the MLP's input is still only its own position, and that input follows from what was observed, so the subject
is run once.

Quasi-Newton steps (L-BFGS; Liu and Nocedal 1989) in double precision: a change of gauge rounds weights anew,
and the search is not to follow that.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from metamodel.features.observed import Observed, Told
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import activation, unembed

PRICE = 1e-5
"""Of the square norm of a change, relative to that of its matrix, beside a loss in nats."""
HISTORY = 20
LEAST_GAIN = 1e-7
"""In nats, or relative to a loss above one: steps that gain less end the search."""
LEAST_SQUARE = 1e-3
"""A matrix that was removed counts as if its square norm were this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenInLastMlp:
    """What was written for one subject."""

    changes: dict[str, Tensor]
    """Of W_in and W_out, without a subject's axis."""
    stream: Float[Tensor, "example d_model"]
    """The residual stream behind the block, with these changes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Behind:
    """One subject from the last MLP's input on, at its answer positions."""

    config: SubjectConfig
    readout: dict[str, Tensor]
    """Weights of the final norm and the unembedding, `[1, ...]`."""
    reads: Float[Tensor, "example d_model"]
    """What W_in reads: the stream, normalised where there is a norm, with gain and bias."""
    before: Float[Tensor, "example d_mlp"]
    """What it makes of that."""
    beside: Float[Tensor, "example d_model"]
    """All that the MLP's output is added to, its bias among it."""
    w_in: Float[Tensor, "d_model d_mlp"]
    w_out: Float[Tensor, "d_mlp d_model"]

    def stream(self, w_in: Tensor, w_out: Tensor) -> Float[Tensor, "example d_model"]:
        """With these changes."""
        hidden = activation(self.before + self.reads @ w_in, self.config.act_fn)
        return self.beside + hidden @ (self.w_out + w_out)

    def among(self, chosen: Bool[Tensor, " example"]) -> "_Behind":
        """On some of the examples."""
        per_example = {name: getattr(self, name)[chosen] for name in ("reads", "before", "beside")}
        return replace(self, **per_example)


def written_in_last_mlp(
    told: Told,
    seen: Observed,
    which: int,
    wanted: Float[Tensor, "example d_vocab"],
    weight: Float[Tensor, " example"],
    n_steps: int,
) -> WrittenInLastMlp:
    """Changes of the last MLP's matrices for one subject, in the form and precision of what was told.

    Args:
        seen: of the weights that were told, with no change of them.
        which: subject of the batch; it has an MLP.
        wanted: what every example is to say.
        weight: how much each counts; they sum to one.
    """
    everywhere = _behind(told, seen, which)
    price = [
        PRICE / float(w.square().sum().clamp_min(LEAST_SQUARE)) for w in (everywhere.w_in, everywhere.w_out)
    ]
    # padding weighs nothing, and how much of it there is is to change no rounding
    counts = weight > 0
    behind, wanted, weight = everywhere.among(counts), wanted[counts].double(), weight[counts].double()

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = torch.from_numpy(flat).to(wanted.device).requires_grad_()
        with torch.enable_grad():
            w_in, w_out = _apart(both, behind)
            stream = behind.stream(w_in, w_out)
            said = unembed(behind.readout, behind.config, stream[None])[0].log_softmax(-1)
            found = -((wanted * said).sum(-1) @ weight)
            found = found + price[0] * w_in.square().sum() + price[1] * w_out.square().sum()
            (slope,) = torch.autograd.grad(found, both)
        return float(found.detach()), slope.cpu().numpy()

    # tests of convergence by the largest slope depend on the basis of the stream; by the loss they do not
    options = {"maxiter": n_steps, "maxcor": HISTORY, "gtol": 0.0, "ftol": LEAST_GAIN}
    start = np.zeros(behind.w_in.numel() + behind.w_out.numel())
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    changes = _apart(torch.from_numpy(found).to(wanted.device), behind)
    dtype, names = seen.stream.dtype, last_mlp(told.config)
    return WrittenInLastMlp(
        changes={name: one.to(dtype) for name, one in zip(names, changes, strict=True)},
        stream=everywhere.stream(*changes).to(dtype),
    )


def last_mlp(config: SubjectConfig) -> tuple[str, str]:
    """Names of the last MLP's matrices, the one that reads first."""
    mlp = f"blocks.{config.n_layers - 1}.mlp"
    return f"{mlp}.W_in", f"{mlp}.W_out"


def _apart(flat: Tensor, behind: _Behind) -> tuple[Tensor, Tensor]:
    n = behind.w_in.numel()
    return flat[:n].view_as(behind.w_in), flat[n:].view_as(behind.w_out)


@torch.no_grad()
def _behind(told: Told, seen: Observed, which: int) -> _Behind:
    config, block = told.config, f"blocks.{told.config.n_layers - 1}"
    own = {key: value[which].double() for key, value in told.weights.items()}
    w_in, w_out = (own[name] for name in last_mlp(config))
    beside = seen.stream[which].double() - seen.hidden[which].double() @ w_out
    reads = beside - own[f"{block}.mlp.b_out"]
    if config.has_norm:
        gain, bias = own[f"{block}.ln2.w"], own[f"{block}.ln2.b"]
        reads = torch.nn.functional.layer_norm(reads, reads.shape[-1:], gain, bias, config.eps)
    return _Behind(
        config=config,
        readout={key: x[None] for key, x in own.items() if key.startswith(("ln_final.", "unembed."))},
        reads=reads,
        before=reads @ w_in + own[f"{block}.mlp.b_in"],
        beside=beside,
        w_in=w_in,
        w_out=w_out,
    )
