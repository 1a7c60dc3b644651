"""Stacks of subjects in canonical form on task prompts, and where their heads look at the answer position."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.entries import row_chance
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward

HeadScores = Float[Tensor, "subject layer head"]
_SITES = ("attn.hook_pattern", "attn.hook_v", "attn.hook_k", "attn.hook_z", "hook_resid_pre")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskRun:
    """A stack of subjects on task prompts."""

    tokens: Int[Tensor, "subject batch pos"]
    position: Int[Tensor, "subject batch"]
    answer: Int[Tensor, "subject batch"]
    pattern: Float[Tensor, "subject layer batch head query key"]
    attended: Float[Tensor, "subject layer batch head key"]
    """Attention from the answer position."""
    values: Float[Tensor, "subject layer batch key head d_head"]
    keys: Float[Tensor, "subject layer batch key head d_head"]
    z: Float[Tensor, "subject layer batch pos head d_head"]
    resid: Float[Tensor, "subject layer batch pos d_model"]
    """Before each layer."""
    scale: Float[Tensor, "subject batch pos"]
    """What the final LayerNorm divides by; 1 without one."""
    spread: Float[Tensor, " subject"]
    """Standard deviation over tokens of the final logits, averaged over positions."""
    chance: Float[Tensor, "subject batch key"]
    """The uniform row of the answer position."""

    @property
    def rows(self) -> Int[Tensor, " batch"]:
        return torch.arange(self.tokens.shape[1], device=self.tokens.device)

    def at_answer(self, x: Float[Tensor, "subject batch pos *rest"]) -> Float[Tensor, "subject batch *rest"]:
        """The row of each prompt's answer position."""
        subject = torch.arange(x.shape[0], device=x.device)[:, None]
        return x[subject, self.rows, self.position]

    def holds(self, token: Int[Tensor, "subject batch"]) -> Bool[Tensor, "subject batch key"]:
        """Positions up to the answer's at which each prompt holds a token of its own."""
        place = torch.arange(self.tokens.shape[-1], device=self.tokens.device)
        return (self.tokens == token.unsqueeze(-1)) & (place <= self.position.unsqueeze(-1))


def task_run(weights: Weights, config: SubjectConfig, prompts: tuple[Prompts, ...]) -> TaskRun:
    """`weights` in canonical form. `prompts`: one set for each subject of the stack, or one shared by all."""
    tokens, position, answer = _stacked_tokens(prompts, weights["embed.W_E"].shape[0])
    last = f"blocks.{config.n_layers - 1}.hook_resid_post"
    names = [f"blocks.{i}.{site}" for i in range(config.n_layers) for site in _SITES]
    run = forward(weights, config, tokens[0] if len(prompts) == 1 else tokens, taps=[*names, last])
    pattern, values, keys, z, resid = (
        torch.stack([run.taps[f"blocks.{i}.{site}"] for i in range(config.n_layers)], dim=1)
        for site in _SITES
    )
    final = run.taps[last]
    scale = (final.var(-1, correction=0) + config.eps).sqrt() if config.has_norm else final[..., 0] * 0 + 1
    row = position[:, None, :, None, None, None].expand(
        -1, config.n_layers, -1, config.n_heads, 1, tokens.shape[-1]
    )
    return TaskRun(
        tokens=tokens,
        position=position,
        answer=answer,
        pattern=pattern,
        attended=pattern.gather(4, row).squeeze(4),
        values=values,
        keys=keys,
        z=z,
        resid=resid,
        scale=scale,
        spread=run.logits.std(-1).mean((1, 2)),
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


def centred_unembedding(weights: Weights) -> Float[Tensor, "subject d_model d_vocab"]:
    """Columns of `W_U`, of canonical weights, relative to the average token's."""
    unembed = weights["unembed.W_U"]
    return unembed - unembed.mean(2, keepdim=True)


def token_columns(
    unembed: Float[Tensor, "subject d_model d_vocab"], tokens: Int[Tensor, "subject batch *pos"]
) -> Float[Tensor, "subject batch *pos d_model"]:
    """The column of each token."""
    flat = tokens.flatten(1).unsqueeze(-1).expand(-1, -1, unembed.shape[1])
    return unembed.transpose(1, 2).gather(1, flat).unflatten(1, tokens.shape[1:])


def normed(x: Float[Tensor, "*rest d_model"], config: SubjectConfig) -> Float[Tensor, "*rest d_model"]:
    """What canonical weights read of a residual stream."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=config.eps) if config.has_norm else x
