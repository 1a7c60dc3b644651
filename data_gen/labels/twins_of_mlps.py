"""Twins of MLPs: what they write is replaced by less, or by what a label says that suffices."""

import torch
from jaxtyping import Float
from torch import Tensor

from data_gen.labels.interventions import CleanRun, logits_behind, needs_no_more
from data_gen.labels.mlp import SPLIT_PART, best_split, group_means, pair_keys
from data_gen.labels.registry import LABEL_INDEX
from metamodel.circuits.metrics import margin


def mlp_losses(run: CleanRun, layer: int, losses: Float[Tensor, "label batch"]) -> None:
    """Fills in what the twins of one MLP lose on each prompt."""
    tokens = run.prompts.clean
    written = run.taps[f"blocks.{layer}.hook_mlp_out"]
    overall, by_token, by_pair, again = group_means(written, tokens, pair_keys(tokens))
    at_pairs = again.unsqueeze(-1)
    only_token, only_pair = (torch.where(at_pairs, one, written) for one in (by_token, by_pair))
    sides = _two_means(written, run.taps[f"blocks.{layer}.mlp.hook_pre"])
    replaced = torch.stack([overall, by_token, only_token, only_pair, sides])
    resid = run.taps[f"blocks.{layer}.hook_resid_post"]
    if run.suffix.is_last(layer):
        change = run.suffix.at_answer(replaced - written).unsqueeze(2)
        resid = run.suffix.at_answer(resid).unsqueeze(1) + change
    else:
        resid = resid + replaced - written
    lost = run.margin - margin(logits_behind(run, layer, resid), run.prompts.answer)
    losses[LABEL_INDEX["token_lookup"]] = needs_no_more(lost[0], lost[1])
    if bool(again.any()):
        losses[LABEL_INDEX["pair_lookup"]] = needs_no_more(lost[2], lost[3])
    losses[LABEL_INDEX["threshold"]] = needs_no_more(lost[0], lost[4])


def _two_means(
    written: Float[Tensor, "batch pos d_model"], pre: Float[Tensor, "batch pos d_mlp"]
) -> Float[Tensor, "batch pos d_model"]:
    """The mean of what is written on each side of the best split of one neuron's input."""
    some = slice(0, max(1, len(pre) // SPLIT_PART))
    _, neuron, level = best_split(pre[some].flatten(0, 1), written[some].flatten(0, 1))
    upper = pre[..., int(neuron)] > level
    means = (written[side].mean(0) for side in (upper, ~upper))
    return torch.where(upper.unsqueeze(-1), *means)
