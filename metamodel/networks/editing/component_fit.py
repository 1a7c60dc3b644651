"""What a subject says with one component changed, and the change that makes it answer as wanted.

What a component reads is the same whatever it writes, so a subject is run once, and then only from the
component on.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.observed import Told, in_own_order
from metamodel.networks.editing.quasi_newton import minimised
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward, run_blocks, run_from_heads
from metamodel.subjects.sites import Sites

PRICE = 3e-4
"""Of the square norm of a change, relative to the mean of all components, beside a loss in nats."""
LEAST_GAIN = 1e-9
"""In nats: steps that gain less end a fit."""
TINY = 1e-12
LEAST_VARIED = 1e-6
"""Variances below this share of the largest count as much."""
LEAST_SQUARE = 1e-3
"""A subject all of whose components were removed counts as if the sum of their square norms were this."""

At = tuple[str, int | None]
"""A weight, and the head of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """A change of one component that makes what is known come right."""

    at: At
    change: Float[Tensor, "unit d_model"]
    loss: float
    """In nats, with the price of the change."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComponentRun:
    """One subject's run on some examples: what every component reads, and what lies behind it."""

    config: SubjectConfig
    weights: Weights
    taps: dict[str, Tensor]
    position: Int[Tensor, " example"]

    @classmethod
    def of(cls, told: Told, which: int) -> "ComponentRun":
        own = in_own_order(told, which)
        weights = {key: w[which : which + 1].double() for key, w in told.weights.items()}
        parts = ["hook_resid_pre", "attn.hook_z"]
        parts += ["hook_resid_mid", "mlp.hook_post"] if told.config.has_mlp else []
        names = [f"blocks.{layer}.{part}" for layer in range(told.config.n_layers) for part in parts]
        with torch.no_grad():
            taps = forward(weights, told.config, told.tokens[which, own][None], taps=names).taps
        return cls(config=told.config, weights=weights, taps=dict(taps), position=told.position[which, own])

    def only(self, among: Bool[Tensor, " example"]) -> "ComponentRun":
        """The same on some of the examples."""
        taps = {name: x[:, among] for name, x in self.taps.items()}
        return ComponentRun(
            config=self.config, weights=self.weights, taps=taps, position=self.position[among]
        )

    def own(self, at: At) -> Float[Tensor, "unit d_model"]:
        """What a component writes by."""
        name, head = at
        return self.weights[name][0] if head is None else self.weights[name][0, head]

    def varied(self, at: At) -> Float[Tensor, "unit unit2"]:
        """Root of the covariance of what a component reads at the answer positions, of unit mean variance.

        What is learnt by gradient descent lies where what is read varies.
        """
        name, head = at
        layer, rows = int(name.split(".")[1]), torch.arange(len(self.position), device=self.position.device)
        part = "mlp.hook_post" if head is None else "attn.hook_z"
        read = self.taps[f"blocks.{layer}.{part}"][0, rows, self.position]
        read = read if head is None else read[:, head]
        centred = read - read.mean(0)
        values, vectors = torch.linalg.eigh(centred.mT @ centred)
        values = values.clamp_min(LEAST_VARIED * values.amax())
        return (vectors * (values / values.mean().clamp_min(TINY)).sqrt()) @ vectors.mT

    def said(
        self, at: At, change: Float[Tensor, "unit d_model"]
    ) -> tuple[Float[Tensor, "example d_model"], Float[Tensor, "example d_vocab"]]:
        """The last residual stream and the logits at the answer positions, with a component changed."""
        name, head = at
        layer, config = int(name.split(".")[1]), self.config
        weights = {**self.weights, name: self.weights[name] + whole_weight(self.weights, at, change)[None]}
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


def fitted(
    known: ComponentRun,
    at: At,
    wanted: Int[Tensor, " example"],
    n_steps: int,
    *,
    price: float = PRICE,
    start: Float[Tensor, "unit d_model"] | None = None,
    varied: Float[Tensor, "unit unit2"] | None = None,
    shown: Bool[Tensor, " example"] | None = None,
) -> Fit:
    """The change of one component that makes all that is known come right.

    Args:
        price: of the square norm of the whole change, as `PRICE` is.
        start: a change to begin from; none by default.
        varied: of the component, with no `start`: a change has the lower a price, the more what it reads
            varies.
        shown: those that count as much together as the others together, by default all.
    """
    assert start is None or varied is None
    begun = torch.zeros_like(known.own(at)) if start is None else start
    sizes = [w.square().sum() for key, w in known.weights.items() if key.endswith((".W_O", ".W_out"))]
    n_components = known.config.n_layers * (known.config.n_heads + known.config.has_mlp)
    factor = price * n_components / max(float(torch.stack(sizes).sum()), LEAST_SQUARE)

    weight = torch.full(wanted.shape, 1 / len(wanted), dtype=begun.dtype, device=wanted.device)
    if shown is not None and not shown.all():
        n = int(shown.sum())
        weight = torch.where(shown, 0.5 / n, 0.5 / (len(shown) - n)).to(weight)

    def changed(step: Tensor) -> Tensor:
        return begun + step if varied is None else varied @ step

    def loss(flat: Tensor) -> Tensor:
        step = flat.view_as(begun)
        change = changed(step)
        said = known.said(at, change)[1].log_softmax(-1)
        priced = change if varied is None else step
        return factor * priced.square().sum() - weight @ said.gather(1, wanted[:, None])[:, 0]

    flat, least = minimised(loss, begun.numel(), n_steps=n_steps, least_gain=LEAST_GAIN, device=wanted.device)
    return Fit(at=at, change=changed(flat.view_as(begun)), loss=least)


def whole_weight(
    weights: Weights, at: At, change: Float[Tensor, "unit d_model"]
) -> Float[Tensor, "*head unit d_model"]:
    """A change of one head as one of the whole weight."""
    name, head = at
    if head is None:
        return change
    heads = torch.arange(weights[name].shape[1], device=change.device) == head
    return heads[:, None, None] * change
