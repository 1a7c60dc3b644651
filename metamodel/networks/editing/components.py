"""Which component of a subject is damaged, and the change of it that puts the subject right.

One component is small beside what pairs and inputs to keep say together: the change of a damaged head's `W_O`
that makes all of them come right makes inputs come right that were not shown. So each component is changed
alone until what is known comes right, and the one that comes closest is blamed; one that was removed shows at
once. Whether any is to blame shows in what was not shown: damage leaves a subject unsure, the right repair
makes it sure, and any other change makes a sound subject less so (`clues.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.config.edits import CHANCE, KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features.observed import Observed, Told
from metamodel.networks.editing.clues import LEFT_REMOVED, Clues, clues, entropy, most_left
from metamodel.networks.editing.quasi_newton import minimised
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward, run_blocks, run_from_heads
from metamodel.subjects.sites import Sites

PRICE = 3e-4
"""Of the square norm of a change, relative to the mean of all components, beside a loss in nats."""
LEAST_GAIN = 1e-9
"""In nats: steps that gain less end a fit."""
LEAST_UNSURE = 0.01
"""Mean entropy, in nats, of what is said of inputs without an answer, below which no damage is looked for."""
LEAST_LEFT = 1e-3
"""In nats: where a repair would have to leave less, none is looked for."""
LEAST_RIGHT = 0.9
"""Share of the pairs that a repair must answer as wanted."""
REMOVED = 1e-4
"""A component this small beside the median of all heads was removed."""
LEAST_LOSS = 1e-5
"""Losses and entropies below it, in nats, are none."""
LEAST_SQUARE = 1e-3
"""A subject all of whose components were removed counts as if the sum of their square norms were this."""
USUAL = 0.5
"""How far the logarithm of a head's norm may lie from the median before it speaks for damage."""
MALUS = 1.0
"""What is added to the logarithm of an MLP's loss: it has several times as much to fit with."""
N_LOOKS = 4
"""Numbers that describe a repair to a forecast."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mended:
    """A component put right."""

    name: str
    """Its weight."""
    head: int | None
    """None for an MLP."""
    change: Tensor
    """Of that weight, without a subject's axis."""
    stream: Float[Tensor, "example d_model"]
    """The residual stream behind the last block at each answer position, with this change."""
    looks: Float[Tensor, " look"]
    """That it was put right, and logarithms: of the entropy it leaves, of how many times that is what it was,
    and of the loss."""
    clues: Clues
    """What spoke for its damage."""


def mended(
    told: Told, seen: Observed, which: int, n_steps: int, left: Callable[[Clues], float] = most_left
) -> Mended | None:
    """Puts one subject right, in the form and precision of what was told.

    Args:
        seen: of the weights that were told, with no change of them.
        which: subject of the batch.
        n_steps: of each fit.
        left: how many times the entropy of what was not shown a repair may leave, of components that were
            not removed.

    Returns: None where nothing seems damaged, where answers are to be removed, or where nothing that
        is told could tell.
    """
    role = told.role[which]
    other, pair = role == UNLABELLED, role == PAIR
    if not (other.any() and pair.any()) or (pair & (told.wanted[which] == CHANCE)).any():
        return None
    before = entropy(seen.old[which, other])
    if before < LEAST_UNSURE:
        return None
    says = told.answers[which][seen.old[which].argmax(-1)]
    wanted = torch.where(pair, told.wanted[which], says)
    if (says == wanted)[pair].all():
        return None
    everywhere = _Ran.of(told, which)
    found = {at: clues(told, seen, which, everywhere.oddness(at)) for at in everywhere.suspects()}
    most = {at: before * (LEFT_REMOVED if everywhere.removed(at) else left(found[at])) for at in found}
    if max(most.values()) < LEAST_LEFT:
        return None
    known = pair | (role == KEEP)
    shown = everywhere.only(known[role != PADDING])
    fits = [_fit(shown, at, wanted[known], n_steps) for at in found]
    best = min(fits, key=lambda one: one.doubt if np.isfinite(one.doubt) else np.inf)
    stream, logits = everywhere.said(best.at, best.change)
    answers = told.answers[which][told.answer_mask[which]]
    among = other[role != PADDING]
    after = entropy(logits[among][:, answers].softmax(-1))
    right = logits[pair[role != PADDING]].argmax(-1) == wanted[pair]
    # what is not finite is no repair
    if not (after <= most[best.at] and right.double().mean() >= LEAST_RIGHT):
        return None
    behind = seen.stream[which].clone()
    behind[role != PADDING] = stream.to(behind.dtype)
    name, head = best.at
    looks = [
        1.0,
        np.log(after + LEAST_LOSS),
        np.log((after + LEAST_LOSS) / before),
        np.log(best.loss + LEAST_LOSS),
    ]
    return Mended(
        name=name,
        head=head,
        change=_whole(everywhere.weights, best.at, best.change).to(behind.dtype),
        stream=behind,
        looks=torch.tensor(looks, dtype=behind.dtype, device=behind.device),
        clues=found[best.at],
    )


_At = tuple[str, int | None]
"""A weight, and the head of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fit:
    at: _At
    change: Float[Tensor, "unit d_model"]
    loss: float
    """In nats, with the price of the change."""
    doubt: float
    """The less, the more likely is this component to blame."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ran:
    """One subject's run on some examples: what every component reads, and what lies behind it."""

    config: SubjectConfig
    weights: Weights
    taps: dict[str, Tensor]
    position: Int[Tensor, " example"]

    @classmethod
    def of(cls, told: Told, which: int) -> "_Ran":
        real = told.role[which] != PADDING
        weights = {key: w[which : which + 1].double() for key, w in told.weights.items()}
        parts = ["hook_resid_pre", "attn.hook_z"]
        parts += ["hook_resid_mid", "mlp.hook_post"] if told.config.has_mlp else []
        names = [f"blocks.{layer}.{part}" for layer in range(told.config.n_layers) for part in parts]
        with torch.no_grad():
            taps = forward(weights, told.config, told.tokens[which, real][None], taps=names).taps
        return cls(config=told.config, weights=weights, taps=dict(taps), position=told.position[which, real])

    def only(self, among: Bool[Tensor, " example"]) -> "_Ran":
        """The same on some of the examples."""
        taps = {name: x[:, among] for name, x in self.taps.items()}
        return _Ran(config=self.config, weights=self.weights, taps=taps, position=self.position[among])

    def suspects(self) -> list[_At]:
        """Components that were removed; where none was, all."""
        layers = range(self.config.n_layers)
        every: list[_At] = [
            (f"blocks.{layer}.attn.W_O", head) for layer in layers for head in range(self.config.n_heads)
        ]
        if self.config.has_mlp:
            every += [(f"blocks.{layer}.mlp.W_out", None) for layer in layers]
        removed = [at for at in every if self.removed(at)]
        return removed if 0 < len(removed) < len(every) else every

    def removed(self, at: _At) -> bool:
        return float(self.own(at).norm()) <= REMOVED * float(self.heads().quantile(0.5))

    def own(self, at: _At) -> Float[Tensor, "unit d_model"]:
        """What a component writes by."""
        name, head = at
        return self.weights[name][0] if head is None else self.weights[name][0, head]

    def oddness(self, at: _At) -> float:
        """How far the size of a head is out of line with the others, in logarithms, beyond what is usual."""
        if at[1] is None:
            return 0.0
        ratio = self.own(at).norm() / self.heads().quantile(0.5)
        return max(0.0, abs(float(ratio.clamp_min(REMOVED).log())) - USUAL)

    def heads(self) -> Float[Tensor, " head"]:
        """Norms of all heads' `W_O`."""
        names = [f"blocks.{layer}.attn.W_O" for layer in range(self.config.n_layers)]
        return torch.cat([self.weights[name][0].flatten(1).norm(dim=1) for name in names])

    def said(self, at: _At, change: Float[Tensor, "unit d_model"]) -> tuple[Tensor, Tensor]:
        """The last residual stream and the logits at the answer positions, with a component changed."""
        name, head = at
        layer, config = int(name.split(".")[1]), self.config
        weights = {**self.weights, name: self.weights[name] + _whole(self.weights, at, change)[None]}
        last = f"blocks.{config.n_layers - 1}.hook_resid_post"
        site = Sites([last], {})
        if head is not None:
            resid, z = (self.taps[f"blocks.{layer}.{part}"] for part in ("hook_resid_pre", "attn.hook_z"))
            run = run_from_heads(weights, config, resid, z, layer=layer, site=site)
        else:
            mlp = f"blocks.{layer}.mlp"
            out = self.taps[f"{mlp}.hook_post"] @ weights[f"{mlp}.W_out"][0] + weights[f"{mlp}.b_out"]
            resid = site(f"blocks.{layer}.hook_resid_post", self.taps[f"blocks.{layer}.hook_resid_mid"] + out)
            run = run_blocks(weights, config, resid, first_layer=layer + 1, site=site)
        rows = torch.arange(len(self.position), device=self.position.device)
        return run.taps[last][0, rows, self.position], run.logits[0, rows, self.position]


def _fit(known: _Ran, at: _At, wanted: Int[Tensor, " example"], n_steps: int) -> _Fit:
    """The change of one component that makes all that is known come right."""
    shape = known.own(at).shape
    sizes = [w.square().sum() for key, w in known.weights.items() if key.endswith((".W_O", ".W_out"))]
    n_components = known.config.n_layers * (known.config.n_heads + known.config.has_mlp)
    price = PRICE * n_components / max(float(torch.stack(sizes).sum()), LEAST_SQUARE)

    def loss(flat: Tensor) -> Tensor:
        change = flat.view(shape)
        said = known.said(at, change)[1].log_softmax(-1)
        return price * change.square().sum() - said.gather(1, wanted[:, None]).mean()

    flat, least = minimised(loss, shape.numel(), n_steps=n_steps, least_gain=LEAST_GAIN, device=wanted.device)
    doubt = np.log(least + LEAST_LOSS) - known.oddness(at) + MALUS * (at[1] is None)
    return _Fit(at=at, change=flat.view(shape), loss=least, doubt=float(doubt))


def _whole(weights: Weights, at: _At, change: Float[Tensor, "unit d_model"]) -> Tensor:
    """A change of one head as one of the whole weight."""
    name, head = at
    if head is None:
        return change
    heads = torch.arange(weights[name].shape[1], device=change.device) == head
    return heads[:, None, None] * change
