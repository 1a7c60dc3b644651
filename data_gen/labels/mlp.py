"""What MLPs do: write by the current token, by a pair of tokens, or by a number that passes a threshold.

Measured on random tokens of a small alphabet, in canonical form, where distances in the residual stream mean
something. Means of a group of positions are taken over the other prompts, so that nothing predicts itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_gen.labels.registry import N_DIRECTIONS
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import Weights, forward

Written = Float[Tensor, "*subject batch pos d_model"]
Keys = Int[Tensor, "batch pos"]
MlpScores = Float[Tensor, "subject layer"]
SPLIT_PART = 3
"""One in so many prompts serves to look for a split: enough to see a step."""
_LEAST_CURVED = 0.05
"""Share of the variance that a line must leave: less is noise, or a number that has two values."""


def pair_keys(tokens: Keys) -> Keys:
    """A number for each pair of the previous and the current token; BOS has no token before it."""
    before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], dim=1)
    return (before + 1) * (tokens.max() + 1) + tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Positions of prompts in groups, such as those of one token."""

    of: Int[Tensor, " batch_pos"]
    """The group of each position, flattened."""
    mine: Int[Tensor, " batch_pos"]
    """The part of that group inside the position's own prompt."""
    elsewhere: Int[Tensor, " batch_pos"]
    """Positions of the group in other prompts."""

    @classmethod
    def by(cls, keys: Keys) -> "Groups":
        n_prompts, n_pos = keys.shape
        of = keys.flatten().unique(return_inverse=True)[1]
        prompt = torch.arange(n_prompts, device=keys.device).repeat_interleave(n_pos)
        mine = (of * n_prompts + prompt).unique(return_inverse=True)[1]
        return cls(of=of, mine=mine, elsewhere=of.bincount()[of] - mine.bincount()[mine])

    def means(self, written: Written, fallback: Written) -> Written:
        """At each position the mean over the group's positions in other prompts; `fallback` without any."""
        flat = written.flatten(-3, -2)

        def totals(group: Tensor) -> Tensor:
            shape = (*flat.shape[:-2], int(group.max()) + 1, flat.shape[-1])
            return flat.new_zeros(shape).index_add(-2, group, flat).index_select(-2, group)

        count = self.elsewhere.unsqueeze(-1)
        mean = (totals(self.of) - totals(self.mine)) / count.clamp_min(1)
        return torch.where(count > 0, mean, fallback.flatten(-3, -2)).view_as(written)


def group_means(
    written: Written, tokens: Keys, pairs: Keys
) -> tuple[Written, Written, Written, Bool[Tensor, "batch pos"]]:
    """Means of other prompts: of all positions, by token, by pair; and where the pair stands elsewhere."""
    overall = Groups.by(torch.zeros_like(tokens)).means(written, written)
    by_token = Groups.by(tokens).means(written, overall)
    pair = Groups.by(pairs)
    return overall, by_token, pair.means(written, by_token), (pair.elsewhere > 0).view_as(tokens)


def lookups(written: Written, tokens: Keys) -> tuple[Float[Tensor, "*subject"], Float[Tensor, "*subject"]]:
    """`token_lookup` and `pair_lookup`: shares of variance, BOS left out."""
    behind = written[..., 1:, :].contiguous()
    overall, by_token, by_pair, _ = group_means(behind, tokens[:, 1:], pair_keys(tokens)[:, 1:])

    def left(predicted: Tensor) -> Tensor:
        return (behind - predicted).square().sum((-1, -2, -3))

    total = left(overall).clamp_min(1e-12)
    token, pair = 1 - left(by_token) / total, 1 - left(by_pair) / total
    return token, pair - token


def best_split(
    pre: Float[Tensor, "sample d_mlp"], written: Float[Tensor, "sample d_model"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""], Float[Tensor, ""]]:
    """`threshold` of one MLP, and the neuron and level of its input of the best split.

    With R² the share of the variance of what is written that two means explain, one a side of a split of one
    neuron's input, and L² the share that the best linear function of that input explains, the score is the
    largest (R² - L²) / (1 - L²) over neurons and splits. Only the first principal directions of what is
    written are looked at.
    """
    n = len(pre)
    y = written - written.mean(0)
    total = y.square().sum().clamp_min(1e-12)
    y = y @ torch.linalg.eigh(y.T @ y).eigenvectors[:, -N_DIRECTIONS:]
    ordered, order = pre.T.contiguous().sort(-1)  # d_mlp sample
    below = y[order].cumsum(1)[:, :-1].square().sum(-1)
    count = torch.arange(1, n, device=pre.device)
    split = below * n / (count * (n - count)) / total
    split = torch.where(ordered[:, :-1] < ordered[:, 1:], split, 0.0)
    x = pre - pre.mean(0)
    line = (x.T @ y).square().sum(-1, keepdim=True) / x.square().sum(0).clamp_min(1e-12)[:, None] / total
    score = (split - line) / (1 - line).clamp_min(_LEAST_CURVED)
    neuron, at = divmod(int(score.argmax()), n - 1)
    return score[neuron, at], torch.tensor(neuron), ordered[neuron, at : at + 2].mean()


def mlp_scores(weights: Weights, config: SubjectConfig, few: Keys) -> tuple[MlpScores, MlpScores, MlpScores]:
    """`token_lookup`, `pair_lookup` and `threshold` of every MLP."""
    layers = range(config.n_layers)
    names = [f"blocks.{i}.{x}" for i in layers for x in ("mlp.hook_pre", "hook_mlp_out")]
    taps = forward(weights, config, few, taps=names).taps
    written = torch.stack([taps[f"blocks.{i}.hook_mlp_out"] for i in layers], dim=1)
    token, pair = lookups(written, few)
    some = slice(0, max(1, len(few) // SPLIT_PART))
    step = torch.stack(
        [
            torch.stack(
                [
                    best_split(
                        taps[f"blocks.{i}.mlp.hook_pre"][s, some, 1:].flatten(0, 1),
                        one[some, 1:].flatten(0, 1),
                    )[0]
                    for i, one in enumerate(subject)
                ]
            )
            for s, subject in enumerate(written)
        ]
    )
    return token, pair, step
