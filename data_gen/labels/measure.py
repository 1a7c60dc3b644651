"""Raw scores of all function labels, for stacks of subjects at once.

Pattern scores are means over the queries that have an entry of the label's kind, above the row-uniform
chance: 0 is a uniform head, 1 - mean chance a perfect one.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.labels.answer import HeadScores, TaskRun, name_mover, offset_at_answer, sink_at_answer, task_run
from data_gen.labels.batteries import Batteries
from data_gen.labels.entries import (
    Entries,
    attention_entries,
    offset_entries,
    row_chance,
    visible,
)
from data_gen.labels.registry import LABELS, OFFSETS
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, activation, forward, layer_norm

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


def either(on_random: HeadScores, at_answer: HeadScores) -> HeadScores:
    """The larger of two scores, of which one may be undefined.

    A head of a trained subject may look one token back at the answer position of its task only, or on any
    tokens: both are what the label says, and the causal twin tells whether the subject needs it.
    """
    return torch.fmax(on_random, at_answer)


def offset_score(
    pattern: Pattern, tokens: Int[Tensor, "batch pos"], run: TaskRun, k: int, direction: str
) -> HeadScores:
    """Attention k tokens back, on random tokens or at the answer; NaN where no prompt is long enough."""
    score = pattern_score(pattern, offset_entries(tokens, k, direction), direction)
    return either(score, offset_at_answer(run, k))


def best_offset(scores: list[HeadScores]) -> tuple[HeadScores, Int[Tensor, "subject layer head"]]:
    """The best of the scores of all `OFFSETS`, and its distance; NaN where every one is undefined."""
    stacked = torch.stack(scores)
    best, index = stacked.nan_to_num(-torch.inf).max(0)
    best = best.masked_fill(stacked.isnan().all(0), torch.nan)
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


def raw_scores(
    weights: Weights, config: SubjectConfig, tests: Batteries, prompts: tuple[Prompts, ...]
) -> tuple[Float[Tensor, "subject layer head label"], Int[Tensor, "subject layer head"]]:
    """Every label's raw score, NaN where undefined, and the best distance of `offset_k`.

    Args:
        prompts: task prompts of each subject of the stack, or one set shared by all.
    """
    direction, tokens = config.attention_dir, tests.random
    random, run = patterns(weights, config, tokens), task_run(weights, config, prompts)
    sink = pattern_score(random, attention_entries("first_token_sink", tokens, direction), direction)
    best, offset = best_offset([offset_score(random, tokens, run, k, direction) for k in OFFSETS])
    found: dict[str, HeadScores] = {
        "previous_token": offset_score(random, tokens, run, 1, direction),
        "offset_k": best,
        "self": offset_score(random, tokens, run, 0, direction),
        "first_token_sink": either(sink, sink_at_answer(run)),
        "copying": copying(weights, config),
        "name_mover": name_mover(weights, config, run),
        "positional": positional_share(random, direction),
    }
    repeated = None if tests.repeated is None else patterns(weights, config, tests.repeated)
    for label in ("duplicate_token", "induction"):
        if repeated is None or tests.repeated is None:
            found[label] = torch.full_like(best, torch.nan)
        else:
            entries = attention_entries(label, tests.repeated, direction)
            found[label] = pattern_score(repeated, entries, direction)
    return torch.stack([found[label.name] for label in LABELS], dim=-1), offset
