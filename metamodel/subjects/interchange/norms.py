"""LayerNorms of a bridge that keep the scales of another run: readers are then linear in what they read.

A norm makes `y = b + w (x - mean) / scale(x)`, RMSNorm the same without mean and b. With the scale frozen at
s that is `b + (y - b) scale(x) / s`, whatever w is and however it is stored.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

Scales = Mapping[str, Float[Tensor, "batch pos one"]]
"""Name of each norm -> what it divides by."""


def norms(bridge: TransformerBridge) -> dict[str, Any]:
    """`blocks.l.ln1`, `blocks.l.ln2` (where the MLP has its own) and `ln_final`."""
    found: dict[str, Any] = {}
    for layer, block in enumerate(bridge.blocks):
        found |= {f"blocks.{layer}.{x}": getattr(block, x) for x in ("ln1", "ln2") if x in block.submodules}
    return found | {"ln_final": bridge.ln_final}


def scale_of(norm: Any, x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest one"]:
    """What a norm divides by."""
    module = norm.original_component
    eps = getattr(module, "eps", None)
    eps = getattr(module, "variance_epsilon", None) if eps is None else eps
    eps = norm.config.eps if eps is None else eps
    x = x if x.dtype == torch.float64 else x.float()
    if not norm.uses_rms_norm:
        x = x - x.mean(-1, keepdim=True)
    return (x.square().mean(-1, keepdim=True) + eps).sqrt()


@contextmanager
def frozen(bridge: TransformerBridge, scales: Scales | None) -> Iterator[None]:
    """Every norm divides by the given scales, whose rows are those of the run inside the block."""
    with ExitStack() as stack:
        for name, norm in norms(bridge).items() if scales else ():
            assert scales is not None
            read: list[Tensor] = []
            # Heads read through the raw module, each its own copy; the rest through the bridge's, which
            # computes it anew or calls the raw one: its answer is replaced by the raw one's.
            hooks = [
                (norm.original_component, _rescaling(norm, scales[name])),
                (norm.hook_in, _noting(read)),
                (norm, _answering(norm, read)),
            ]
            for module, hook in hooks:
                stack.callback(module.register_forward_hook(hook).remove)
        yield


_Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]


def _noting(read: list[Tensor]) -> _Hook:
    def hook(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        read[:] = [made]

    return hook


def _answering(norm: Any, read: list[Tensor]) -> _Hook:
    def hook(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
        return norm.original_component(read.pop())

    return hook


def _rescaling(norm: Any, scale: Float[Tensor, "batch pos one"]) -> _Hook:
    def hook(module: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
        x, bias = given[0], getattr(module, "bias", None)
        bias = torch.zeros((), dtype=made.dtype, device=made.device) if bias is None else bias
        before = scale
        if x.ndim == 2:  # the copies of heads, side by side at each position
            before = scale.reshape(-1, 1).repeat_interleave(len(x) // scale.numel(), 0)
        ratio = scale_of(norm, x) / before
        return bias + (made - bias) * ratio.to(made)

    return hook
