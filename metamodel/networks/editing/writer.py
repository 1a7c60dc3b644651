"""Writes what is wanted into the last matrix that writes: ΔW = Σ_j η_j (C + λI)⁻¹ Uᵀ W D_j.

U are what that matrix reads on all examples, C = UᵀWU, and D_j the gradient of the loss with respect to what
it writes, which for a subject without a final norm is (p - t) W_Uᵀ: coefficients over the subject's own
answer directions. What lies behind the matrix is only the final norm and the unembedding, so a step costs
little, and the subject is run once.

The steps are those of preconditioned conjugate gradients (Polak and Ribière), as long as Newton's method says
along each direction: plain steps of the same form need twenty times as many. Ridge, damping, length and the
weight of every role are learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.config.editing import Part
from metamodel.config.edits import KEEP, PADDING, PAIR
from metamodel.features.observed import Observed, Told, last_writer
from metamodel.features.rewordings import Reworded
from metamodel.networks.editing.answers import over_vocabulary
from metamodel.networks.editing.targets import Targets
from metamodel.subjects.forward import unembed

FLOOR = 0.01
"""Part of what is wanted that is spread over all tokens: certainty would ask for infinite logits."""
START = (-6.0, -4.6, 0.0, 1.0, 0.5, 0.0, 0.0)
"""Logarithms before training of: the ridge, relative to the mean moment; the damping of step lengths; their
gain; and the weights of pairs, inputs to keep, and other inputs in and out of scope."""
START_DECAY = -8.0
"""The same of the price of a change: its square norm, relative to that of its matrix."""
LONGEST_STEP = 15.0
"""Largest change of any logit in one step."""
TINY = 1e-12


class Writer(nn.Module):
    """Learned ridge, damping, gain and weights of the examples' roles."""

    def __init__(
        self, n_summary: int, width: int, n_steps: int, *, decay: bool = False, without: tuple[Part, ...] = ()
    ):
        """Args:
        n_summary: numbers that the pace is chosen by.
        decay: whether a change has a price.
        without: parts that are left out, to see what they add.
        """
        super().__init__()
        self.n_steps, self.without = n_steps, without
        start = (*START, START_DECAY) if decay else START
        last = nn.Linear(width, len(start))
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor(start))
        self.control = nn.Sequential(nn.Linear(n_summary + 2, width), nn.GELU(), last)

    def forward(
        self,
        told: Told,
        seen: Observed,
        targets: Targets,
        summary: Float[Tensor, "subject summary"],
        more: Reworded | None = None,
    ) -> Float[Tensor, "subject unit d_model"]:
        """The change of the matrix, in the form of `told`.

        Args:
            seen: `hidden` and `stream` of what is changed.
            summary: what the pace is chosen by.
            more: rewordings of the examples.
        """
        pace = self._pace(seen, summary)
        ridge, damping, gain, *roles = pace[:, : len(START)].unbind(1)
        size = told.weights[last_writer(told.config)].square().flatten(1).sum(1)
        return _written(
            told,
            _aims(told, seen, targets, roles, more),
            _Pace(
                ridge=ridge,
                damping=damping,
                gain=gain,
                price=pace[:, len(START) :].sum(1) / torch.where(size > 0, size, 1.0),
                conditioned="preconditioning" not in self.without,
                n_steps=self.n_steps,
            ),
        )

    def aims(
        self,
        told: Told,
        seen: Observed,
        targets: Targets,
        summary: Float[Tensor, "subject summary"],
        more: Reworded | None = None,
    ) -> "Aims":
        """What is to be written; arguments as of `forward`."""
        _, _, _, *roles = self._pace(seen, summary)[:, : len(START)].unbind(1)
        return _aims(told, seen, targets, roles, more)

    def _pace(self, seen: Observed, summary: Tensor) -> Float[Tensor, "subject pace"]:
        counts = torch.stack([(seen.role == PAIR).sum(1) + 1, (seen.role != PADDING).sum(1)], dim=1)
        return self.control(torch.cat([summary, counts.to(summary.dtype).log()], dim=1)).exp()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aims:
    """What is to be written, of all examples, and behind them of their rewordings."""

    hidden: Float[Tensor, "subject example unit"]
    """What the last matrix reads."""
    stream: Float[Tensor, "subject example d_model"]
    """The residual stream behind it, before the change."""
    wanted: Float[Tensor, "subject example d_vocab"]
    """What every example is to say."""
    weight: Float[Tensor, "subject example"]
    """How much it counts; they sum to one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pace:
    """How far and how carefully to step."""

    ridge: Float[Tensor, " subject"]
    damping: Float[Tensor, " subject"]
    gain: Float[Tensor, " subject"]
    price: Float[Tensor, " subject"]
    """Of a change's square norm."""
    conditioned: bool
    n_steps: int


def _written(told: Told, aims: Aims, pace: _Pace) -> Float[Tensor, "subject unit d_model"]:
    """The change after all steps."""
    u, wanted, weight = aims.hidden, aims.wanted, aims.weight
    weighted = (u * weight[..., None]).mT
    moment = weighted @ u
    scale = moment.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(u.shape[2], device=u.device, dtype=u.dtype)
    solve = torch.linalg.inv(moment + (pace.ridge * scale)[:, None, None] * eye)
    if not pace.conditioned:
        solve = eye / scale[:, None, None]
    change = u.new_zeros(u.shape[0], u.shape[2], aims.stream.shape[2])
    direction, before = change, None
    for _ in range(pace.n_steps):
        stream = aims.stream + u @ change
        said = unembed(told.weights, told.config, stream).softmax(-1)
        gradient = weighted @ _through_norm(told, stream, (said - wanted) @ told.weights["unembed.W_U"].mT)
        gradient = gradient + 2 * pace.price[:, None, None] * change
        descent = solve @ gradient
        if before is None:
            direction = -descent
        else:
            turn = _dot(descent, gradient - before[1]) / _dot(before[0], before[1]).clamp_min(TINY)
            direction = turn.clamp(0, 2)[:, None, None] * direction - descent
        before = descent, gradient
        # padding neither moves nor bounds a step
        moved = _through_norm(told, stream, u @ direction) @ told.weights["unembed.W_U"]
        moved = moved * (weight > 0)[..., None]
        curvature = (said * moved.square()).sum(-1) - (said * moved).sum(-1).square()
        curvature = curvature + pace.damping[:, None] * moved.square().mean(-1)
        length = -_dot(gradient, direction) / (
            (weight * curvature).sum(1) + 2 * pace.price * _dot(direction, direction)
        ).clamp_min(TINY)
        longest = LONGEST_STEP / moved.abs().amax((1, 2)).clamp_min(TINY)
        step = torch.minimum(pace.gain * length.clamp_min(0), longest)
        change = change + step[:, None, None] * direction
    return change


def _dot(first: Tensor, second: Tensor) -> Float[Tensor, " subject"]:
    return (first * second).sum((1, 2))


def _aims(
    told: Told, seen: Observed, targets: Targets, roles: Sequence[Tensor], more: Reworded | None
) -> Aims:
    """Args:
    roles: how much pairs, inputs to keep, and others in scope and out of it count.
    """
    pairs, keeps, inside, outside = (role[:, None] for role in roles)
    role, place = seen.role, targets.inside
    inferred = targets.sure * (place * inside + (1 - place) * outside)
    weight = torch.where(role == PAIR, pairs, torch.where(role == KEEP, keeps, inferred))
    weight = weight * (role != PADDING)
    hidden, stream, wanted = seen.hidden, seen.stream, targets.wanted
    if more is not None:
        # what is wanted of a rewording is inferred, also where it is known of what it rewords
        believed = inferred.gather(1, more.source) * targets.by_pairs[:, None]
        weight = torch.cat([weight, believed * more.mask], dim=1)
        of = more.source[..., None].expand(-1, -1, wanted.shape[2])
        wanted = torch.cat([wanted, wanted.gather(1, of)], dim=1)
        hidden = torch.cat([hidden, more.hidden], dim=1)
        stream = torch.cat([stream, more.stream], dim=1)
    weight = weight / weight.sum(1, keepdim=True)
    return Aims(hidden=hidden, stream=stream, wanted=_softened(told, wanted), weight=weight)


def _softened(told: Told, wanted: Float[Tensor, "subject example answer"]) -> Tensor:
    spread = over_vocabulary(told, wanted)
    return (1 - FLOOR) * spread + FLOOR / spread.shape[2]


def _through_norm(
    told: Told,
    stream: Float[Tensor, "subject example d_model"],
    back: Float[Tensor, "subject example d_model"],
) -> Float[Tensor, "subject example d_model"]:
    """`back` times the Jacobian of the final norm at `stream`, which is symmetric; its gain is folded."""
    if not told.config.has_norm:
        return back
    centred = stream - stream.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + told.config.eps).sqrt()
    normed = centred / scale
    return (back - back.mean(-1, keepdim=True) - normed * (back * normed).mean(-1, keepdim=True)) / scale
