"""A setting of somebody else's network that a subject cannot express is refused by its name."""

from collections.abc import Iterable

import torch
from torch import Tensor

from metamodel.config.errors import InputError, require

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
"""Activation, in the words of transformers or TransformerLens -> a subject's `act_fn`."""

SUPPORTED = (
    "Subjects have learned positions, LayerNorm before each block or no norm, as many keys as queries, and "
    "an ungated relu, gelu or gelu_new MLP or none (GPT-2, or a native bridge); BERT can be read only. "
    "Choose such a network."
)


def require_setting(where: str, got: object, allowed: Iterable[object]) -> None:
    """Raises: InputError that names the setting `where`, unless `got` is one of `allowed`."""
    allowed = list(allowed)
    if got not in allowed:
        expected = " or ".join(repr(value) for value in allowed)
        raise InputError(where, expected=expected, got=repr(got), do=SUPPORTED)


def head_width(where: str, d_model: int, n_heads: int) -> int:
    """`d_head` of a network that divides its width among its heads.

    Raises: InputError that names the setting `where`, unless the heads share the width evenly.
    """
    ok = n_heads >= 1 and d_model % n_heads == 0
    expected = f"a positive divisor of the width {d_model}"
    require(ok, where, expected=expected, got=repr(n_heads), do="Set the number of heads that was trained.")
    return d_model // n_heads


def owned(weight: Tensor) -> Tensor:
    """A copy of a weight that shares no memory with its network; half precision becomes float32."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.detach().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)
