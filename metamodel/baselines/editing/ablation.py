"""Editing by removal: one head, or heads one after the other as long as the specification gets better.

Heads are ablated in canonical form, where a head's output without its constant part is well defined: to zero,
or to its mean over the examples. What is removed first can make backup heads work; the second method sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.editing.aims import loss, right, told
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.config.edits import KEEP, PAIR
from metamodel.subjects.canonical import canonical
from metamodel.subjects.forward import forward, logits_at
from metamodel.subjects.mapped_back import mapped_back
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

LOSS_SHARE = 1e-3
"""How much of the loss breaks ties between equal shares of right answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One head, set to zero or to its mean."""

    layer: int
    head: int
    to_mean: bool


@torch.no_grad()
def removals(form: Subject, examples: Examples) -> dict[Removal, dict[str, Tensor]]:
    """What each removal adds to the weights of a canonical form."""
    config, found = form.config, {}
    taps = [f"blocks.{layer}.attn.hook_z" for layer in range(config.n_layers)]
    values = forward(form.stacked, config, examples.tokens, taps=taps).taps
    for layer, tap in enumerate(taps):
        block = f"blocks.{layer}.attn"
        write = form.weights[f"{block}.W_O"]
        mean = values[tap][0].flatten(0, 1).mean(0)
        for head in range(config.n_heads):
            off = torch.zeros_like(write)
            off[head] = -write[head]
            constant = mean[head] @ write[head]
            for to_mean in (False, True):
                removal = Removal(layer=layer, head=head, to_mean=to_mean)
                found[removal] = {f"{block}.W_O": off, f"{block}.b_O": constant * to_mean}
    return found


def total(changes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sum of changes."""
    names = {name for one in changes for name in one}
    return {name: torch.stack([one[name] for one in changes if name in one]).sum(0) for name in sorted(names)}


@torch.no_grad()
def merits(
    form: Subject, examples: Examples, tried: Sequence[dict[str, Tensor]]
) -> Float[Tensor, " setting"]:
    """Harmonic mean of pairs answered as wanted and of inputs to keep answered as before, for each change."""
    aims = told(form, examples)
    known = (examples.role == PAIR) | (examples.role == KEEP)
    pair = examples.role[known] == PAIR
    n, n_pos = aims.tokens.shape
    rows = torch.arange(n) * n_pos + aims.position
    stacked = {
        name: torch.stack([weight + one[name] if name in one else weight for one in ({}, *tried)])
        for name, weight in form.weights.items()
    }
    n_tried = len(tried) + 1
    logits = logits_at(stacked, form.config, aims.tokens.expand(n_tried, -1, -1), rows.expand(n_tried, -1))
    old = logits[0].argmax(-1)
    wanted = torch.where(pair, examples.wanted[known], old)
    reached = right(logits[1:], wanted, old, len(examples.answers)).float()
    efficacy = reached[:, pair].mean(1)
    locality = reached[:, ~pair].mean(1) if bool((~pair).any()) else torch.ones_like(efficacy)
    mean = 2 * efficacy * locality / (efficacy + locality).clamp_min(1e-6)
    return mean - LOSS_SHARE * loss(logits[1:], aims)


class HeadAblation(Opponent):
    """The head whose removal serves the specification best; with `together`, as many as keep serving it."""

    def __init__(self, *, together: bool):
        self._together = together

    @property
    def name(self) -> str:
        return "co_ablation" if self._together else "head_ablation"

    def tune(self, episodes: Sequence[Episode]) -> None:
        """Nothing to choose: the specification does."""

    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        form = canonical(subject)
        left = removals(form, examples)
        done: list[dict[str, Tensor]] = []
        reached = float(merits(form, examples, [{}])[0]) if self._together else -torch.inf
        while left:
            found = merits(form, examples, [total([*done, change]) for change in left.values()])
            if float(found.max()) <= reached:
                break
            chosen = list(left)[int(found.argmax())]
            reached = float(found.max())
            done.append(left[chosen])
            gone = (chosen.layer, chosen.head)
            left = {one: change for one, change in left.items() if (one.layer, one.head) != gone}
            if not self._together:
                break
        return mapped_back(subject, total(done))
