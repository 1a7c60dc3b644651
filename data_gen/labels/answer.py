"""What heads do at the answer position of task prompts: where they look there, and what they move."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.entries import answer_entries, row_chance
from data_gen.labels.registry import MIN_DEFINED_SHARE
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward

HeadScores = Float[Tensor, "subject layer head"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskRun:
    """A stack of subjects on task prompts, as seen from the answer position."""

    tokens: Int[Tensor, "subject batch pos"]
    position: Int[Tensor, "subject batch"]
    answer: Int[Tensor, "subject batch"]
    attended: Float[Tensor, "subject layer batch head key"]
    """Attention from the answer position."""
    values: Float[Tensor, "subject layer batch key head d_head"]
    chance: Float[Tensor, "subject batch key"]
    """The uniform row of the answer position."""


def task_run(weights: Weights, config: SubjectConfig, prompts: tuple[Prompts, ...]) -> TaskRun:
    """`prompts`: one set for each subject of the stack, or one shared by all."""
    tokens, position, answer = _stacked_tokens(prompts, weights["embed.W_E"].shape[0])
    names = [f"blocks.{i}.attn.hook_{x}" for i in range(config.n_layers) for x in ("pattern", "v")]
    shared = tokens[0] if len(prompts) == 1 else tokens
    taps = forward(weights, config, shared, taps=names).taps
    row = position[:, :, None, None, None].expand(-1, -1, config.n_heads, 1, tokens.shape[-1])
    patterns = [taps[f"blocks.{i}.attn.hook_pattern"] for i in range(config.n_layers)]
    values = [taps[f"blocks.{i}.attn.hook_v"] for i in range(config.n_layers)]
    return TaskRun(
        tokens=tokens,
        position=position,
        answer=answer,
        attended=torch.stack([pattern.gather(3, row).squeeze(3) for pattern in patterns], dim=1),
        values=torch.stack(values, dim=1),
        chance=row_chance(tokens.shape[-1], config.attention_dir, tokens.device)[position],
    )


def offset_at_answer(run: TaskRun, k: int) -> HeadScores:
    """Mean of A[END, END-k] - chance over the prompts in which that key lies behind BOS; NaN without any."""
    key = run.position - k
    return _key_at_answer(run, key.clamp_min(0), key >= 1)


def sink_at_answer(run: TaskRun) -> HeadScores:
    """Mean of A[END, 0] - chance."""
    return _key_at_answer(run, torch.zeros_like(run.position), run.position >= 1)


def _key_at_answer(
    run: TaskRun, key: Int[Tensor, "subject batch"], counts: Bool[Tensor, "subject batch"]
) -> HeadScores:
    one = torch.nn.functional.one_hot(key, run.tokens.shape[-1]) * counts.unsqueeze(-1)
    weight = one.to(run.attended.dtype) / counts.sum(1)[:, None, None]
    return (
        torch.einsum("slbhk,sbk->slh", run.attended, weight)
        - (run.chance * weight).sum((1, 2))[:, None, None]
    )


def _stacked_tokens(prompts: tuple[Prompts, ...], n_subjects: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clean tokens, positions and answers with a subject axis; one set of prompts is shared by all."""
    parts = [
        torch.stack(field) for field in zip(*((p.clean, p.position, p.answer) for p in prompts), strict=True)
    ]
    tokens, position, answer = (part.expand(n_subjects, *part.shape[1:]) for part in parts)
    return tokens, position, answer


def name_mover(weights: Weights, config: SubjectConfig, run: TaskRun) -> HeadScores:
    """Mean over prompts of (A[END, positions of the answer] - chance) · 1[what is moved raises the answer].

    What a head moves from those positions is Σ_k A[END, k] v_k W_O, biases left out of v; it raises the
    answer where its dot product with the answer's column of W_U, gain folded, centred over tokens, is
    positive (the scale of the final LayerNorm is positive and does not matter). Prompts without their answer
    do not count; subjects with too few others have NaN. Source: Wang et al. 2022 (IOI), name movers.
    """
    holds = answer_entries(run.tokens, run.position, run.answer).any(2)  # subject batch key
    defined = holds.any(-1)
    direction = weights["unembed.W_U"]
    if config.has_norm:
        direction = direction * weights["ln_final.w"].unsqueeze(-1)
        direction = direction - direction.mean(1, keepdim=True)
    direction = direction - direction.mean(2, keepdim=True)
    index = run.answer.unsqueeze(-1).expand(-1, -1, config.d_model)
    wanted = direction.transpose(1, 2).gather(1, index)
    scores = []
    for layer in range(config.n_layers):
        attn = f"blocks.{layer}.attn"
        attended = run.attended[:, layer] * holds.unsqueeze(2)
        wants = torch.einsum("sbm,shdm->sbhd", wanted, weights[f"{attn}.W_O"])
        bias = weights[f"{attn}.b_V"]
        if config.has_norm:
            folded = torch.einsum("sm,shmd->shd", weights[f"blocks.{layer}.ln1.b"], weights[f"{attn}.W_V"])
            bias = bias + folded
        value = run.values[:, layer] - bias[:, None, None]
        moved = torch.einsum("sbhk,sbkhd,sbhd->sbh", attended, value, wants)
        above = attended.sum(-1) - (run.chance * holds).sum(-1).unsqueeze(-1)
        counted = torch.where((moved > 0) & defined.unsqueeze(-1), above, 0.0)
        scores.append(counted.sum(1) / defined.sum(1, keepdim=True).clamp_min(1))
    enough = defined.float().mean(1) >= MIN_DEFINED_SHARE
    return torch.stack(scores, dim=1).masked_fill(~enough[:, None, None], torch.nan)
