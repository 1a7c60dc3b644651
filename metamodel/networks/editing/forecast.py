"""The forecast of success: what it looks at, and the networks that judge by it.

What was put right is judged by a network of its own. Both look at little: what else an editor knows of an
edit misleads on families of subjects that nobody trained on (`benchmarks/forecast_looks.py`).
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed
from metamodel.networks.editing.answers import one_hot
from metamodel.networks.editing.components import N_MENDED, Mended
from metamodel.networks.editing.targets import TELLS, Targets

N_REACHED = 4
N_VARIED = 3
"""Numbers that say how varied pairs are."""
N_WRITTEN = len(TELLS) + N_REACHED + N_VARIED
"""Numbers that an edit is judged by."""
PUT_RIGHT = N_WRITTEN
"""Which number says that a component was put right."""
N_REPAIR = N_REACHED + N_VARIED + N_MENDED
"""Numbers that a repair is judged by."""
N_LOOKS = N_WRITTEN + N_MENDED
REPAIR_WIDTH = 32
FARTHEST = 8.0
"""Standard deviations from the mean that a forecast tells apart."""
LEAST_LIKELY = -5.0
"""Log probability below which what is wanted is not reached at all."""


class Judge(nn.Module):
    """One network, and the units of what it looks at."""

    mean: Tensor
    spread: Tensor
    fitted: Tensor
    """Whether it was, on enough edits."""

    def __init__(self, n_looks: int, width: int):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(n_looks, width), nn.GELU(), nn.Linear(width, 1))
        self.register_buffer("mean", torch.zeros(n_looks))
        self.register_buffer("spread", torch.ones(n_looks))
        self.register_buffer("fitted", torch.tensor(False))

    def units(self, looks: Float[Tensor, "edit look"]) -> Float[Tensor, "edit look"]:
        """In standard deviations from the mean."""
        return ((looks - self.mean) / self.spread).clamp(-FARTHEST, FARTHEST)

    def forward(self, looks: Float[Tensor, "edit look"]) -> Float[Tensor, " edit"]:
        return self.network(self.units(looks))[:, 0]


class Forecast(nn.Module):
    """The logit of success."""

    def __init__(self, width: int):
        super().__init__()
        self.written, self.repair = Judge(N_WRITTEN, width), Judge(N_REPAIR, REPAIR_WIDTH)

    def forward(self, looks: Float[Tensor, "edit look"]) -> Float[Tensor, " edit"]:
        apart = put_right(looks) & self.repair.fitted
        return torch.where(apart, self.repair(of_repairs(looks)), self.written(of_all(looks)))


def of_all(looks: Float[Tensor, "edit look"]) -> Float[Tensor, "edit look2"]:
    """What any edit is judged by."""
    return looks[:, :N_WRITTEN]


def of_repairs(looks: Float[Tensor, "edit look"]) -> Float[Tensor, "edit look2"]:
    """What a repair is judged by."""
    return looks[:, len(TELLS) :]


def put_right(looks: Float[Tensor, "edit look"]) -> Bool[Tensor, " edit"]:
    """Which edits put a component right."""
    return looks[:, PUT_RIGHT] > 0


def looks_of(
    seen: Observed,
    targets: Targets,
    reached: Float[Tensor, "subject aim"],
    mended: Mapping[int, Mended],
) -> Float[Tensor, "subject look"]:
    """What speaks for targets, how well they are reached, how varied pairs are, and what there is to say of a
    component that was put right; no gradients.

    Args:
        reached: as of `how_reached`.
        mended: by subject.
    """
    repairs = reached.new_zeros(len(reached), N_MENDED)
    for i, one in mended.items():
        repairs[i] = one.looks
    return torch.cat([targets.summary[:, list(TELLS)], reached, varied(seen), repairs], dim=1).detach()


def how_reached(
    seen: Observed, targets: Targets, said: Float[Tensor, "subject example answer"]
) -> Float[Tensor, "subject aim"]:
    """Mean log probability of what is wanted: of pairs, of inputs to keep, and of those without an answer
    that are in scope and that are not.

    Args:
        said: logits of answers.
    """
    reached = (said.log_softmax(-1) * targets.wanted).sum(-1).clamp_min(LEAST_LIKELY)
    parts = [
        (reached * weight).sum(1) / weight.sum(1).clamp_min(1e-6)
        for weight in (
            (seen.role == PAIR).to(reached.dtype),
            (seen.role == KEEP).to(reached.dtype),
            targets.inside * (seen.role == UNLABELLED),
            (1 - targets.inside) * (seen.role == UNLABELLED),
        )
    ]
    return torch.stack(parts, dim=1)


def varied(seen: Observed) -> Float[Tensor, "subject look"]:
    """How many different answers pairs have, before and as wanted, and how many there are: two pairs with the
    same old answer say no more of a map of answers than one. In logarithms."""
    pair = (seen.role == PAIR)[..., None]
    different = [((one_hot(x) * pair).sum(1) > 0).sum(1) for x in (seen.old, seen.wanted)]
    return torch.stack([*different, seen.answer_mask.sum(1)], dim=1).to(seen.old.dtype).log1p()
