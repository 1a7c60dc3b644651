"""Causal twins (law 7): does the subject's margin on task prompts need what a label says the head does?

Every twin changes one head's pattern, or its direct write to the logits. So all heads and labels of a layer
run as one batch (case x prompt) that starts behind that layer's attention; in the last layer only the answer
position is computed. `intervened_margin` is what a full forward with a replaced pattern would give.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.entries import answer_entries, attention_entries, offset_entries, row_chance
from data_gen.labels.registry import (
    ATTENTION_LABELS,
    LABEL_INDEX,
    LABELS,
    POSITIONAL_SHARE,
    TWIN_EFFECT,
    TWIN_ERRORS,
)
from metamodel.circuits.metrics import margin
from metamodel.circuits.prompts import Prompts, check_prompts
from metamodel.circuits.suffix import Suffix
from metamodel.subjects.canonical import folded
from metamodel.subjects.subject import Subject

CUT_LABELS = (*ATTENTION_LABELS, "name_mover")
_NO_MASS = 1e-12
"""Mass below which the rest of a row says nothing of where else the head would look."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Twins:
    """Effects of all twins of one subject."""

    effect: Float[Tensor, "layer head label"]
    """Margin lost by the twin's intervention beyond what its control loses, in logits; NaN where the task
    prompts have no such attention."""
    holds: Bool[Tensor, "layer head label"]
    """The effect exceeds `TWIN_EFFECT` of the mean margin and `TWIN_ERRORS` standard errors over prompts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanRun:
    """What twins reuse of the run on clean prompts."""

    suffix: Suffix
    prompts: Prompts
    taps: dict[str, Tensor]
    """Sites of the forward, of the folded subject, without their subject axis."""
    margin: Float[Tensor, " batch"]


def clean_run(subject: Subject, prompts: Prompts) -> CleanRun:
    """Raises: InputError if the prompts do not fit the subject, or the subject is post-norm."""
    check_prompts(subject, prompts)
    subject = folded(subject)
    names = [
        f"blocks.{i}.attn.hook_{x}" for i in range(subject.config.n_layers) for x in ("pattern", "v", "z")
    ]
    names += [f"blocks.{i}.hook_resid_{x}" for i in range(subject.config.n_layers) for x in ("mid", "post")]
    run, suffix = subject.run(prompts.clean, taps=names), Suffix.of(subject, prompts)
    return CleanRun(
        suffix=suffix,
        prompts=prompts,
        taps={name: value[0] for name, value in run.taps.items()},
        margin=margin(suffix.at_answer(run.logits[0]), prompts.answer),
    )


def cut_and_control(
    pattern: Float[Tensor, "*rest query key"], entries: Bool[Tensor, "*rest query key"], attention_dir: str
) -> tuple[Float[Tensor, "*rest query key"], Float[Tensor, "*rest query key"]]:
    """The pattern without `entries`, and the pattern without equal mass elsewhere in the same rows.

    Cut: entries become zero, the rest of the row is renormalised (uniform over the rest, where that has no
    mass). Control: with m the entries' mass and r = 1 - m, the other entries lose min(m, r) in proportion,
    then the row is renormalised. Rows whose every visible entry would be cut stay as they are in both.
    """
    seen = row_chance(pattern.shape[-1], attention_dir, pattern.device) > 0
    others = seen & ~entries
    held, rest = pattern * entries, pattern * others
    mass, left = held.sum(-1, keepdim=True), rest.sum(-1, keepdim=True)
    uniform = others / others.sum(-1, keepdim=True).clamp_min(1)
    cut = torch.where(left > _NO_MASS, rest / left.clamp_min(_NO_MASS), uniform)
    taken = torch.minimum(mass, left)
    control = (held + rest * (1 - taken / left.clamp_min(_NO_MASS))) / (mass + left - taken).clamp_min(
        _NO_MASS
    )
    touched = (entries & seen).any(-1, keepdim=True) & others.any(-1, keepdim=True)
    return torch.where(touched, cut, pattern), torch.where(touched, control, pattern)


def intervened_margin(
    run: CleanRun, layer: int, head: Int[Tensor, " case"], pattern: Float[Tensor, "case batch query key"]
) -> Float[Tensor, "case batch"]:
    """Margins when, case by case, one head of `layer` attends by another pattern."""
    suffix, attn = run.suffix, f"blocks.{layer}.attn"
    change = pattern - run.taps[f"{attn}.hook_pattern"].transpose(0, 1)[head]
    resid = run.taps[f"blocks.{layer}.hook_resid_mid"]
    is_last = suffix.is_last(layer)
    if is_last:
        change, resid = suffix.at_answer(change).unsqueeze(2), suffix.at_answer(resid).unsqueeze(1)
    moved = change @ run.taps[f"{attn}.hook_v"].permute(2, 0, 1, 3)[head]
    resid = resid + moved @ suffix.weights[f"{attn}.W_O"][head].unsqueeze(1)
    if suffix.config.has_mlp:
        resid = resid + suffix.mlp(layer, resid)
    logits = suffix.unembed(resid.squeeze(2)) if is_last else suffix.logits_after(layer, resid)
    return margin(logits, run.prompts.answer)


def _entries(run: CleanRun, offset: Int[Tensor, " head"]) -> Bool[Tensor, "head label batch query key"]:
    """Entries of `CUT_LABELS` on the task prompts; those of `offset_k` differ from head to head."""
    prompts, direction = run.prompts, run.suffix.config.attention_dir
    tokens = prompts.clean
    shared = {
        label: attention_entries(label, tokens, direction)
        for label in ATTENTION_LABELS
        if label != "offset_k"
    }
    shared["name_mover"] = answer_entries(tokens, prompts.position, prompts.answer)
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


def _direct_write_drop(run: CleanRun, layer: int) -> Float[Tensor, "head batch"]:
    """Margin lost when a head's direct write to the logits at the answer is replaced by its prompt mean."""
    suffix = run.suffix
    z = suffix.at_answer(run.taps[f"blocks.{layer}.attn.hook_z"].permute(2, 0, 1, 3))
    written = z @ suffix.weights[f"blocks.{layer}.attn.W_O"]
    final = suffix.at_answer(run.taps[f"blocks.{suffix.config.n_layers - 1}.hook_resid_post"])
    changed = final - written + written.mean(1, keepdim=True)
    return run.margin - margin(suffix.unembed(changed), run.prompts.answer)


def twins(subject: Subject, prompts: Prompts, offset: Int[Tensor, "layer head"]) -> Twins:
    """All causal twins of a subject on its task prompts.

    Args:
        offset: for each head, the distance that `offset_k` found.
    """
    run, config = clean_run(subject, prompts), subject.config
    losses = torch.full((config.n_layers, config.n_heads, len(LABELS), len(prompts)), torch.nan)
    losses = losses.to(run.margin)
    for layer in range(config.n_layers):
        losses[layer, :, LABEL_INDEX["copying"]] = _direct_write_drop(run, layer)
        _pattern_losses(run, layer, offset[layer], losses[layer])
    effect = losses.mean(-1)
    error = losses.std(-1) / len(prompts) ** 0.5
    least = torch.maximum(TWIN_EFFECT * run.margin.mean().abs(), TWIN_ERRORS * error)
    return Twins(effect=effect, holds=effect > least)


def _pattern_losses(
    run: CleanRun, layer: int, offset: Int[Tensor, " head"], losses: Float[Tensor, "head label batch"]
) -> None:
    """Fills in what the twins that change patterns of one layer lose on each prompt."""
    config = run.suffix.config
    direction, n_heads = config.attention_dir, config.n_heads
    clean = run.taps[f"blocks.{layer}.attn.hook_pattern"].transpose(0, 1)  # head batch query key
    entries = _entries(run, offset)
    repeated = clean.unsqueeze(1).expand(entries.shape)
    cut, control = cut_and_control(repeated, entries, direction)
    average = clean.mean(1, keepdim=True).expand(clean.shape)
    flat = row_chance(clean.shape[-1], direction, clean.device).to(clean.dtype).expand(clean.shape)
    cases = torch.cat([cut, control, average.unsqueeze(1), flat.unsqueeze(1)], dim=1)
    head = torch.arange(n_heads, device=clean.device).repeat_interleave(cases.shape[1])
    drop = run.margin - intervened_margin(run, layer, head, cases.flatten(0, 1))
    drop = drop.unflatten(0, (n_heads, -1))
    n_cut = len(CUT_LABELS)
    by_cut, by_control, by_average, by_flat = drop.split([n_cut, n_cut, 1, 1], dim=1)
    beyond = torch.where(by_control.mean(-1, keepdim=True) > 0, by_cut - by_control, by_cut)
    occurs = entries.flatten(2).any(-1, keepdim=True)
    index = torch.tensor([LABEL_INDEX[label] for label in CUT_LABELS], device=clean.device)
    losses[:, index] = torch.where(occurs, beyond, torch.nan)
    averaging_costs = by_average.mean(-1, keepdim=True) > 0
    positional = torch.where(averaging_costs, by_flat - by_average / POSITIONAL_SHARE, by_flat)
    losses[:, LABEL_INDEX["positional"]] = positional.squeeze(1)
