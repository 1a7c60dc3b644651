"""Features of components where a behavior is asked for: at the answer position of prompts that are shown.

A head may look one token back at the answer position of its task alone, and a subject of several tasks does
other things on each: random probes show neither. On the track `weights` nothing is run: mean queries and mean
keys of the prompts' own tokens and positions say where a head would look if nothing had been written before
it. On the track `activations` the subject is run, and what a component *writes* at the answer position is
explained by the tokens of the prompt and by the subject's own answer. As everywhere, no feature is a mean of
attention, an effect of an intervention, or a contribution to the logit of an answer.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.features.activations import Columns, explained, participation, relative
from metamodel.features.streams import sites
from metamodel.features.view import Shown, View, normalised
from metamodel.subjects.forward import Run

OFFSETS = (0, 1, 2, 3, 4)
FAR = 5
"""Offsets from here on share a column."""
WRITTEN_OFFSETS = (0, 1, 2, 3, 4, 5, 6)


@torch.no_grad()
def asked_of_weights(v: View) -> Columns:
    """Features `[layer, head]`: the softmax of mean query against mean keys, by distance from the answer."""
    shown = v.shown
    assert shown is not None
    weights, n_pos = v.subject.weights, shown.tokens.shape[1]
    place = weights["pos_embed.W_pos"][:n_pos]
    read = normalised((weights["embed.W_E"][shown.tokens] + place).to(v.E), v.config)
    parts = []
    for at in shown.position.unique().tolist():
        mine = read[shown.position == at]
        columns = _mean_field(v, mine.mean(0), at)
        parts.append({name: value * (len(mine) / len(read)) for name, value in columns.items()})
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def _mean_field(v: View, mean: Float[Tensor, "pos d_model"], at: int) -> Columns:
    """Columns for prompts that ask at one position, from their mean residual stream before any layer."""
    query = mean[at] @ v.W_Q + v.b_Q
    keys = mean @ v.W_K
    scores = torch.einsum("lhd,lhpd->lhp", query, keys) / math.sqrt(v.config.d_head)
    if v.config.attention_dir == "causal":
        scores = scores[..., : at + 1]
    soft = scores.softmax(-1)
    nothing = torch.zeros_like(soft[..., 0])
    columns = {f"asked_softmax_offset_{k}": soft[..., at - k] if at >= k else nothing for k in OFFSETS}
    columns["asked_softmax_far"] = soft[..., : max(at - FAR + 1, 0)].sum(-1)
    columns["asked_softmax_first"] = soft[..., 0]
    entropy = -(soft * soft.clamp_min(1e-12).log()).sum(-1)
    columns["asked_softmax_entropy"] = entropy / max(math.log(soft.shape[-1]), 1e-9)
    columns["asked_softmax_largest"] = soft.amax(-1)
    return columns


@torch.no_grad()
def run_on_shown(v: View) -> Run:
    """The one run on the prompts that are shown, with all that features of nodes and of edges need of it."""
    shown, config = v.shown, v.config
    assert shown is not None
    own = ["hook_resid_pre", "attn.hook_z", "attn.hook_pattern"]
    own += ["hook_resid_mid", "hook_mlp_out"] if config.has_mlp else []
    names = [f"blocks.{layer}.{site}" for layer in range(config.n_layers) for site in own]
    return v.subject.run(shown.tokens, taps=[*dict.fromkeys([*names, *sites(config)])])


@torch.no_grad()
def asked_of_activations(v: View, run: Run) -> tuple[Columns, Columns]:
    """Features `[layer, head]` of heads, and `[layer]` of MLPs, from `run_on_shown(v)`."""
    shown, config = v.shown, v.config
    assert shown is not None
    taps = {name: value[0] for name, value in run.taps.items()}
    each = torch.arange(len(shown.position), device=shown.position.device)
    groups = _groups(shown, run.logits[0][each, shown.position].argmax(-1))
    heads, mlps = [], []
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        narrow = torch.linalg.qr(v.W_O[layer].transpose(-1, -2)).R.transpose(-1, -2)
        out = torch.einsum("bphd,hde->bphe", taps[f"{block}.attn.hook_z"].to(narrow), narrow)
        columns = _written(v, out, taps[f"{block}.hook_resid_pre"], groups)
        pattern = taps[f"{block}.attn.hook_pattern"].transpose(1, 2)[each, shown.position]
        entropy = -(pattern * pattern.clamp_min(1e-12).log()).sum(-1)
        n_keys = (
            shown.position + 1 if config.attention_dir == "causal" else torch.full_like(each, out.shape[1])
        )
        columns["asked_attention_entropy"] = (entropy / n_keys.log().clamp_min(1e-9)[:, None]).mean(0).to(out)
        heads.append(columns)
        if config.has_mlp:
            out = taps[f"{block}.hook_mlp_out"]
            mlps.append(_written(v, out, taps[f"{block}.hook_resid_mid"], groups))
    return _stacked(heads), _stacked(mlps)


def _stacked(rows: list[Columns]) -> Columns:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _groups(shown: Shown, answer: Int[Tensor, " shown"]) -> dict[str, Int[Tensor, " shown"]]:
    """Group of every prompt under each explanation of what is written at its answer position."""
    each = torch.arange(len(shown.position), device=shown.position.device)
    groups = {}
    for k in WRITTEN_OFFSETS:
        at = shown.position - k
        groups[f"token_at_{k}"] = torch.where(at >= 0, shown.tokens[each, at.clamp_min(0)], -1)
    groups["answer"] = answer
    return groups


def _written(
    v: View, out: Float[Tensor, "shown pos *unit width"], resid: Tensor, groups: dict[str, Tensor]
) -> Columns:
    """What a component writes at the answer position, beside what it writes elsewhere."""
    shown = v.shown
    assert shown is not None
    each = torch.arange(len(shown.position), device=shown.position.device)
    asked = out[each, shown.position]
    columns = {f"asked_writes_by_{name}": explained(asked, group) for name, group in groups.items()}
    here = (asked - asked.mean(0)).pow(2).sum(-1).mean(0)
    flat = out.flatten(0, 1)
    anywhere = (flat - flat.mean(0)).pow(2).sum(-1).mean(0)
    columns["asked_varying_share"] = here / asked.pow(2).sum(-1).mean(0).clamp_min(1e-15)
    columns["asked_over_elsewhere"] = (here.clamp_min(1e-12) / anywhere.clamp_min(1e-12)).log().clamp(-9, 9)
    columns["asked_participation"] = participation(asked)
    columns["asked_relative_size"] = relative(asked, resid[each, shown.position], centred=v.config.has_norm)
    return columns
