"""Raw scores of all function labels, for stacks of subjects at once.

Pattern scores are means over the queries that have an entry of the label's kind, above the row-uniform
chance: 0 is a uniform head, 1 - mean chance a perfect one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.answer import HeadScores, TaskRun, offset_at_answer, sink_at_answer, task_run
from data_gen.labels.batteries import Batteries
from data_gen.labels.composition import CHANNELS, composition
from data_gen.labels.entries import (
    Entries,
    attention_entries,
    offset_entries,
    row_chance,
    visible,
)
from data_gen.labels.fourier import fourier
from data_gen.labels.mlp import mlp_scores
from data_gen.labels.movers import backup_mover, movers, s_inhibition
from data_gen.labels.registry import LABELS, MLP_LABELS, OFFSETS
from data_gen.labels.suppression import copy_suppression
from data_gen.labels.token_circuits import copying, successor
from data_gen.tasks.structure import Grid, Structure
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward
from metamodel.subjects.subject import Subject, stack, unstack

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawScores:
    """Scores of stacked subjects, and what twins must know of how they came about.

    Units of a layer are its heads and, behind them, its MLP if subjects have any.
    """

    value: Float[Tensor, "subject layer unit label"]
    """NaN where undefined, as labels of heads are for MLPs."""
    offset: Int[Tensor, "subject layer head"]
    """The distance that `offset_k` found."""
    primary: Bool[Tensor, "subject layer head"]
    """The primary movers."""
    source: Int[Tensor, "subject layer head channel"]
    """Number of the earlier head that each head composes with most, by q, k and v; -1 in the first layer."""


def raw_scores(
    weights: Weights,
    config: SubjectConfig,
    tests: Batteries,
    prompts: tuple[Prompts, ...],
    structure: tuple[Structure, ...] | None = None,
) -> RawScores:
    """Every label's raw score. See `canonical_scores`; weights may be in any gauge here."""
    return canonical_scores(canonical_stack(weights, config), config, tests, prompts, structure)


def canonical_scores(
    whole: Weights,
    config: SubjectConfig,
    tests: Batteries,
    prompts: tuple[Prompts, ...],
    structure: tuple[Structure, ...] | None = None,
) -> RawScores:
    """Every label's raw score, of weights in canonical form.

    Args:
        prompts: task prompts of each subject of the stack, or one set shared by all.
        structure: what is known of the task of each set of prompts; by default what prompts alone tell.
            Orders and grids are those of the first.
    """
    known = structure or tuple(Structure.of(one) for one in prompts)
    run = task_run(whole, config, prompts)
    heads, offset, primary, source = _heads(whole, config, tests, run, known)
    found = _with_mlps(heads, whole, config, tests, known[0].grid)
    value = torch.stack([found[label.name] for label in LABELS], dim=-1)
    return RawScores(value=value, offset=offset, primary=primary, source=source)


def canonical_stack(weights: Weights, config: SubjectConfig) -> dict[str, Tensor]:
    """The canonical form of each subject of a stack."""
    n = weights["embed.W_E"].shape[0]
    return stack([canonical(Subject(config=config, weights=unstack(weights, i))) for i in range(n)])


def _heads(
    whole: Weights, config: SubjectConfig, tests: Batteries, run: TaskRun, known: tuple[Structure, ...]
) -> tuple[dict[str, HeadScores], Tensor, Tensor, Tensor]:
    direction, tokens = config.attention_dir, tests.random
    random = patterns(whole, config, tokens)
    sink = pattern_score(random, attention_entries("first_token_sink", tokens, direction), direction)
    best, offset = best_offset([offset_score(random, tokens, run, k, direction) for k in OFFSETS])
    name, negative = movers(whole, run)
    backup, primary = backup_mover(whole, config, run)
    candidate = torch.stack([one.candidate for one in known]).expand(run.answer.shape)
    composed, source = composition(whole, config)
    found: dict[str, HeadScores] = {
        "previous_token": offset_score(random, tokens, run, 1, direction),
        "offset_k": best,
        "self": offset_score(random, tokens, run, 0, direction),
        "first_token_sink": either(sink, sink_at_answer(run)),
        "copying": copying(whole, config),
        "name_mover": name,
        "positional": positional_share(random, direction),
        "negative_mover": negative,
        "backup_mover": backup,
        "s_inhibition": s_inhibition(whole, config, run, candidate),
        "copy_suppression": copy_suppression(whole, config, run),
        "successor": successor(whole, config, known[0].successors),
        **{f"{x}_composition": composed[..., i] for i, x in enumerate(CHANNELS)},
    }
    repeated = None if tests.repeated is None else patterns(whole, config, tests.repeated)
    for label in ("duplicate_token", "induction"):
        if repeated is None or tests.repeated is None:
            found[label] = torch.full_like(best, torch.nan)
        else:
            entries = attention_entries(label, tests.repeated, direction)
            found[label] = pattern_score(repeated, entries, direction)
    return found, offset, primary, source


def _with_mlps(
    heads: dict[str, HeadScores], whole: Weights, config: SubjectConfig, tests: Batteries, grid: Grid | None
) -> dict[str, Float[Tensor, "subject layer unit"]]:
    """Scores of all units, NaN for heads under labels of MLPs and the other way round."""
    blank = torch.full_like(heads["self"], torch.nan)
    if not config.has_mlp:
        return {**heads, **{label.name: blank for label in MLP_LABELS}}
    token, pair, step = mlp_scores(whole, config, tests.few)
    frequency = blank[..., 0] if grid is None else fourier(whole, config, grid)
    mlps = {"token_lookup": token, "pair_lookup": pair, "threshold": step, "fourier": frequency}
    found = {name: torch.cat([score, blank[..., :1]], dim=-1) for name, score in heads.items()}
    return found | {name: torch.cat([blank, one.unsqueeze(-1)], dim=-1) for name, one in mlps.items()}
