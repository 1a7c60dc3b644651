"""Whether the neurons of an MLP follow single frequencies of a modular task.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability".
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_gen.labels.entries import visible
from data_gen.labels.interventions import needs_no_more
from data_gen.tasks.structure import Grid
from metamodel.circuits.metrics import margin
from metamodel.circuits.suffix import Suffix
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward

Neurons = Float[Tensor, "*subject operator first second d_mlp"]


def modes(modulus: int) -> Bool[Tensor, "mode first second"]:
    """Of each frequency k and sign, the entries of a 2-D DFT that are sines and cosines of k·a, k·b and
    k·(a ± b): six terms."""
    found = torch.zeros(modulus - 1, modulus, modulus, dtype=torch.bool)
    for i in range(modulus - 1):
        k, sign = 1 + i // 2, 1 - 2 * (i % 2)
        for first, second in ((k, 0), (0, k), (k, sign * k)):
            found[i, first % modulus, second % modulus] = True
            found[i, -first % modulus, -second % modulus] = True
    return found


def frequency_shares(
    neurons: Neurons,
) -> tuple[Float[Tensor, "*subject d_mlp"], Float[Tensor, "*subject d_mlp"], Neurons]:
    """Of each neuron its variance, the share of its best frequency, and what that frequency alone says.

    One frequency for all operators; each operator has coefficients and a mean of its own.
    """
    spectrum = torch.fft.fft2(neurons, dim=(-3, -2))
    power = spectrum.abs().square()
    power[..., 0, 0, :] = 0
    power = power.sum(-4)  # first second d_mlp
    chosen = modes(neurons.shape[-2]).to(power.device)
    explained = torch.einsum("...abj,kab->...kj", power, chosen.to(power.dtype))
    best, at = explained.max(-2)
    variance = power.sum((-3, -2))
    kept = chosen[at].movedim(-3, -1)  # first second d_mlp
    kept[..., 0, 0, :] = True
    alone = torch.fft.ifft2(spectrum * kept.unsqueeze(-4), dim=(-3, -2)).real
    return variance, best / variance.clamp_min(1e-12), alone


def fourier(weights: Weights, config: SubjectConfig, grid: Grid) -> Float[Tensor, "subject layer"]:
    """Share of the variance of neurons, weighted by the squared norm of what they write, that the best
    frequency of each explains. Weights are in canonical form."""
    tokens = grid.tokens.flatten(0, 2)
    if config.attention_dir == "causal":
        tokens = tokens[:, : grid.position + 1]
    sites = [f"blocks.{i}.mlp.hook_post" for i in range(config.n_layers)]
    taps = forward(weights, config, tokens, taps=sites).taps
    scores = []
    for layer, site in enumerate(sites):
        neurons = taps[site][:, :, grid.position].unflatten(1, grid.answer.shape)
        variance, share, _ = frequency_shares(neurons)
        weight = variance * weights[f"blocks.{layer}.mlp.W_out"].square().sum(-1)
        scores.append((weight * share).sum(-1) / weight.sum(-1).clamp_min(1e-12))
    return torch.stack(scores, dim=1)


def fourier_losses(
    suffix: Suffix, grid: Grid
) -> tuple[Float[Tensor, "layer batch"], Float[Tensor, " batch"]]:
    """Of each MLP: margin lost on the grid when its neurons say their mean at the answer position, beyond
    that lost when they say their best frequency alone; and the clean margins."""
    config, tokens, answer = suffix.config, grid.tokens.flatten(0, 2), grid.answer.flatten()
    if config.attention_dir == "causal":
        tokens = tokens[:, : grid.position + 1]
    position = torch.full_like(answer, grid.position)
    here = replace(
        suffix,
        row=torch.arange(len(answer), device=answer.device),
        position=position,
        visible=visible(tokens.shape[1], config.attention_dir, tokens.device),
    )
    stacked = {key: value.unsqueeze(0) for key, value in suffix.weights.items()}
    sites = [f"blocks.{i}.{x}" for i in range(config.n_layers) for x in ("mlp.hook_post", "hook_resid_post")]
    run = forward(stacked, config, tokens, taps=sites)
    clean = margin(here.at_answer(run.logits[0]), answer)
    losses = []
    for layer in range(config.n_layers):
        neurons = run.taps[f"blocks.{layer}.mlp.hook_post"][0, :, grid.position]
        whole = neurons.unflatten(0, grid.answer.shape)
        _, _, alone = frequency_shares(whole)
        mean = whole.mean((1, 2), keepdim=True).expand(whole.shape)
        change = torch.stack([mean, alone]).flatten(1, 3) - neurons
        change = change @ suffix.weights[f"blocks.{layer}.mlp.W_out"]
        resid = run.taps[f"blocks.{layer}.hook_resid_post"][0]
        if here.is_last(layer):
            logits = here.unembed(here.at_answer(resid) + change)
        else:
            resid = resid.expand(2, -1, -1, -1).clone()
            resid[:, :, grid.position] += change
            logits = here.logits_after(layer, resid)
        lost = clean - margin(logits, answer)
        losses.append(needs_no_more(lost[0], lost[1]))
    return torch.stack(losses), clean
