"""Twins of composition: what a head's queries, keys or values read of one earlier head is its mean."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.labels.composition import CHANNELS
from data_gen.labels.interventions import CleanRun, logits_of_change
from data_gen.labels.registry import LABEL_INDEX
from metamodel.circuits.metrics import margin


def composition_losses(
    run: CleanRun, layer: int, source: Int[Tensor, "head channel"], losses: Float[Tensor, "head label batch"]
) -> None:
    """Fills in the margin lost when one edge into each head and channel carries its mean over prompts.

    Args:
        source: numbers of the earlier heads, see `composition`.
    """
    if layer == 0:
        return
    suffix, attn = run.suffix, f"blocks.{layer}.attn"
    head = torch.arange(len(source), device=source.device)
    pre, read = run.taps[f"blocks.{layer}.hook_resid_pre"], {}
    for i, channel in enumerate(CHANNELS):
        delta = torch.stack([_to_mean(run, int(number)) for number in source[:, i]])
        w, b = (suffix.weights[f"{attn}.{x}_{channel.upper()}"] for x in "Wb")
        read[channel] = (
            suffix.norm(pre + delta, f"blocks.{layer}.ln1") @ w.unsqueeze(1) + b[:, None, None]
        )  # head batch pos d_head
    q, k, v = (run.taps[f"{attn}.hook_{x}"].permute(2, 0, 1, 3) for x in CHANNELS)
    z = run.taps[f"{attn}.hook_z"].permute(2, 0, 1, 3)
    pattern = run.taps[f"{attn}.hook_pattern"].transpose(0, 1)
    seen = suffix.visible
    if suffix.is_last(layer):  # only the query at the answer matters
        read["q"], q, z, pattern = (suffix.at_answer(x).unsqueeze(2) for x in (read["q"], q, z, pattern))
        seen = seen[suffix.position].unsqueeze(1)
    scores = torch.stack([read["q"] @ k.transpose(-1, -2), q @ read["k"].transpose(-1, -2)])
    patterns = (scores / suffix.config.d_head**0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    change = (
        torch.cat([patterns @ v, (pattern @ read["v"]).unsqueeze(0)]) - z
    )  # channel head batch pos d_head
    logits = logits_of_change(run, layer, head.repeat(len(CHANNELS)), change.flatten(0, 1))
    lost = (run.margin - margin(logits, run.prompts.answer)).unflatten(0, (len(CHANNELS), -1))
    for i, channel in enumerate(CHANNELS):
        losses[:, LABEL_INDEX[f"{channel}_composition"]] = lost[i]


def _to_mean(run: CleanRun, number: int) -> Float[Tensor, "batch pos d_model"]:
    """From what a head writes to its mean over prompts; heads are counted through all layers."""
    layer, head = divmod(number, run.suffix.config.n_heads)
    z = run.taps[f"blocks.{layer}.attn.hook_z"][:, :, head]
    return (z.mean(0) - z) @ run.suffix.weights[f"blocks.{layer}.attn.W_O"][head]
