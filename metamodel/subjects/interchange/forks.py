"""Heads one by one in architectures where TransformerLens has hooks at whole projections only.

Where attention is left to transformers (GPT-J, GPT-Neo, OPT), and in a few that TransformerLens runs itself
(BLOOM, CodeGen, MPT), a bridge has hooks behind its query, key and value projections and before its output
projection, and none at single heads that say what is so. What a head reads is then changed by projecting the
changed stream anew, and what it writes by adding the difference behind the output projection.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

Change = Callable[[Tensor], Tensor]
Sites = list[tuple[str, Change]]


def has_projections(bridge: TransformerBridge) -> bool:
    """Whether every block has a norm before attention, and one matrix each for q, k, v and the output."""

    def has(block: Any) -> bool:
        modules = [getattr(getattr(block.attn, x, None), "original_component", None) for x in "qkvo"]
        return "ln1" in block.submodules and all(hasattr(module, "weight") for module in modules)

    return all(map(has, bridge.blocks))


def changed_input(bridge: TransformerBridge, layer: int, channel: str, change: Change) -> Sites:
    """Hooks that change what the heads of a block read as `q`, `k` or `v`, `[batch, pos, head, d_model]`."""
    stream: dict[str, Tensor] = {}
    block: Any = bridge.blocks[layer]
    n_heads = bridge.cfg.n_heads

    def keep(value: Tensor) -> Tensor:
        stream["here"] = value
        return value

    def project(value: Tensor) -> Tensor:
        copies = stream["here"].unsqueeze(2).expand(-1, -1, n_heads, -1).clone()
        return projected(block, channel, change(copies)).reshape(value.shape)

    return [
        (f"blocks.{layer}.hook_resid_pre", keep),
        (f"blocks.{layer}.attn.{channel}.hook_out", project),
    ]


def changed_results(bridge: TransformerBridge, layer: int, change: Change) -> Sites:
    """Hooks that change what the heads of a block write, `[batch, pos, head, d_model]`."""
    added: dict[str, Tensor] = {}
    block: Any = bridge.blocks[layer]
    n_heads = bridge.cfg.n_heads

    def written(value: Tensor) -> Tensor:
        before = results(block, value.reshape(*value.shape[:2], n_heads, -1))
        after = change(before)
        if after is not before:
            added["here"] = (after - before).sum(2)
        return value

    def add(value: Tensor) -> Tensor:
        return value + added["here"] if added else value

    return [(f"blocks.{layer}.attn.o.hook_in", written), (f"blocks.{layer}.hook_attn_out", add)]


def projected(block: Any, channel: str, read: Float[Tensor, "batch pos head d_model"]) -> Tensor:
    """Queries, keys or values `[batch, pos, head, d_head]` of heads that each read a stream of their own."""
    module = getattr(block.attn, channel).original_component
    normed = block.ln1.original_component(read.flatten(0, 2)).view_as(read)
    by_head = _matrix(module).unflatten(0, (read.shape[2], -1))
    found = torch.einsum("bphd,hed->bphe", normed, by_head)
    return found if module.bias is None else found + module.bias.unflatten(0, (read.shape[2], -1))


def results(block: Any, z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
    """What each head writes, `[batch, pos, head, d_model]`."""
    module = block.attn.o.original_component
    by_head = _matrix(module).unflatten(1, (z.shape[2], -1))
    return torch.einsum("bphe,dhe->bphd", z, by_head)


def _matrix(module: nn.Module) -> Tensor:
    """A projection's matrix, `[out, in]`; transformers' Conv1D stores it transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if type(module).__name__ == "Conv1D" else weight
