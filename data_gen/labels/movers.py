"""Heads that move the answer, lower it, take over when others fail, or tell others where not to look.

All weights here are in canonical form: LayerNorms have neither gain nor bias, heads no value bias. Source:
Wang et al. 2022, "Interpretability in the Wild" (IOI): name movers, negative and backup name movers,
S-inhibition heads.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.answer import HeadScores, TaskRun, centred_unembedding, normed, token_columns
from data_gen.labels.registry import MIN_DEFINED_SHARE, PRIMARY_SHARE
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, run_from_heads
from metamodel.subjects.sites import Sites


def answer_columns(weights: Weights, run: TaskRun) -> Float[Tensor, "subject batch d_model"]:
    """The answer's column of `W_U`, relative to the average token's."""
    return token_columns(centred_unembedding(weights), run.answer)


def moved_from_answer(weights: Weights, run: TaskRun) -> Float[Tensor, "subject layer batch head"]:
    """Dot product of Σ_k A[END, k] v_k W_O, over positions k of the answer, with the answer's column of W_U.

    The scale of the final LayerNorm is positive, so the sign says whether the answer's logit rises above the
    average token's.
    """
    wanted, holds = answer_columns(weights, run), run.holds(run.answer)
    moved = []
    for layer in range(run.pattern.shape[1]):
        wants = torch.einsum("sbm,shdm->sbhd", wanted, weights[f"blocks.{layer}.attn.W_O"])
        attended = run.attended[:, layer] * holds.unsqueeze(2)
        moved.append(torch.einsum("sbhk,sbkhd,sbhd->sbh", attended, run.values[:, layer], wants))
    return torch.stack(moved, dim=1)


def movers(weights: Weights, run: TaskRun) -> tuple[HeadScores, HeadScores]:
    """`name_mover` and `negative_mover`: mean over prompts of (A[END, positions of the answer] - chance),
    counted where what is moved from there raises the answer, or lowers it.

    Prompts without their answer do not count; subjects with too few others have NaN.
    """
    moved, holds = moved_from_answer(weights, run), run.holds(run.answer)
    defined = holds.any(-1)
    attended = (run.attended * holds[:, None, :, None]).sum(-1)
    above = attended - (run.chance * holds).sum(-1)[:, None, :, None]
    positive, negative = (
        _mean_where((above * sign).transpose(1, 2), defined) for sign in (moved > 0, moved < 0)
    )
    return positive, negative


def _mean_where(
    values: Float[Tensor, "subject batch *rest"], defined: Bool[Tensor, "subject batch"]
) -> Tensor:
    """Mean over the prompts that count, `[subject, *rest]`; NaN for subjects with too few of them."""
    weight = defined / defined.sum(1, keepdim=True).clamp_min(1)
    few = defined.float().mean(1) < MIN_DEFINED_SHARE
    weight = weight.masked_fill(few.unsqueeze(1), torch.nan)
    return torch.einsum("sb...,sb->s...", values, weight.to(values.dtype))


def direct_effect(weights: Weights, run: TaskRun, z: list[Tensor]) -> HeadScores:
    """What heads write straight to the answer's logit, above the average token's, at the clean scale.

    Args:
        z: `hook_z` of each layer.
    """
    wanted = answer_columns(weights, run) / run.at_answer(run.scale).unsqueeze(-1)
    n = wanted.shape[1]
    found = [
        torch.einsum("sbhd,shdm,sbm->sh", run.at_answer(one), weights[f"blocks.{i}.attn.W_O"], wanted) / n
        for i, one in enumerate(z)
    ]
    return torch.stack(found, dim=1)


def primary_movers(direct: HeadScores) -> Bool[Tensor, "subject layer head"]:
    """Heads whose direct effect on the answer is at least a share of the largest, and positive."""
    largest = direct.flatten(1).amax(1)[:, None, None]
    return (direct >= PRIMARY_SHARE * largest) & (direct > 0)


def backup_mover(
    weights: Weights, config: SubjectConfig, run: TaskRun
) -> tuple[HeadScores, Bool[Tensor, "subject layer head"]]:
    """How much of the primary movers' direct effect a head takes over when they all are mean-ablated, and
    who they are. NaN in the first layer, whose heads have no mover before them; 0 for heads whose own direct
    effect is not small.
    """
    z = list(run.z.unbind(1))
    direct = direct_effect(weights, run, z)
    primary = primary_movers(direct)
    mean = [one.mean(1, keepdim=True) for one in z]

    def without(layer: int, value: Tensor) -> Tensor:
        return torch.where(primary[:, layer, None, None, :, None], mean[layer].to(value), value)

    later = [f"blocks.{i}.attn.hook_z" for i in range(1, config.n_layers)]
    replaced = {name: partial(without, i) for i, name in enumerate(later, 1)}
    site, first = Sites(later, replaced), without(0, z[0])
    run_from_heads(weights, config, run.resid[:, 0], first, layer=0, site=site)
    ablated = [first, *(site.recorded[name] for name in later)]
    change = direct_effect(weights, run, ablated) - direct
    whole = (direct * primary).sum((1, 2), keepdim=True)
    small = direct.abs() < PRIMARY_SHARE * direct.amax((1, 2), keepdim=True)
    score = torch.where(small & (whole > 0), change / whole.clamp_min(1e-12), 0.0)
    score[:, 0] = torch.nan
    return score, primary


def s_inhibition(
    weights: Weights, config: SubjectConfig, run: TaskRun, candidate: Int[Tensor, "subject batch"]
) -> HeadScores:
    """Largest over later heads m of the mean change of A_m[END, candidate] - A_m[END, answer] when m's query
    reads the head's mean over prompts in place of its output, where m raises the answer.

    NaN in the last layer, and where too few prompts hold both a wrong candidate and their answer.
    """
    answers, others = run.holds(run.answer), run.holds(candidate)
    defined, prefers = answers.any(-1) & others.any(-1), others.to(run.scale) - answers.to(run.scale)
    raises = moved_from_answer(weights, run) > 0
    hidden = (run.chance == 0)[:, :, None, None]
    scores = torch.full_like(run.attended[:, :, 0, :, 0], torch.nan)
    for layer in range(config.n_layers - 1):
        z = run.at_answer(run.z[:, layer])
        delta = torch.einsum(
            "sbhd,shdm->sbhm", z.mean(1, keepdim=True) - z, weights[f"blocks.{layer}.attn.W_O"]
        )
        changes = []
        for later in range(layer + 1, config.n_layers):
            attn = f"blocks.{later}.attn"
            read = normed(run.at_answer(run.resid[:, later]).unsqueeze(2) + delta, config)
            query = torch.einsum("sbhm,snmd->sbhnd", read, weights[f"{attn}.W_Q"])
            query = query + weights[f"{attn}.b_Q"][:, None, None]
            score = torch.einsum("sbhnd,sbknd->sbhnk", query, run.keys[:, later]) / config.d_head**0.5
            pattern = score.masked_fill(hidden, -torch.inf).softmax(-1)
            change = torch.einsum("sbhnk,sbk->sbhn", pattern - run.attended[:, later].unsqueeze(2), prefers)
            changes.append(_mean_where(change * raises[:, later].unsqueeze(2), defined))
        scores[:, layer] = torch.cat(changes, dim=-1).amax(-1)
    return scores
