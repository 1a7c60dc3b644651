"""Runs of circuits: any set of edges carries what flows in the run, all other edges carry their patch.

A destination reads, for each source, either what that source writes in this very run or what it would write
when patched. The exact sweep does this for one edge at a time, and faster; here many sets run at once.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metamodel.circuits.base_run import BaseRun
from metamodel.circuits.graph import component_edges
from metamodel.subjects.forward import Weights

_CHUNK = 4_000_000
"""Numbers in the widest array of one chunk of masks."""


def masked_logits(run: BaseRun, kept: Bool[Tensor, "mask edge"]) -> Float[Tensor, "mask ask d_vocab"]:
    """Logits where answers are asked, one run for each set of kept edges.

    With all edges kept these are the logits of the run itself; with none, each source's direct path carries
    its patch. LayerNorms follow the run's setting (recomputed, or frozen).
    """
    c, (_, n_prompts, n_pos, d_model) = run.config, run.outputs.shape
    widest = 3 * c.n_heads * n_prompts * n_pos * max(d_model, c.d_mlp // (3 * c.n_heads), n_pos)
    parts = kept.split(max(1, _CHUNK // widest))
    return torch.cat([_logits(run, part) for part in parts])


def _logits(run: BaseRun, kept: Bool[Tensor, "mask edge"]) -> Tensor:
    c, suffix, n = run.config, run.suffix, kept.shape[0]
    weights = suffix.weights
    edges = component_edges(c)
    keep = kept.to(run.outputs.dtype)
    patch = run.patch
    # Sources of this run minus their patch, [source, mask, batch, pos, d_model], and the sum of all patches.
    differ = [(run.outputs[i] - patch[i]).expand(n, *patch.shape[1:]) for i in range(2)]
    constant = patch[0] + patch[1]
    first = 0

    def read(n_sources: int, n_destinations: int) -> Float[Tensor, "mask destination batch pos d_model"]:
        """What the next destinations read; edges run by destination, then by source."""
        nonlocal first
        chosen = keep[:, first : first + n_destinations * n_sources]
        first += n_destinations * n_sources
        chosen = chosen.unflatten(1, (n_destinations, n_sources))
        stacked = torch.stack(differ, dim=1).flatten(2)
        return (chosen @ stacked).unflatten(2, constant.shape) + constant

    for layer in range(c.n_layers):
        block = f"blocks.{layer}"
        inputs = read(len(differ), 3 * c.n_heads).unflatten(1, (3, c.n_heads))
        normed = suffix.norm(inputs, f"{block}.ln1")
        q, k, v = (_project(suffix.weights, block, x, normed[:, i]) for i, x in enumerate("QKV"))
        z = suffix.attend(q, k) @ v
        out = torch.einsum("nhbpd,hdm->hnbpm", z, weights[f"{block}.attn.W_O"])
        n_sources = len(differ)
        differ += list(out - patch[n_sources : n_sources + c.n_heads].unsqueeze(1))
        constant = constant + patch[n_sources : n_sources + c.n_heads].sum(0)
        constant = constant + weights[f"{block}.attn.b_O"]
        if c.has_mlp:
            resid = read(len(differ), 1).squeeze(1)
            out = suffix.mlp(layer, resid)
            differ.append(out - patch[len(differ)])
            constant = constant + patch[len(differ) - 1]
    final = read(len(differ), 1).squeeze(1)
    assert first == len(edges)
    return suffix.unembed(suffix.at_answer(final))


def _project(
    weights: Weights, block: str, which: str, normed: Float[Tensor, "mask head batch pos d_model"]
) -> Float[Tensor, "mask head batch pos d_head"]:
    """Queries, keys or values, each head from an input of its own."""
    w, b = weights[f"{block}.attn.W_{which}"], weights[f"{block}.attn.b_{which}"]
    return torch.einsum("nhbpm,hmd->nhbpd", normed, w) + b[:, None, None]
