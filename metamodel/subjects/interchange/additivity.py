"""Checks of what hooks find on a run: readers read the stream, and what writers write adds up to it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.config.errors import require
from metamodel.subjects.interchange.agreement import check_equal
from metamodel.subjects.interchange.flags import OTHER
from metamodel.subjects.interchange.forks import projected, results
from metamodel.subjects.interchange.hooks import Hook

if TYPE_CHECKING:
    from metamodel.subjects.interchange.hooked_bridge import HookedBridge


def _inputs(layer: int) -> list[str]:
    return [f"blocks.{layer}.hook_{x}_input" for x in "qkv"]


def comparing_inputs(hooked: "HookedBridge", taken: dict[str, Tensor], layer: int) -> list[tuple[str, Hook]]:
    """Checks at once that heads read the stream: their copies of it are too large to be kept.

    Without forks it is what they make of it that is checked, and what they write is noted.
    """
    block, n_heads = hooked.bridge.blocks[layer], hooked.config.n_heads

    def comparing(name: str, channel: str) -> Hook:
        def hook(value: Tensor, *, hook: object) -> None:
            copies = taken[f"blocks.{layer}.hook_resid_pre"].unsqueeze(2).expand(-1, -1, n_heads, -1)
            wanted = copies if hooked.forks else projected(block, channel, copies).reshape(value.shape)
            check_equal(f"{hooked.name}.{name}", value, wanted)
            taken[name] = value.new_zeros(())

        return hook

    def noting(value: Tensor, *, hook: object) -> None:
        by_head = value.detach().reshape(*value.shape[:2], n_heads, -1)
        taken[f"blocks.{layer}.attn.hook_result"] = results(block, by_head)

    hooks: list[tuple[str, Hook]] = []
    for name, channel in zip(_inputs(layer), "qkv", strict=True):
        place = name if hooked.forks else f"blocks.{layer}.attn.{channel}.hook_out"
        hooks.append((place, comparing(name, channel)))
    return hooks if hooked.forks else [*hooks, (f"blocks.{layer}.attn.o.hook_in", noting)]


def checked_outputs(
    hooked: "HookedBridge", taken: Mapping[str, Tensor]
) -> Float[Tensor, "source batch pos d_model"]:
    """What each source wrote, if that is what the stream is the sum of.

    Raises: InputError if it is not, or hooks are missing.
    """
    embedded = taken["hook_embed"]
    position = taken.get("hook_pos_embed", torch.zeros_like(embedded)).expand_as(embedded)
    found, stream = [embedded, position], embedded + position

    def check(name: str, wanted: Tensor) -> Tensor:
        check_equal(f"{hooked.name}.{name}", taken[name], wanted)
        return taken[name]

    for layer in range(hooked.config.n_layers):
        block = f"blocks.{layer}"
        wanted = [name for name in hooked.names() if name.startswith(f"{block}.")] + _inputs(layer)
        missing = [name for name in wanted if name not in taken]
        require(
            not missing,
            f"{hooked.name}.{block}",
            expected="an architecture for which TransformerLens has hooks at all inputs and outputs",
            got=f"none at {', '.join(missing)}",
            do=OTHER,
        )
        stream = check(f"{block}.hook_resid_pre", stream)
        heads = taken[f"{block}.attn.hook_result"]
        bias = getattr(hooked.bridge.blocks[layer].attn.o.original_component, "bias", None)
        attention = heads.sum(2) if bias is None else heads.sum(2) + bias
        mid = stream + check(f"{block}.hook_attn_out", attention)
        found += list(heads.unbind(2))
        if hooked.config.has_mlp:
            if hooked.shared_norm:
                check(f"{block}.mlp.hook_in", hooked.bridge.blocks[layer].ln1.original_component(stream))
            else:
                check(f"{block}.ln2.hook_in", stream if hooked.parallel else mid)
            found.append(taken[f"{block}.hook_mlp_out"])
            mid = mid + found[-1]
        stream = check(f"{block}.hook_resid_post", mid)
    return torch.stack(found)
