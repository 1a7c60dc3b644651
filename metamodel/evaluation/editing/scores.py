"""What an edit has done, over the whole domain of its subject.

Definitions: efficacy, generalisation and locality as in Meng et al. 2022 and Mitchell et al. 2022, but by
argmax over all tokens and over every input; S is the harmonic mean of those that apply.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.baselines.editing.base import Episode
from metamodel.config.edits import CHANCE, CHANCE_FACTOR, DERIVED, FAR, IN_SCOPE, KEEP, NEAR, PAIR
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import logits_at

LEAST = 1e-3
"""What a share counts at least in a harmonic mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditScores:
    """Shares of inputs, from 0 to 1; NaN where an edit has no such inputs."""

    efficacy: float
    """Pairs that are answered as wanted."""
    in_scope: float
    """All inputs in scope, pairs among them, that are answered as wanted."""
    generalisation: float
    """Inputs in scope that were not shown as pairs."""
    unseen: float
    """Of these the ones that no specification shows, such as a template of their own."""
    locality_near: float
    """Inputs that an edit easily hits, and that were not shown, whose answer is as before."""
    locality_far: float
    """The same of all others."""
    two_hop: float
    """Inputs whose answer changes because something else did."""
    kl: float
    """KL divergence from the answers before, on inputs that stay, in nats."""

    @property
    def harmonic_mean(self) -> float:
        """S: of efficacy, generalisation and both localities, as far as they apply."""
        parts = (self.efficacy, self.generalisation, self.locality_near, self.locality_far)
        parts = [max(part, LEAST) for part in parts if part == part]
        return len(parts) / sum(1 / part for part in parts)


@torch.no_grad()
def logits_of(
    config: SubjectConfig, weights: Mapping[str, Tensor], tokens: Tensor
) -> Float[Tensor, "input d_vocab"]:
    """What one subject says of inputs at their last token."""
    n, n_pos = tokens.shape
    rows = (torch.arange(n) * n_pos + n_pos - 1)[None]
    stacked = {key: value[None] for key, value in weights.items()}
    return logits_at(stacked, config, tokens[None], rows)[0]


@torch.no_grad()
def scores(episode: Episode, changes: Mapping[str, Tensor], *, before: Tensor | None = None) -> EditScores:
    """Runs the edited subject on its whole domain.

    Args:
        before: logits `[input, d_vocab]` of the subject before the edit, if they are at hand.
    """
    subject, edit, tokens = episode.editable.subject, episode.edit, episode.editable.tokens
    if before is None:
        before = logits_of(subject.config, subject.weights, tokens)
    weights = {k: v + changes[k] if k in changes else v for k, v in subject.weights.items()}
    after = logits_of(subject.config, weights, tokens)
    old, new = before.argmax(-1), after.argmax(-1)
    likely = after.softmax(-1).gather(1, old[:, None]).squeeze(1)
    removed = likely <= CHANCE_FACTOR / len(episode.editable.answers)
    right = torch.where(edit.wanted == CHANCE, removed, new == edit.wanted)
    shown = torch.zeros(len(tokens), 2, dtype=torch.bool)
    for column, role in enumerate((PAIR, KEEP)):
        shown[episode.inputs[episode.examples.role == role], column] = True
    pair, keep = shown.unbind(1)
    stays = (edit.scope == NEAR) | (edit.scope == FAR)
    kl = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1)
    return EditScores(
        efficacy=_share(right, pair),
        in_scope=_share(right, edit.scope == IN_SCOPE),
        generalisation=_share(right, (edit.scope == IN_SCOPE) & ~pair),
        unseen=_share(right, (edit.scope == IN_SCOPE) & episode.editable.unseen),
        locality_near=_share(new == old, (edit.scope == NEAR) & ~keep),
        locality_far=_share(new == old, (edit.scope == FAR) & ~keep),
        two_hop=_share(right, edit.scope == DERIVED),
        kl=float(kl[stays].mean()) if bool(stays.any()) else float("nan"),
    )


def _share(hit: Bool[Tensor, " input"], among: Bool[Tensor, " input"]) -> float:
    return float(hit[among].float().mean()) if bool(among.any()) else float("nan")
