"""Raw scores of all function labels, for stacks of subjects at once.

Pattern scores are means over the queries that have an entry of the label's kind, above the row-uniform
chance: 0 is a uniform head, 1 - mean chance a perfect one.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.labels.batteries import Batteries
from data_gen.labels.entries import (
    Entries,
    answer_entries,
    attention_entries,
    offset_entries,
    row_chance,
    visible,
)
from data_gen.labels.registry import LABELS, MIN_DEFINED_SHARE, OFFSETS
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, activation, forward, layer_norm

HeadScores = Float[Tensor, "subject layer head"]
Pattern = Float[Tensor, "subject layer batch head query key"]


def patterns(weights: Weights, config: SubjectConfig, tokens: Int[Tensor, "batch pos"]) -> Pattern:
    """Attention of every head on tokens that all subjects of the stack share."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(config.n_layers)]
    taps = forward(weights, config, tokens, taps=names).taps
    return torch.stack([taps[name] for name in names], dim=1)


def pattern_score(pattern: Pattern, entries: Entries, attention_dir: str) -> HeadScores:
    """Mean attention to `entries` above chance, over the queries that have one; NaN without any.

    `entries` have no subject axis here: batteries are shared.
    """
    rows = entries.any(-1)
    if not bool(rows.any()):
        return pattern.new_full((pattern.shape[0], pattern.shape[1], pattern.shape[3]), torch.nan)
    weight = entries.to(pattern.dtype) / rows.sum()
    chance = (weight * row_chance(entries.shape[-1], attention_dir, entries.device)).sum()
    return torch.einsum("slbhqk,bqk->slh", pattern, weight) - chance


def best_offset(
    pattern: Pattern, tokens: Int[Tensor, "batch pos"], attention_dir: str
) -> tuple[HeadScores, Tensor]:
    """Score of the best distance in `OFFSETS`, and that distance `[subject, layer, head]`."""
    scores = [
        pattern_score(pattern, offset_entries(tokens, k, attention_dir), attention_dir)
        for k in OFFSETS
        if k <= tokens.shape[-1] - 2
    ]
    if not scores:
        empty = pattern.new_full((pattern.shape[0], pattern.shape[1], pattern.shape[3]), torch.nan)
        return empty, torch.full_like(empty, OFFSETS[0]).long()
    best, index = torch.stack(scores).max(0)
    return best, torch.tensor(OFFSETS, device=best.device)[index]


def positional_share(pattern: Pattern, attention_dir: str) -> HeadScores:
    """Variance over (query, key) of the mean over prompts of A - chance, over the variance of A - chance.

    Taking chance off first matters: the 1/(i+1) of a causal row is position alone, and would make every
    uniform head positional.
    """
    n_pos = pattern.shape[-1]
    keep = visible(n_pos, attention_dir, pattern.device).clone()
    keep[0] = False
    if attention_dir == "bidirectional":
        keep[0] = True
    above = (pattern - row_chance(n_pos, attention_dir, pattern.device)).transpose(2, 3)[..., keep]
    mean = above.mean(dim=3)
    total = above.square().mean(dim=(3, 4))
    return mean.square().mean(-1) / total.clamp_min(1e-12)


def copying(weights: Weights, config: SubjectConfig) -> HeadScores:
    """Re Σλ / Σ|λ| of the OV circuit between tokens, E_eff W_V W_O U, both sides centred over tokens.

    E_eff is what a head reads at a token: LN(W_E + mean W_pos), with the first MLP's answer to it for heads
    behind that MLP. The eigenvalues are those of the d_head x d_head product W_O U E_eff W_V (cyclic).
    Gains are folded and the rest cancels in the centring, so every gauge transformation leaves it as it is.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", copying heads.
    """
    embedded = weights["embed.W_E"] + weights["pos_embed.W_pos"].mean(1, keepdim=True)
    unembed = weights["unembed.W_U"]
    if config.has_norm:
        unembed = unembed * weights["ln_final.w"].unsqueeze(-1)
        unembed = unembed - unembed.mean(1, keepdim=True)
    unembed = unembed - unembed.mean(2, keepdim=True)

    def normed(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, weights[f"{name}.w"], weights[f"{name}.b"], config.eps) if config.has_norm else x

    scores = []
    for layer in range(config.n_layers):
        if layer == 1 and config.has_mlp:
            mlp = "blocks.0.mlp"
            pre = normed(embedded, "blocks.0.ln2") @ weights[f"{mlp}.W_in"] + weights[
                f"{mlp}.b_in"
            ].unsqueeze(1)
            embedded = embedded + activation(pre, config.act_fn) @ weights[f"{mlp}.W_out"]
        read = normed(embedded, f"blocks.{layer}.ln1")
        read = read - read.mean(1, keepdim=True)
        attn = f"blocks.{layer}.attn"
        into = torch.einsum("svm,shmd->shvd", read, weights[f"{attn}.W_V"])
        out = torch.einsum("shdm,smv->shdv", weights[f"{attn}.W_O"], unembed)
        values = torch.linalg.eigvals((out @ into).double())
        scores.append((values.real.sum(-1) / values.abs().sum(-1).clamp_min(1e-12)).to(read.dtype))
    return torch.stack(scores, dim=1)


def _stacked_tokens(prompts: tuple[Prompts, ...], n_subjects: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clean tokens, positions and answers with a subject axis; one set of prompts is shared by all."""
    parts = [
        torch.stack(field) for field in zip(*((p.clean, p.position, p.answer) for p in prompts), strict=True)
    ]
    tokens, position, answer = (part.expand(n_subjects, *part.shape[1:]) for part in parts)
    return tokens, position, answer


def name_mover(weights: Weights, config: SubjectConfig, prompts: tuple[Prompts, ...]) -> HeadScores:
    """Mean over prompts of (A[END, positions of the answer] - chance) · 1[what is moved raises the answer].

    What a head moves from those positions is Σ_k A[END, k] v_k W_O, biases left out of v; it raises the
    answer where its dot product with the answer's column of W_U, gain folded, centred over tokens, is
    positive (the scale of the final LayerNorm is positive and does not matter). Prompts without their answer
    do not count; subjects with too few others have NaN. `prompts`: one for each subject of the stack, or one
    shared by all.
    Source: Wang et al. 2022 (IOI), name movers.
    """
    n_subjects = weights["embed.W_E"].shape[0]
    tokens, position, answer = _stacked_tokens(prompts, n_subjects)
    holds = answer_entries(tokens, position, answer).any(2)  # subject batch key
    defined = holds.any(-1)
    chance = row_chance(tokens.shape[-1], config.attention_dir, tokens.device)[position]
    direction = weights["unembed.W_U"]
    if config.has_norm:
        direction = direction * weights["ln_final.w"].unsqueeze(-1)
        direction = direction - direction.mean(1, keepdim=True)
    direction = direction - direction.mean(2, keepdim=True)
    wanted = direction.transpose(1, 2).gather(1, answer.unsqueeze(-1).expand(-1, -1, config.d_model))
    names = [f"blocks.{i}.attn.hook_{x}" for i in range(config.n_layers) for x in ("pattern", "v")]
    shared = tokens[0] if len(prompts) == 1 else tokens
    taps = forward(weights, config, shared, taps=names).taps
    row = position[:, :, None, None, None].expand(-1, -1, config.n_heads, 1, tokens.shape[-1])
    scores = []
    for layer in range(config.n_layers):
        attn = f"blocks.{layer}.attn"
        attended = taps[f"{attn}.hook_pattern"].gather(3, row).squeeze(3) * holds.unsqueeze(2)
        wants = torch.einsum("sbm,shdm->sbhd", wanted, weights[f"{attn}.W_O"])
        bias = weights[f"{attn}.b_V"]
        if config.has_norm:
            folded = torch.einsum("sm,shmd->shd", weights[f"blocks.{layer}.ln1.b"], weights[f"{attn}.W_V"])
            bias = bias + folded
        value = taps[f"{attn}.hook_v"] - bias[:, None, None]
        moved = torch.einsum("sbhk,sbkhd,sbhd->sbh", attended, value, wants)
        above = attended.sum(-1) - (chance * holds).sum(-1).unsqueeze(-1)
        counted = torch.where((moved > 0) & defined.unsqueeze(-1), above, 0.0)
        scores.append(counted.sum(1) / defined.sum(1, keepdim=True).clamp_min(1))
    enough = defined.float().mean(1) >= MIN_DEFINED_SHARE
    return torch.stack(scores, dim=1).masked_fill(~enough[:, None, None], torch.nan)


def raw_scores(
    weights: Weights, config: SubjectConfig, tests: Batteries, prompts: tuple[Prompts, ...]
) -> tuple[Float[Tensor, "subject layer head label"], Int[Tensor, "subject layer head"]]:
    """Every label's raw score, NaN where undefined, and the best distance of `offset_k`.

    Args:
        prompts: task prompts of each subject of the stack, or one set shared by all.
    """
    direction = config.attention_dir
    random = patterns(weights, config, tests.random)
    best, offset = best_offset(random, tests.random, direction)
    found: dict[str, HeadScores] = {
        "offset_k": best,
        "copying": copying(weights, config),
        "name_mover": name_mover(weights, config, prompts),
        "positional": positional_share(random, direction),
    }
    for label in ("previous_token", "self", "first_token_sink"):
        entries = attention_entries(label, tests.random, direction)
        found[label] = pattern_score(random, entries, direction)
    repeated = None if tests.repeated is None else patterns(weights, config, tests.repeated)
    for label in ("duplicate_token", "induction"):
        if repeated is None or tests.repeated is None:
            found[label] = torch.full_like(best, torch.nan)
        else:
            entries = attention_entries(label, tests.repeated, direction)
            found[label] = pattern_score(repeated, entries, direction)
    return torch.stack([found[label.name] for label in LABELS], dim=-1), offset
