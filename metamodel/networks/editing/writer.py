"""Writes what is wanted into the last matrix that writes: ΔW = Σ_j η_j (C + λI)⁻¹ Uᵀ W D_j.

U are what that matrix reads on all examples, C = UᵀWU, and D_j the gradient of the loss with respect to what
it writes, which for a subject without a final norm is (p - t) W_Uᵀ: coefficients over the subject's own
answer directions. What lies behind the matrix is only the final norm and the unembedding, so a step costs
little, and the subject is run once. One step at λ → ∞ is gradient descent; many steps approach
weighted ridge.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.features.observed import Observed, Told
from metamodel.networks.editing.targets import Targets
from metamodel.subjects.forward import unembed
from metamodel.triples.edits import KEEP, PADDING, PAIR

FLOOR = 0.01
"""Part of what is wanted that is spread over all tokens: certainty would ask for infinite logits."""


START = (-4.0, 1.0, 0.5, 0.0, 0.0)
"""Logarithms of the ridge, relative to the mean moment, and of the weights of pairs, inputs to keep, and
other inputs in and out of scope, before training."""


class Writer(nn.Module):
    """Learned step sizes, ridge and weights of the examples' roles."""

    def __init__(self, n_summary: int, width: int, n_steps: int):
        super().__init__()
        self.n_steps = n_steps
        last = nn.Linear(width, n_steps + len(START))
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([1.0] * n_steps + list(START)))
        self.control = nn.Sequential(nn.Linear(n_summary + 2, width), nn.GELU(), last)

    def forward(self, told: Told, seen: Observed, targets: Targets) -> Float[Tensor, "subject unit d_model"]:
        """The change of the matrix, in canonical form."""
        n = (seen.role != PADDING).sum(1).float()
        summary = torch.cat(
            [targets.summary, (seen.role == PAIR).sum(1, keepdim=True).float().log1p(), n[:, None].log()],
            dim=1,
        )
        control = self.control(summary)
        steps, (ridge, *roles) = control[:, : self.n_steps].exp(), control[:, self.n_steps :].unbind(1)
        weight = _weights(seen, targets, *(role.exp()[:, None] for role in roles))
        u = seen.hidden
        moment = u.mT @ (u * weight[..., None])
        scale = moment.diagonal(dim1=1, dim2=2).mean(1)
        eye = torch.eye(u.shape[2], device=u.device)
        solve = torch.linalg.inv(moment + (ridge.exp() * scale)[:, None, None] * eye)
        project = solve @ (u * weight[..., None]).mT  # subject unit example
        change = u.new_zeros(u.shape[0], u.shape[2], seen.stream.shape[2])
        wanted = _over_vocabulary(told, seen, targets.wanted)
        for j in range(self.n_steps):
            stream = seen.stream + u @ change
            change = change - steps[:, j, None, None] * (project @ _descent(told, stream, wanted))
        return change


def _weights(
    seen: Observed, targets: Targets, pairs: Tensor, keeps: Tensor, inside: Tensor, outside: Tensor
) -> Float[Tensor, "subject example"]:
    """How much each example counts; they sum to one."""
    role, place = seen.role, targets.inside
    inferred = targets.sure * (place * inside + (1 - place) * outside)
    weight = torch.where(role == PAIR, pairs, torch.where(role == KEEP, keeps, inferred))
    weight = weight * (role != PADDING)
    return weight / weight.sum(1, keepdim=True)


def _over_vocabulary(told: Told, seen: Observed, wanted: Float[Tensor, "subject example answer"]) -> Tensor:
    """Distributions over answers as distributions over all tokens."""
    size = told.weights["unembed.W_U"].shape[2]
    index = told.answers[:, None].expand_as(wanted)
    masked = wanted * told.answer_mask[:, None]
    spread = wanted.new_zeros(*wanted.shape[:2], size).scatter_add(2, index, masked)
    return (1 - FLOOR) * spread + FLOOR / size


def _descent(
    told: Told,
    stream: Float[Tensor, "subject example d_model"],
    wanted: Float[Tensor, "subject example d_vocab"],
) -> Float[Tensor, "subject example d_model"]:
    """Gradient of the cross entropy of each example with respect to the stream behind the matrix."""
    said = unembed(told.weights, told.config, stream).softmax(-1)
    back = (said - wanted) @ told.weights["unembed.W_U"].mT
    if not told.config.has_norm:
        return back
    # of LayerNorm, whose gain is folded in canonical form
    centred = stream - stream.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + told.config.eps).sqrt()
    normed = centred / scale
    return (back - back.mean(-1, keepdim=True) - normed * (back * normed).mean(-1, keepdim=True)) / scale
