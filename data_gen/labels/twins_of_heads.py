"""Twins that change where one head attends, or what it writes straight to the logits."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.entries import answer_entries, attention_entries, offset_entries, row_chance
from data_gen.labels.interventions import (
    CleanRun,
    beyond,
    cut_and_control,
    intervened_logits,
    needs_no_more,
)
from data_gen.labels.registry import ATTENTION_LABELS, LABEL_INDEX
from data_gen.labels.suppression import predicted_keys
from metamodel.circuits.metrics import margin

CUT_LABELS = (*ATTENTION_LABELS, "name_mover", "copy_suppression")
"""Labels whose twin cuts entries of the pattern. `negative_mover` cuts those of `name_mover`."""


def pattern_losses(
    run: CleanRun, layer: int, offset: Int[Tensor, " head"], losses: Float[Tensor, "head label batch"]
) -> None:
    """Fills in what the twins that change patterns of one layer lose on each prompt.

    Args:
        offset: for each head, the distance that `offset_k` found.
    """
    config = run.suffix.config
    direction, n_heads = config.attention_dir, config.n_heads
    clean = run.taps[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)  # head batch query key
    predicted = _predicted(run, layer)
    entries = _entries(run, offset, predicted)
    repeated = clean.unsqueeze(1).expand(entries.shape)
    cut, control = cut_and_control(repeated, entries, direction)
    average = clean.mean(1, keepdim=True).expand(clean.shape)
    flat = row_chance(clean.shape[-1], direction, clean.device).to(clean.dtype).expand(clean.shape)
    cases = torch.cat([cut, control, average.unsqueeze(1), flat.unsqueeze(1)], dim=1)
    head = torch.arange(n_heads, device=clean.device).repeat_interleave(cases.shape[1])
    logits = intervened_logits(run, layer, head, cases.flatten(0, 1)).unflatten(0, (n_heads, -1))
    n_cut = len(CUT_LABELS)
    drop = run.margin - margin(logits, run.prompts.answer)
    by_cut, by_control, by_average, by_flat = drop.split([n_cut, n_cut, 1, 1], dim=1)
    lost = beyond(by_cut, by_control)
    at = {label: i for i, label in enumerate(CUT_LABELS)}
    rise = _rise(run, predicted, logits[:, [at["copy_suppression"], n_cut + at["copy_suppression"]]])
    lost[:, at["copy_suppression"]] = beyond(*rise.unbind(1))
    occurs = entries.flatten(2).any(-1, keepdim=True)
    lost = torch.where(occurs, lost, torch.nan)
    losses[:, [LABEL_INDEX[label] for label in CUT_LABELS]] = lost
    mover = at["name_mover"]
    gained = beyond(-by_cut[:, mover], -by_control[:, mover])
    losses[:, LABEL_INDEX["negative_mover"]] = torch.where(occurs[:, mover], gained, torch.nan)
    losses[:, LABEL_INDEX["positional"]] = needs_no_more(by_flat, by_average).squeeze(1)


def _predicted(run: CleanRun, layer: int) -> Bool[Tensor, "batch query key"]:
    """As `predicted_tokens`, of one subject and layer."""
    logits = run.suffix.unembed(run.taps[f"blocks.{layer}.hook_resid_pre"])
    tokens = run.prompts.clean
    lens = (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, correction=0, keepdim=True).clamp_min(
        1e-6
    )
    lens = lens.gather(-1, tokens.unsqueeze(1).expand(-1, tokens.shape[1], -1))
    return predicted_keys(lens, tokens, run.suffix.config.attention_dir)


def _rise(
    run: CleanRun,
    predicted: Bool[Tensor, "batch query key"],
    logits: Float[Tensor, "head case batch d_vocab"],
) -> Float[Tensor, "head case batch"]:
    """By how much the predicted token's logit, relative to the average token's, lies above the clean one."""
    rows = torch.arange(len(predicted), device=predicted.device)
    at_answer = predicted[rows, run.prompts.position]
    token = run.prompts.clean.gather(1, at_answer.long().argmax(-1, keepdim=True))

    def relative(x: Tensor) -> Tensor:
        index = token.expand(*x.shape[:-1], 1)
        return (x.gather(-1, index) - x.mean(-1, keepdim=True)).squeeze(-1)

    return (relative(logits) - relative(run.logits)) * at_answer.any(-1)


def _entries(
    run: CleanRun, offset: Int[Tensor, " head"], predicted: Bool[Tensor, "batch query key"]
) -> Bool[Tensor, "head label batch query key"]:
    """Entries of `CUT_LABELS` on the task prompts; those of `offset_k` differ from head to head."""
    prompts, direction = run.prompts, run.suffix.config.attention_dir
    tokens = prompts.clean
    at_answer = torch.arange(tokens.shape[1], device=tokens.device) == prompts.position[:, None]
    shared = {
        label: attention_entries(label, tokens, direction)
        for label in ATTENTION_LABELS
        if label != "offset_k"
    }
    shared["name_mover"] = answer_entries(tokens, prompts.position, prompts.answer)
    shared["copy_suppression"] = predicted & at_answer.unsqueeze(-1)
    per_head = [
        torch.stack(
            [
                offset_entries(tokens, k, direction) if label == "offset_k" else shared[label]
                for label in CUT_LABELS
            ]
        )
        for k in offset.tolist()
    ]
    return torch.stack(per_head)


def direct_write_losses(run: CleanRun) -> Float[Tensor, "layer head batch"]:
    """Margin lost when a head's direct write to the logits at the answer is replaced by its prompt mean."""
    suffix = run.suffix
    final = suffix.at_answer(run.taps[f"blocks.{suffix.config.n_layers - 1}.hook_resid_post"])
    z = torch.stack([run.taps[f"blocks.{i}.attn.hook_z"] for i in run.layers])
    z = suffix.at_answer(z.permute(0, 3, 1, 2, 4))  # layer head batch d_head
    written = z @ torch.stack([suffix.weights[f"blocks.{i}.attn.W_O"] for i in run.layers])
    changed = final - written + written.mean(2, keepdim=True)
    return run.margin - margin(suffix.unembed(changed), run.prompts.answer)
