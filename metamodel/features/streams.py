"""Whose writing a component reads: shares of the variance that reaches each of its inputs, from a run.

Composition says how well two matrices fit; a source that writes nothing on the inputs at hand fits as well.
Here every source is represented by the root of the second moment of what it writes, so that
`‖A_source B_reader‖²` is the variance that it brings to a reader's query, key, value or input, as a share of
what all sources before the reader bring. Nothing is intervened on: these are no edge scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.features.view import View
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Run

Root = Float[Tensor, "source row d_model"]
LEAST = 1e-4
"""Smallest share that is told from none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Written:
    """For each layer's heads, each MLP and each embedding the root of the moment of what is written."""

    anywhere: Mapping[tuple[str, int], Tensor]
    """`[source, row, d_model]` by (kind, layer), over all positions."""
    asked: Mapping[tuple[str, int], Tensor]
    """Over the positions that are asked about."""


def sites(config: SubjectConfig) -> list[str]:
    """What `written` needs of a run."""
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        names += [f"blocks.{layer}.attn.hook_z"] + (
            [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []
        )
    return names


@torch.no_grad()
def written(
    v: View,
    run: Run,
    tokens: Int[Tensor, "batch pos"],
    position: Int[Tensor, " batch"] | None,
) -> Written:
    """The centred moment of what every source writes.

    Args:
        run: of the subject on `tokens`, with taps at `sites`.
        position: that is asked about in each prompt; None for every position.
    """
    config = v.config
    taps = {name: run.taps[name][0] for name in sites(config)}
    each = torch.arange(len(tokens), device=tokens.device)

    def roots(at_asked: bool) -> dict[tuple[str, int], Root]:
        def rows(x: Tensor) -> Tensor:
            x = x.expand(len(tokens), *x.shape[-(x.ndim - 1) :]) if x.shape[0] != len(tokens) else x
            chosen = x[each, position] if at_asked and position is not None else x.flatten(0, 1)
            return (chosen - chosen.mean(0)).to(v.E)

        found: dict[tuple[str, int], Root] = {
            ("token_embedding", -1): _root(rows(taps["hook_embed"]))[None],
            ("position_embedding", -1): _root(rows(taps["hook_pos_embed"]))[None],
        }
        for layer in range(config.n_layers):
            z = rows(taps[f"blocks.{layer}.attn.hook_z"]).transpose(0, 1)
            found["head", layer] = _root(z) @ v.W_O[layer]
            if config.has_mlp:
                found["mlp", layer] = _root(rows(taps[f"blocks.{layer}.hook_mlp_out"]))[None]
        return found

    anywhere = roots(at_asked=False)
    return Written(anywhere=anywhere, asked=anywhere if position is None else roots(at_asked=True))


def _root(rows: Float[Tensor, "*rest sample width"]) -> Float[Tensor, "*rest row width"]:
    """`R` with `Rᵀ R` the second moment of the rows."""
    return torch.linalg.qr(rows / rows.shape[-2] ** 0.5).R


def variance(root: Root, read: Float[Tensor, "reader d_model column"]) -> Float[Tensor, "source reader"]:
    """`‖A B‖²` of every source of a block and every reader of another."""
    flat = root.flatten(0, 1) @ read.transpose(0, 1).flatten(1)
    return flat.pow(2).view(root.shape[0], root.shape[1], read.shape[0], read.shape[2]).sum((1, 3))


def log_shares(brought: Float[Tensor, "source reader"]) -> Float[Tensor, "source reader"]:
    """Log of every source's share of what a reader gets, floored at `LEAST`."""
    share = brought / brought.sum(0, keepdim=True).clamp_min(1e-30)
    return share.clamp_min(LEAST).log()
