"""Grouped-query attention without groups: every query head reads keys and values of its own.

Llama, Mistral and Qwen let several query heads share one pair of key and value heads. The graph of components
has q, k and v of each head, and so the shared matrices are repeated, once for each query head that uses them:
the network computes the same, and what one head reads as keys can be patched without its neighbours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from metamodel.config.errors import require

_DO = "Choose a network without grouped-query attention."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ungrouped:
    """A bridge whose query heads get keys and values of their own for the length of a run."""

    bridge: TransformerBridge
    n_kv: int
    """Key and value heads of each block."""

    @classmethod
    def of(cls, bridge: TransformerBridge, *, name: str) -> "Ungrouped":
        """Raises: InputError for an architecture whose groups cannot be taken apart."""
        cfg = bridge.cfg
        n_kv = cfg.n_key_value_heads or cfg.n_heads
        per_layer = getattr(cfg, "per_layer_num_key_value_heads", None) or ()
        require(
            set(per_layer) <= {n_kv},
            f"{name}.per_layer_num_key_value_heads",
            expected=f"{n_kv} in every block",
            got=list(per_layer),
            do=_DO,
        )
        found = cls(bridge=bridge, n_kv=n_kv)
        if not found.grouped:
            return found
        require(
            cfg.n_heads % n_kv == 0,
            f"{name}.n_key_value_heads",
            expected=f"a divisor of {cfg.n_heads} heads",
            got=n_kv,
            do=_DO,
        )
        for layer, block in enumerate(bridge.blocks):
            attn: Any = block.attn
            shared_norm = getattr(attn, "_qk_norm_phase", None) == "pre_reshape"
            require(
                not (shared_norm or getattr(attn, "_qk_norm_per_head", False)),
                f"{name}.blocks.{layer}.attn.k_norm",
                expected="a norm of each key head by itself, with one gain for all",
                got="one across heads, or with a gain for each head",
                do=_DO,
            )
        return found

    @property
    def grouped(self) -> bool:
        return self.n_kv != self.bridge.cfg.n_heads

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The bridge with repeated matrices in place; the shared ones come back after."""
        places: list[tuple[Any, str, Any]] = []
        if self.grouped:
            cfg = self.bridge.cfg
            places.append((cfg, "n_key_value_heads", cfg.n_heads))
            for block in self.bridge.blocks:
                attn: Any = block.attn
                if attn.config is not cfg:
                    places.append((attn.config, "n_key_value_heads", cfg.n_heads))
                if getattr(attn.original_component, "num_key_value_groups", 1) > 1:
                    places.append((attn.original_component, "num_key_value_groups", 1))
                for matrix in (attn.k, attn.v):
                    repeated = _repeated(matrix.original_component, self.n_kv, cfg.n_heads)
                    places.append((matrix, "_original_component", repeated))
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        try:
            for owner, name, value in places:
                setattr(owner, name, value)
            yield
        finally:
            for owner, name, value in reversed(before):
                setattr(owner, name, value)


def _repeated(shared: nn.Linear, n_kv: int, n_heads: int) -> nn.Linear:
    """Rows of each key or value head, once for each query head of its group."""

    def repeat(rows: Tensor) -> nn.Parameter:
        by_head = rows.detach().unflatten(0, (n_kv, -1)).repeat_interleave(n_heads // n_kv, 0)
        return nn.Parameter(by_head.flatten(0, 1), requires_grad=False)

    made = nn.Linear(1, 1, bias=shared.bias is not None, device="meta")
    made.weight = repeat(shared.weight)
    made.in_features, made.out_features = made.weight.shape[1], made.weight.shape[0]
    if shared.bias is not None:
        made.bias = repeat(shared.bias)
    return made.eval()
