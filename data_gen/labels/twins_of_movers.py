"""Twins of heads that matter through others: backup movers, and heads that steer where movers look."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_gen.labels.interventions import CleanRun, beyond
from metamodel.circuits.metrics import margin


def backup_losses(run: CleanRun, primary: Bool[Tensor, "layer head"]) -> Float[Tensor, "layer head batch"]:
    """Margin that mean-ablating a head loses with all primary movers mean-ablated, beyond what it loses
    without; NaN in layers that have no primary mover before them."""
    config = run.suffix.config
    found = run.margin.new_full((config.n_layers, config.n_heads, len(run.margin)), torch.nan)
    having = primary.any(1).nonzero().flatten().tolist()
    if having and having[0] < config.n_layers - 1:
        first = having[0]
        clean = run.taps[f"blocks.{first}.hook_resid_post"]
        z = run.taps[f"blocks.{first}.attn.hook_z"]
        z = torch.where(primary[first][:, None], z.mean(0), z).unsqueeze(0)
        ablated = _block_end(run, first, run.taps[f"blocks.{first}.hook_resid_pre"].unsqueeze(0), z)
        nobody = torch.zeros_like(primary)
        with_movers = _margins_without_each(run, nobody, first + 1, clean.unsqueeze(0))
        without = _margins_without_each(run, primary, first + 1, ablated)
        lost, before = (one[0] - one[1:] for one in (without, with_movers))
        found[first + 1 :] = beyond(lost, before).unflatten(0, (-1, config.n_heads))
    return found


def _margins_without_each(
    run: CleanRun,
    primary: Bool[Tensor, "layer head"],
    first: int,
    resid: Float[Tensor, "1 batch pos d_model"],
) -> Float[Tensor, "case batch"]:
    """Margins from the residual stream before layer `first`, with all of `primary` mean-ablated: with nothing
    else, and with each head from there on."""
    suffix = run.suffix
    for layer in range(first, suffix.config.n_layers):
        last, mean = suffix.is_last(layer), run.taps[f"blocks.{layer}.attn.hook_z"].mean(0)
        if last:
            mean = mean[suffix.position]  # batch head d_head
        z = _answer_z(run, layer, resid, None) if last else _heads_reading(run, layer, resid, None)
        z = torch.where(primary[layer][:, None], mean, z)
        only = torch.eye(suffix.config.n_heads, dtype=torch.bool, device=z.device)
        only = only.view(len(only), *[1] * (z.ndim - 3), len(only), 1)
        z = torch.cat([z, torch.where(only, mean, z[:1])])
        resid = torch.cat([resid, resid[:1].expand(len(only), *resid.shape[1:])])
        if last:
            return margin(
                suffix.unembed(suffix.last_mid(layer, suffix.at_answer(resid), z)), run.prompts.answer
            )
        resid = _block_end(run, layer, resid, z)
    raise AssertionError(first)


def _answer_z(
    run: CleanRun,
    layer: int,
    resid: Float[Tensor, "case batch pos d_model"],
    added: Float[Tensor, "case batch d_model"] | None,
) -> Float[Tensor, "case batch head d_head"]:
    """`hook_z` of the last layer at the answer position; queries also read `added`."""
    suffix, normed = run.suffix, run.suffix.norm(resid, f"blocks.{layer}.ln1")
    asking = suffix.at_answer(resid)
    asking = asking if added is None else asking + added
    asking = suffix.norm(asking, f"blocks.{layer}.ln1", at_answer=True)
    return suffix.write(layer, suffix.answer_pattern(suffix.answer_query(layer, asking), normed) @ normed)


def _heads_reading(
    run: CleanRun,
    layer: int,
    resid: Float[Tensor, "case batch pos d_model"],
    added: Float[Tensor, "case batch d_model"] | None,
) -> Float[Tensor, "case batch pos head d_head"]:
    """`hook_z` of a layer that reads `resid`; queries at the answer position also read `added`."""
    suffix, normed = run.suffix, run.suffix.norm(resid, f"blocks.{layer}.ln1")
    asks = normed
    if added is not None:
        changed = resid.clone()
        changed[:, torch.arange(resid.shape[1], device=resid.device), suffix.position] += added
        asks = suffix.norm(changed, f"blocks.{layer}.ln1")
    q = suffix.project(layer, "Q", asks)
    k, v = (suffix.project(layer, x, normed) for x in "KV")
    return (suffix.attend(q, k) @ v).transpose(-2, -3)


def _block_end(
    run: CleanRun,
    layer: int,
    resid: Float[Tensor, "case batch pos d_model"],
    z: Float[Tensor, "case batch pos head d_head"],
) -> Float[Tensor, "case batch pos d_model"]:
    """The residual stream behind a layer whose heads' `hook_z` is given."""
    suffix = run.suffix
    out = z.flatten(-2) @ suffix.weights[f"blocks.{layer}.attn.W_O"].flatten(0, 1)
    mid = resid + out + suffix.weights[f"blocks.{layer}.attn.b_O"]
    return mid + suffix.mlp(layer, mid) if suffix.config.has_mlp else mid


def inhibition_losses(run: CleanRun, layer: int) -> Float[Tensor, "head batch"]:
    """Margin lost when the queries of all later heads at the answer position read the mean over prompts of
    what a head of this layer writes there."""
    suffix = run.suffix
    z = suffix.at_answer(run.taps[f"blocks.{layer}.attn.hook_z"].permute(2, 0, 1, 3))
    delta = (z.mean(1, keepdim=True) - z) @ suffix.weights[f"blocks.{layer}.attn.W_O"]  # head batch d_model
    resid = run.taps[f"blocks.{layer}.hook_resid_post"].expand(len(delta), -1, -1, -1)
    last = suffix.config.n_layers - 1
    for later in range(layer + 1, last):
        resid = _block_end(run, later, resid, _heads_reading(run, later, resid, delta))
    end = suffix.last_mid(last, suffix.at_answer(resid), _answer_z(run, last, resid, delta))
    return run.margin - margin(suffix.unembed(end), run.prompts.answer)
