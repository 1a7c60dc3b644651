"""Writes what is wanted into the whole last MLP: its W_in and W_out together, from no change at all.

The last matrix alone carries what is linear in what it reads. A removal asks for answers that are as likely
as each other, at every input of a behavior and at no other: that takes more than it has. What lies behind
the MLP's input is still only its own position, and that input follows from what was observed, so the subject
is run once.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from metamodel.features.observed import Told
from metamodel.networks.editing.quasi_newton import minimised
from metamodel.networks.editing.writer import Aims
from metamodel.subjects.last_mlp import LastMlp, last_mlp_behind, last_mlp_names
from metamodel.subjects.subject import Subject

PRICE = 1e-5
"""Of the square norm of a change, relative to that of its matrix, beside a loss in nats."""
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


def written_in_last_mlp(told: Told, aims: Aims, which: int, n_steps: int) -> WrittenInLastMlp:
    """Changes of the last MLP's matrices for one subject, in the form and precision of what was told.

    Args:
        aims: of the weights that were told, with no change of them.
        which: subject of the batch; it has an MLP.
    """
    everywhere, wanted, weight = _read_off(told, aims, which), aims.wanted[which], aims.weight[which]
    own = [everywhere.subject.weights[name] for name in last_mlp_names(told.config)]
    price = [PRICE / float(w.square().sum().clamp_min(LEAST_SQUARE)) for w in own]
    # padding weighs nothing, and how much of it there is is to change no rounding
    counts = weight > 0
    end, wanted, weight = everywhere.only(counts), wanted[counts].double(), weight[counts].double()

    def apart(flat: Tensor) -> list[Tensor]:
        parts = flat.split([w.numel() for w in own])
        return [part.view_as(w) for part, w in zip(parts, own, strict=True)]

    def loss(flat: Tensor) -> Tensor:
        w_in, w_out = apart(flat)
        found = -((wanted * end.said(w_in, w_out)[0].log_softmax(-1)).sum(-1) @ weight)
        return found + price[0] * w_in.square().sum() + price[1] * w_out.square().sum()

    size = sum(w.numel() for w in own)
    flat, _ = minimised(loss, size, n_steps=n_steps, least_gain=LEAST_GAIN, device=wanted.device)
    changes = apart(flat)
    dtype, names = aims.stream.dtype, last_mlp_names(told.config)
    return WrittenInLastMlp(
        changes={name: one.to(dtype) for name, one in zip(names, changes, strict=True)},
        stream=(everywhere.middle + everywhere.said(*changes)[3]).to(dtype),
    )


def _read_off(told: Told, aims: Aims, which: int) -> LastMlp:
    """What the last MLP of one subject reads, from what it was seen to write."""
    weights = {key: value[which].double() for key, value in told.weights.items()}
    name = f"blocks.{told.config.n_layers - 1}.mlp"
    written = aims.hidden[which].double() @ weights[f"{name}.W_out"] + weights[f"{name}.b_out"]
    subject = Subject(config=told.config, weights=weights)
    return last_mlp_behind(subject, aims.stream[which].double() - written)
