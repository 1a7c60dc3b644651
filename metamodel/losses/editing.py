"""Losses of the editor: through the edited subject, and of each thing that it infers on the way.

As in Mitchell et al. 2022 ("Fast model editing at scale"): cross entropy of what is wanted in scope, and KL
divergence from the answers before on what stays. What an editor infers (scope, wanted answers, the map of
answers, its own success) has known truth in a zoo of edits, and a loss of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import CHANCE, CHANCE_FACTOR, FAR, GOOD, IN_SCOPE, NEAR, UNLABELLED
from metamodel.features.observed import Told

LEAST = 1e-4
"""Probability below which what is wanted counts as never inferred."""
NO_ANSWER = -100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapBatch:
    """Rules from whose pairs a map of answers is to be inferred."""

    grams: Float[Tensor, "rule 3 answer answer2"]
    seen: Float[Tensor, "rule answer answer2"]
    """How often each old answer becomes each new one among the pairs."""
    target: Int[Tensor, "rule answer"]
    """New answer of each old one; NO_ANSWER where the rule says nothing."""

    def to(self, device: torch.device | str) -> "MapBatch":
        return replace(
            self, grams=self.grams.to(device), seen=self.seen.to(device), target=self.target.to(device)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditingBatch:
    """What the editor is told, and the truth."""

    told: Told
    tokens: Int[Tensor, "subject input pos"]
    """Inputs of the domain on which the edited subjects are run."""
    wanted: Int[Tensor, "subject input"]
    scope: Int[Tensor, "subject input"]
    example_scope: Bool[Tensor, "subject example"]
    """Whether each example is in scope."""
    example_wanted: Int[Tensor, "subject example"]
    """Token that is wanted of each example, or CHANCE."""
    feasible: Bool[Tensor, " subject"]
    """Whether a few pairs say what is wanted."""
    maps: MapBatch | None

    def to(self, device: torch.device | str) -> "EditingBatch":
        """The same batch on another device."""
        told = self.told
        names = ("tokens", "position", "role", "wanted", "answers", "answer_mask")
        parts = {name: getattr(told, name).to(device) for name in names}
        weights = {key: value.to(device) for key, value in told.weights.items()}
        own = ("tokens", "wanted", "scope", "example_scope", "example_wanted", "feasible")
        return replace(
            self,
            told=replace(told, weights=weights, **parts),
            maps=None if self.maps is None else self.maps.to(device),
            **{name: getattr(self, name).to(device) for name in own},
        )


def edit_loss(
    after: Float[Tensor, "subject input d_vocab"],
    told: Told,
    wanted: Int[Tensor, "subject input"],
    scope: Int[Tensor, "subject input"],
) -> Float[Tensor, " subject"]:
    """Mean cross entropy in scope, in nats, above its least.

    Args:
        after: log probabilities of the edited subject.
    """
    one = -after.gather(2, wanted.clamp_min(0)[..., None]).squeeze(-1)
    among = after.gather(2, told.answers[:, None].expand(-1, after.shape[1], -1))
    n = told.answer_mask.sum(1)[:, None]
    uniform = -(among * told.answer_mask[:, None]).sum(-1) / n - n.log()
    return _mean(torch.where(wanted == CHANCE, uniform, one), scope == IN_SCOPE)


def keep_loss(
    after: Float[Tensor, "subject input d_vocab"],
    before: Float[Tensor, "subject input d_vocab"],
    scope: Int[Tensor, "subject input"],
) -> Float[Tensor, " subject"]:
    """Mean KL divergence on inputs that stay, in nats; of log probabilities."""
    each = (before.exp() * (before - after)).sum(-1)
    return _mean(each, (scope == NEAR) | (scope == FAR))


def scope_loss(
    gate: Float[Tensor, "subject example"],
    role: Int[Tensor, "subject example"],
    inside: Bool[Tensor, "subject example"],
) -> Float[Tensor, " subject"]:
    """Binary cross entropy of being in scope, of examples without an answer."""
    each = F.binary_cross_entropy_with_logits(gate, inside.to(gate.dtype), reduction="none")
    return _mean(each, role == UNLABELLED)


def wanted_loss(
    inferred: Float[Tensor, "subject example answer"],
    told: Told,
    wanted: Int[Tensor, "subject example"],
    inside: Bool[Tensor, "subject example"],
) -> Float[Tensor, " subject"]:
    """Cross entropy of what is wanted of examples in scope that are no pairs, where it is a token."""
    right = (wanted[:, :, None] == told.answers[:, None]) & told.answer_mask[:, None]
    each = -(inferred * right).sum(-1).clamp_min(LEAST).log()
    return _mean(each, (told.role == UNLABELLED) & inside & right.any(-1))


def _mean(
    each: Float[Tensor, "subject example"], among: Bool[Tensor, "subject example"]
) -> Float[Tensor, " subject"]:
    """Mean over some; zero where there are none."""
    chosen = torch.where(among, each, torch.zeros_like(each))
    return chosen.sum(1) / among.sum(1).clamp_min(1)


def size_loss(changes: Mapping[str, Tensor], told: Told) -> Float[Tensor, " subject"]:
    """log(1 + |ΔW|² / |W|²), summed over matrices, in the form of what was told: a rule needs a change about
    as large as its matrix, not one of ten times as much. 0 for a matrix of zeros, which was removed."""
    return torch.stack([ratio.log1p() for ratio in _ratios(changes, told)]).sum(0)


def norm_loss(changes: Mapping[str, Tensor], told: Told) -> Float[Tensor, " subject"]:
    """Square of log(|ΔW| / |W|) where a change is larger than its matrix, summed over matrices."""
    return torch.stack([(0.5 * x.clamp_min(1).log()).square() for x in _ratios(changes, told)]).sum(0)


def _ratios(changes: Mapping[str, Tensor], told: Told) -> list[Float[Tensor, " subject"]]:
    """|ΔW|² / |W|² of each matrix; 0 for a matrix of zeros."""
    found = []
    for name, change in changes.items():
        whole = told.weights[name].square().flatten(1).sum(1)
        ratio = change.square().flatten(1).sum(1) / torch.where(whole > 0, whole, 1.0)
        found.append(ratio * (whole > 0))
    return found


@torch.no_grad()
def success(
    after: Float[Tensor, "subject input d_vocab"],
    before: Float[Tensor, "subject input d_vocab"],
    wanted: Int[Tensor, "subject input"],
    scope: Int[Tensor, "subject input"],
    n_answers: Int[Tensor, " subject"],
) -> Bool[Tensor, " subject"]:
    """Whether the harmonic mean of what is reached in scope and kept elsewhere is at least GOOD."""
    new, old = after.argmax(-1), before.argmax(-1)
    likely = after.gather(2, old[..., None]).squeeze(-1).exp()
    right = torch.where(wanted == CHANCE, likely <= CHANCE_FACTOR / n_answers[:, None], new == wanted)
    reached = _mean(right.float(), scope == IN_SCOPE)
    stays = (scope == NEAR) | (scope == FAR)
    kept = torch.where(stays.any(1), _mean((new == old).float(), stays), torch.ones_like(reached))
    return 2 / (1 / reached.clamp_min(1e-3) + 1 / kept.clamp_min(1e-3)) >= GOOD
