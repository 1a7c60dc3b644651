"""Where an edit is written beside the last matrix: in the component that is to blame, if one is.

Every component's fit (`components.py`) is shown to a small network with how well it went; before training the
fit of the least loss is taken, and whether it is used at all is decided against it, so that nothing changes.
What is then wanted of an input is what the subject says with that component changed.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told
from metamodel.networks.editing.answers import one_hot, over_vocabulary
from metamodel.networks.editing.components import N_LOOKS, Fits, fits, mixed
from metamodel.networks.editing.targets import Targets

START_USE, START_POWER = -2.0, 3.0
"""Before training: the logit of using a component's fit, and the power of a fit's loss in its share."""
N_SEEN = 3
LEAST_LOSS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blamed:
    """What is written where."""

    changes: dict[str, Tensor]
    """Of all writing matrices."""
    share: Float[Tensor, "subject site"]
    """How far each component is to blame; they sum to one."""
    use: Float[Tensor, " subject"]
    """How far the edit is written there at all, 0 to 1."""
    said: Float[Tensor, "subject example answer"]
    """What the subject answers when the component is changed."""
    sure: Float[Tensor, "subject example"]
    looks: Float[Tensor, "subject summary"]
    """What a forecast may see of it: how far it is used, and how well it fits."""
    logit: Float[Tensor, " subject"]
    """Of using it."""
    votes: Float[Tensor, "subject site example answer"]
    """What the subject answers with each component changed."""
    instead: Float[Tensor, "subject example answer"]
    """What is wanted where no component is blamed."""


class Sites(nn.Module):
    """Blames a component, and decides whether the edit is written there."""

    def __init__(self, n_summary: int, width: int):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(START_POWER).log())
        self.weigh = _network(2 * N_LOOKS + 1, width, 0.0)
        self.decide = _network(N_LOOKS + 1 + n_summary + N_SEEN, width, START_USE)

    def forward(self, told: Told, seen: Observed, targets: Targets) -> Blamed:
        n = told.n_known
        role, hard = told.role, one_hot(seen.old)
        wanted = torch.where((role == PAIR)[..., None], seen.wanted, hard)
        known = ((role == PAIR) | (role == KEEP)).to(wanted.dtype)
        found: Fits = fits(told, over_vocabulary(told, wanted)[:, :n], known[:, :n], seen.old)
        loss = found.loss.clamp_min(LEAST_LOSS).log()
        worse = (loss - loss.amin(1, keepdim=True))[..., None]
        relative = found.looks - found.looks.mean(1, keepdim=True)
        network = self.weigh(torch.cat([found.looks, relative, worse], dim=2)).squeeze(-1)
        share = (network - self.power.exp() * worse.squeeze(-1)).softmax(1)
        least = loss.amin(1, keepdim=True)
        looks = torch.einsum("skl,sk->sl", found.looks, share)
        before = torch.stack([_mean(seen.old.amax(-1), role == one) for one in (PAIR, KEEP, UNLABELLED)], 1)
        logit = self.decide(torch.cat([looks, least, targets.summary.detach(), before], dim=1)).squeeze(-1)
        use = logit.sigmoid()
        if not self.training:  # one component or none
            share = nn.functional.one_hot(share.argmax(1), share.shape[1]).to(share.dtype)
            use = (use > 0.5).to(use.dtype)
        votes = one_hot(found.said)
        parts = mixed(found, share * use[:, None], told.config)
        return Blamed(
            changes=parts,
            share=share,
            use=use,
            said=torch.einsum("skna,sk->sna", votes, share),
            sure=torch.einsum("skn,sk->sn", found.said.amax(-1), share),
            looks=torch.stack([logit.tanh(), least.squeeze(1) / 5], dim=1),
            logit=logit,
            votes=votes,
            instead=targets.wanted.detach(),
        )


def with_blame(targets: Targets, blamed: Blamed, seen: Observed) -> Targets:
    """What is wanted of inputs without an answer, as far as the edit is written in the component to blame."""
    other = (seen.role == UNLABELLED).to(seen.old.dtype)
    use = blamed.use[:, None] * other
    moved = 1 - (blamed.said * one_hot(seen.old)).sum(-1)
    return replace(
        targets,
        inside=(1 - use) * targets.inside + use * moved,
        wanted=(1 - use[..., None]) * targets.wanted + use[..., None] * blamed.said,
        sure=(1 - use) * targets.sure + use * blamed.sure,
    )


def _network(n_in: int, width: int, start: float) -> nn.Sequential:
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(n_in, width), nn.GELU(), last)


def _mean(x: Float[Tensor, "subject example"], among: Tensor) -> Float[Tensor, " subject"]:
    weight = among.to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)
