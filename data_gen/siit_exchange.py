"""Exchanges of components between prompts, for many subjects and prompts at once.

Which component is exchanged is given for each prompt of each subject, so that subjects with different
circuits train in one stack. A prompt's partner, whose component it takes, is the next one of the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import Weights, forward, run_from_heads
from metamodel.subjects.sites import Replacement, Sites


def partner(values: Tensor, dim: int) -> Tensor:
    """For each prompt along an axis what its partner has."""
    return values.roll(-1, dim)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanRun:
    """A run of prompts as they are, and what exchanges need of it."""

    logits: Float[Tensor, "subject batch pos d_vocab"]
    resid: Float[Tensor, "subject batch pos d_model"]
    """Residual stream before the first block. No exchange changes it, nor the first block's attention."""
    written: Mapping[str, Tensor]
    """What heads (`hook_z`) and MLPs (`hook_mlp_out`) hold, by site. A head writes a linear image of its
    `hook_z`: exchanging one exchanges the other."""


def run_clean(weights: Weights, config: SubjectConfig, tokens: Int[Tensor, "subject batch pos"]) -> CleanRun:
    """Runs prompts as they are."""
    first, names = "blocks.0.hook_resid_pre", _sites(config)
    run = forward(weights, config, tokens, taps=(first, *names))
    return CleanRun(
        logits=run.logits, resid=run.taps[first], written={name: run.taps[name] for name in names}
    )


def exchanged_logits(
    weights: Weights, config: SubjectConfig, clean: CleanRun, node: Int[Tensor, "subject row batch"]
) -> Float[Tensor, "subject row batch pos d_vocab"]:
    """Logits when one component of each prompt writes what it writes on the prompt's partner.

    Args:
        node: `row` is a number of exchanges that are made of each prompt. A component that is neither a head
            nor an MLP is not exchanged.
    """
    n_rows, n_prompts = node.shape[1:]
    swap = torch.nn.functional.one_hot(node.flatten(1), len(components(config))).bool()
    other = {
        site: _repeated(partner(value[:, :n_prompts], 1), n_rows) for site, value in clean.written.items()
    }
    replace = _exchanges(config, other, swap)
    first = "blocks.0.attn.hook_z"
    z = replace.pop(first)(_repeated(clean.written[first][:, :n_prompts], n_rows))
    resid = _repeated(clean.resid[:, :n_prompts], n_rows)
    logits = run_from_heads(weights, config, resid, z, layer=0, site=Sites((), replace)).logits
    return logits.unflatten(1, (n_rows, n_prompts))


def _sites(config: SubjectConfig) -> list[str]:
    """Where heads and MLPs are exchanged."""
    found = []
    for layer in range(config.n_layers):
        found.append(f"blocks.{layer}.attn.hook_z")
        found += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []
    return found


def _exchanges(
    config: SubjectConfig, other: Mapping[str, Tensor], swap: Bool[Tensor, "subject batch node"]
) -> dict[str, Replacement]:
    """Replacements under which the marked components hold something else."""

    def replacement(site: str, mask: Tensor) -> Replacement:
        return lambda value: torch.where(mask, other[site], value)

    nodes, found = components(config), {}
    for layer in range(config.n_layers):
        heads = [i for i, node in enumerate(nodes) if node.kind == "head" and node.layer == layer]
        mask, site = swap[:, :, heads[0] : heads[-1] + 1], f"blocks.{layer}.attn.hook_z"
        found[site] = replacement(site, mask[:, :, None, :, None])
        if config.has_mlp:
            site = f"blocks.{layer}.hook_mlp_out"
            found[site] = replacement(site, swap[:, :, heads[-1] + 1, None, None])
    return found


def _repeated(values: Tensor, n_rows: int) -> Tensor:
    """The same prompts several times, `[subject, (row batch), ...]`."""
    return values.unsqueeze(1).expand(-1, n_rows, *values.shape[1:]).flatten(1, 2)
