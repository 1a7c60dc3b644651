"""Exchanges of components between prompts, for many subjects and prompts at once.

Which component is exchanged is a mask `[subject, batch, node]`: every prompt of every subject can have its own,
so that subjects with different circuits train in one stack.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import Weights, forward
from metamodel.subjects.sites import Replacement

Written = Mapping[str, Tensor]
"""What heads (`hook_z`) and MLPs (`hook_mlp_out`) hold, by site. A head writes a linear image of its `hook_z`:
exchanging one exchanges the other, and the smaller one is cheaper."""


def written_sites(config: SubjectConfig) -> tuple[str, ...]:
    """Sites of all heads and MLPs."""
    found = []
    for layer in range(config.n_layers):
        found.append(f"blocks.{layer}.attn.hook_z")
        found += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []
    return tuple(found)


def exchanges(
    config: SubjectConfig, other: Written, swap: Bool[Tensor, "subject batch node"]
) -> dict[str, Replacement]:
    """Replacements under which the marked components write what they wrote on other prompts."""

    def replacement(site: str, mask: Tensor) -> Replacement:
        return lambda value: torch.where(mask, other[site], value)

    nodes, found = components(config), {}
    for layer in range(config.n_layers):
        heads = [i for i, node in enumerate(nodes) if node.kind == "head" and node.layer == layer]
        mask = swap[:, :, heads[0] : heads[-1] + 1]
        site = f"blocks.{layer}.attn.hook_z"
        found[site] = replacement(site, mask[:, :, None, :, None])
        if config.has_mlp:
            site = f"blocks.{layer}.hook_mlp_out"
            found[site] = replacement(site, swap[:, :, heads[-1] + 1, None, None])
    return found


def exchanged_logits(
    weights: Weights,
    config: SubjectConfig,
    tokens: Int[Tensor, "subject batch pos"],
    other: Written,
    swap: Bool[Tensor, "subject batch node"],
) -> Float[Tensor, "subject batch pos d_vocab"]:
    """Logits when each prompt's marked components write what they wrote on its other prompt."""
    return forward(weights, config, tokens, replace=exchanges(config, other, swap)).logits


def one_node(
    node: Int[Tensor, "subject batch"], config: SubjectConfig
) -> Bool[Tensor, "subject batch node"]:
    """Masks of one component each."""
    return torch.nn.functional.one_hot(node, len(components(config))).bool()
