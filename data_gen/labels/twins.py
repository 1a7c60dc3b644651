"""Causal twins (law 7): does the subject need what a label says that the component does?

Every twin is a loss of each prompt, of the margin unless its words in the registry say otherwise. It holds
where the mean loss is large enough beside the subject's margin and beside its own standard error.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_gen.labels.fourier import fourier_losses
from data_gen.labels.interventions import clean_run
from data_gen.labels.measure import RawScores
from data_gen.labels.registry import LABEL_INDEX, TWIN_EFFECT, TWIN_ERRORS
from data_gen.labels.twins_of_edges import composition_losses
from data_gen.labels.twins_of_heads import direct_write_losses, pattern_losses
from data_gen.labels.twins_of_mlps import mlp_losses
from data_gen.labels.twins_of_movers import backup_losses, inhibition_losses
from data_gen.tasks.structure import Grid
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Twins:
    """Effects of all twins of one subject."""

    effect: Float[Tensor, "layer unit label"]
    """What the twin's intervention loses beyond what its control loses, in logits; NaN where there is nothing
    to intervene on."""
    holds: Bool[Tensor, "layer unit label"]
    """The effect exceeds `TWIN_EFFECT` of the mean margin and `TWIN_ERRORS` standard errors over prompts."""


def twins(subject: Subject, prompts: Prompts, scores: RawScores, grid: Grid | None = None) -> Twins:
    """All causal twins of a subject on its task prompts.

    Args:
        subject: in canonical form.
        scores: of this subject alone: which distance, movers and earlier heads they speak of.
        grid: of its task, if it has one.
    """
    run, config = clean_run(subject, prompts), subject.config
    shape = (*scores.value.shape[1:], len(prompts))
    losses = run.margin.new_full(shape, torch.nan)
    direct = direct_write_losses(run)
    for label in ("copying", "successor"):
        losses[:, : config.n_heads, LABEL_INDEX[label]] = direct
    losses[:, : config.n_heads, LABEL_INDEX["backup_mover"]] = backup_losses(run, scores.primary[0])
    for layer in run.layers:
        heads = losses[layer, : config.n_heads]
        pattern_losses(run, layer, scores.offset[0, layer], heads)
        composition_losses(run, layer, scores.source[0, layer], heads)
        if layer < config.n_layers - 1:
            heads[:, LABEL_INDEX["s_inhibition"]] = inhibition_losses(run, layer)
        if config.has_mlp:
            mlp_losses(run, layer, losses[layer, -1])
    effect, least = _effects(losses, run.margin)
    if config.has_mlp and grid is not None:
        found, whole = fourier_losses(run.suffix, grid)
        at = LABEL_INDEX["fourier"]
        effect[:, -1, at], least[:, -1, at] = _effects(found, whole)
    return Twins(effect=effect, holds=effect > least)


def _effects(
    losses: Float[Tensor, "*rest batch"], margins: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """Mean losses, and what they must exceed."""
    error = losses.std(-1) / losses.shape[-1] ** 0.5
    return losses.mean(-1), torch.maximum(TWIN_EFFECT * margins.mean().abs(), TWIN_ERRORS * error)
