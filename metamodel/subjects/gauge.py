"""Random elements of the gauge group: other weights, the same outputs.

Whatever is said of a subject must not depend on them. The group is larger than the obvious symmetries: key
biases, value biases, and a shift between token and position embeddings belong to it, and under LayerNorm
so do gains, the mean over `d_model` of every write, and a constant added to any reader.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from metamodel.config.errors import require
from metamodel.subjects.canonical import folded, residual_map
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject

_SHIFT = 0.3
"""Standard deviation of shifts of biases and embeddings, relative to the root mean square of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaugeElement:
    """A subject in another gauge, and where its components went."""

    subject: Subject
    node_order: Int[Tensor, " node"]
    """`node_order[i]`: index in the old subject of the new subject's node i."""


def random_gauge(subject: Subject, generator: torch.Generator, *, condition: float = 10.0) -> Subject:
    """The same outputs from other weights; see `gauge_element`, which also tells where heads went."""
    return gauge_element(subject, generator, condition=condition).subject


def gauge_element(subject: Subject, generator: torch.Generator, *, condition: float = 10.0) -> GaugeElement:
    """A random element of the whole gauge group, applied to a subject.

    Order of heads and neurons; GL(d_head) inside QK and OV; key biases; value biases into `b_O`; ReLU scales;
    a shift between `W_E` and `W_pos`; and for the residual stream, under LayerNorm, a rotation that fixes
    the all-ones vector, new gains, and means of writes and readers, without a norm any invertible map. A
    post-norm subject keeps its residual stream and embeddings.

    Args:
        condition: largest condition number of any map. Float32 logits drift by 1e-5 at 10, by 3e-4 at 1000.

    Raises: InputError if `condition` is below 1.
    """
    require(condition >= 1, "condition", expected="at least 1", got=condition, do="Choose 10 or so.")
    config = subject.config
    draw = _Draw(generator=generator, condition=condition)
    source = folded(subject) if config.has_norm and config.norm_position == "pre" else subject
    weights = {key: value.double() for key, value in source.weights.items()}
    order = list(range(2))
    for layer in range(config.n_layers):
        heads = draw.heads(weights, config, f"blocks.{layer}.attn")
        order += [len(order) + int(head) for head in heads]
        if config.has_mlp:
            draw.neurons(weights, config, f"blocks.{layer}.mlp")
            order.append(len(order))
    order.append(len(order))
    assert len(order) == len(components(config))
    if config.norm_position == "pre":
        draw.positions(weights)
        weights = draw.residual(weights, config)
    dtypes = {key: value.dtype for key, value in subject.weights.items()}
    moved = {key: value.to(dtypes[key]) for key, value in weights.items()}
    device = subject.weights["embed.W_E"].device
    return GaugeElement(subject=subject.with_weights(moved), node_order=torch.tensor(order, device=device))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Draw:
    """Draws maps and changes float64 weights by them, in place."""

    generator: torch.Generator
    condition: float

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Standard normal numbers in the type and on the device of `like`."""
        drawn = torch.randn(
            shape, generator=self.generator, device=self.generator.device, dtype=torch.float64
        )
        return drawn.to(like.device)

    def shift(self, *shape: int, like: Tensor) -> Tensor:
        return self.normal(*shape, like=like) * _SHIFT * like.square().mean().sqrt()

    def order(self, n: int, *, like: Tensor) -> Tensor:
        drawn = torch.randperm(n, generator=self.generator, device=self.generator.device)
        return drawn.to(like.device)

    def scales(self, *shape: int, like: Tensor) -> Tensor:
        """Positive numbers, log-uniform, whose ratios stay below the condition number."""
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device, dtype=torch.float64)
        return self.condition ** (drawn.to(like.device) - 0.5)

    def orthogonal(self, *batch: int, size: int, like: Tensor) -> Tensor:
        """Haar-distributed orthogonal matrices."""
        q, r = torch.linalg.qr(self.normal(*batch, size, size, like=like))
        return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)

    def invertible(self, *batch: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A map of bounded condition number, and its inverse."""
        left, right = (self.orthogonal(*batch, size=size, like=like) for _ in range(2))
        scale = self.scales(*batch, size, like=like)
        return left * scale.unsqueeze(-2) @ right, right.mT / scale.unsqueeze(-2) @ left.mT

    def heads(self, weights: dict[str, Tensor], config: SubjectConfig, attn: str) -> Tensor:
        """Gauge of one attention layer; returns the old index of each new head."""
        size = {"size": config.d_head, "like": weights[f"{attn}.W_Q"]}
        qk, qk_inverse = self.invertible(config.n_heads, **size)
        ov, ov_inverse = self.invertible(config.n_heads, **size)
        for name, change in (("Q", qk), ("K", qk_inverse.mT), ("V", ov)):
            bias = weights[f"{attn}.b_{name}"].unsqueeze(1)
            weights[f"{attn}.W_{name}"] = weights[f"{attn}.W_{name}"] @ change
            weights[f"{attn}.b_{name}"] = (bias @ change).squeeze(1)
        weights[f"{attn}.W_O"] = ov_inverse @ weights[f"{attn}.W_O"]
        shape = weights[f"{attn}.b_K"].shape
        weights[f"{attn}.b_K"] = weights[f"{attn}.b_K"] + self.shift(*shape, like=weights[f"{attn}.W_K"])
        value = self.shift(*shape, like=weights[f"{attn}.W_V"])
        weights[f"{attn}.b_V"] = weights[f"{attn}.b_V"] + value
        constant = torch.einsum("hd,hdm->m", value, weights[f"{attn}.W_O"])
        weights[f"{attn}.b_O"] = weights[f"{attn}.b_O"] - constant
        order = self.order(config.n_heads, like=constant)
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            weights[f"{attn}.{name}"] = weights[f"{attn}.{name}"][order]
        return order

    def neurons(self, weights: dict[str, Tensor], config: SubjectConfig, mlp: str) -> None:
        order = self.order(config.d_mlp, like=weights[f"{mlp}.W_in"])
        scale = self.scales(config.d_mlp, like=weights[f"{mlp}.W_in"])
        if config.act_fn != "relu":
            scale = torch.ones_like(scale)
        weights[f"{mlp}.W_in"] = (weights[f"{mlp}.W_in"] * scale)[:, order]
        weights[f"{mlp}.b_in"] = (weights[f"{mlp}.b_in"] * scale)[order]
        weights[f"{mlp}.W_out"] = (weights[f"{mlp}.W_out"] / scale.unsqueeze(1))[order]

    def positions(self, weights: dict[str, Tensor]) -> None:
        shift = self.shift(weights["embed.W_E"].shape[1], like=weights["embed.W_E"])
        weights["embed.W_E"] = weights["embed.W_E"] + shift
        weights["pos_embed.W_pos"] = weights["pos_embed.W_pos"] - shift

    def residual(self, weights: dict[str, Tensor], config: SubjectConfig) -> dict[str, Tensor]:
        d, like = config.d_model, weights["embed.W_E"]
        if not config.has_norm:
            write, read = self.invertible(size=d, like=like)
            return residual_map(weights, config, write, read)
        ones = torch.full((d, 1), d**-0.5, dtype=torch.float64, device=like.device)
        # The last d - 1 columns of a complete basis that starts with the all-ones vector.
        frame = torch.cat([ones, torch.eye(d, d - 1, dtype=torch.float64, device=like.device)], dim=1)
        basis = torch.linalg.qr(frame)[0][:, 1:]
        rotation = ones @ ones.T
        if d > 1:
            rotation = rotation + basis @ self.orthogonal(size=d - 1, like=like) @ basis.T
        return self.means_and_gains(residual_map(weights, config, rotation, rotation.T))

    def means_and_gains(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What LayerNorm hides: constants in writes and readers, and gains, here moved out of the readers."""
        gains = {key: self.scales(len(v), like=v) for key, v in weights.items() if key.endswith(".w")}
        made = {}
        for key, value in weights.items():
            path, leaf = key.rsplit(".", 1)
            if key in gains:
                value = gains[key]
            elif leaf in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
                value = value + self.shift(*value.shape[:-1], 1, like=value)
            elif leaf in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
                shift = self.shift(*value.shape[:-2], 1, value.shape[-1], like=value)
                block = path.rsplit(".", 1)[0]
                norm = {"W_in": f"{block}.ln2", "W_U": "ln_final"}.get(leaf, f"{block}.ln1")
                value = (value + shift) / gains[f"{norm}.w"].unsqueeze(1)
            made[key] = value
        return made
