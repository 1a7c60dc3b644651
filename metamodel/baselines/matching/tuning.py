"""How opponents are tuned: every setting, similarity and pruning, by mean partial F1 on validation pairs.

All have the same budget: at most `MOST_SETTINGS` settings, each with every similarity at every weight. All
are tried on a few pairs, and the best of them on all. What is pruned is chosen from one list for everybody:
pairs below a threshold of the opponent's own confidence, or pairs whose edges cost more than they gain.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.baselines.matching.base import MatchingOpponent, Setting
from metamodel.baselines.matching.problem import standardised
from metamodel.config.errors import require

Judge = Callable[[MatchedPair, Int[Tensor, " node"]], float]
"""Partial F1 of a map, 0 to 1. Evaluation supplies it: what is measured has one home."""
Similarity = Callable[[MatchedPair], Float[Tensor, "node theirs"] | None]
"""How alike the nodes of two circuits are, higher for more; None where it is not at hand."""
WEIGHTS = (0.2, 1.0)
"""How strongly a similarity may count, in its own deviations."""
QUANTILES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Of the confidences of all pairs: thresholds of confidence that are tried."""
GAINS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Analogy thresholds τ that are tried for pruning by gain."""
FEW, FINALISTS = 24, 8
"""Pairs on which all choices are tried, and how many of these are tried on all pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What is left out of a map."""

    how: str = "none"
    """`none`, `confidence` or `gain`."""
    threshold: float = 0.0
    """Least confidence that is kept, or τ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What an opponent runs with."""

    setting: Setting = field(default_factory=dict)
    source: str = "none"
    """Name of the similarity."""
    weight: float = 1.0
    pruning: Pruning = Pruning()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tuned:
    """An opponent with its choice, and what it reached on the validation pairs."""

    opponent: MatchingOpponent
    choice: Choice
    partial_f1: float

    def match(self, pair: MatchedPair, similarities: Mapping[str, Similarity]) -> Match:
        """Of a pair it sees the two circuits and the similarity that it chose."""
        found = solved(self.opponent, pair, similarities, self.choice)
        require(
            found is not None,
            f"{self.opponent.name} on {pair.name}",
            expected=f"the similarity {self.choice.source!r}",
            got="none",
            do="Give it for every pair that this opponent is asked about.",
        )
        assert found is not None
        return pruned(found, pair.first, pair.second, self.choice.pruning)


def tuned(
    opponents: Sequence[MatchingOpponent],
    pairs: Sequence[MatchedPair],
    similarities: Mapping[str, Similarity],
    judge: Judge,
) -> list[Tuned]:
    """Each opponent with its best choice on validation pairs, the first of equals.

    Opponents whose similarity is not at hand for these pairs are left out.

    Args:
        pairs: with known truth, of the split `validation` alone.
        similarities: by name: `raw`, `learned`, and whatever opponents ask for.

    Raises: InputError for pairs of other splits, or none.
    """
    splits = sorted({pair.split for pair in pairs})
    require(
        splits == ["validation"],
        "pairs to tune on",
        expected="pairs of the split validation",
        got=splits,
        do="Tune on validation pairs only.",
    )
    known = [pair for pair in pairs if pair.truth is not None and pair.present]
    require(bool(known), "pairs to tune on", expected="a known truth", got="none", do="Give such pairs.")
    found = []
    for opponent in opponents:
        choices = [
            Choice(setting=setting, source=source, weight=weight)
            for source in opponent.sources
            if source == "none" or source in similarities
            for weight in (WEIGHTS if source != "none" and len(opponent.sources) > 1 else (1.0,))
            for setting in opponent.settings()
        ]
        few = _best(opponent, known[:: max(len(known) // FEW, 1)], similarities, judge, choices)
        finalists = [choice for choice, _ in few[:FINALISTS]]
        best = _best(opponent, known, similarities, judge, finalists)
        if best:
            found.append(Tuned(opponent=opponent, choice=best[0][0], partial_f1=best[0][1]))
    return found


def _best(
    opponent: MatchingOpponent,
    pairs: Sequence[MatchedPair],
    similarities: Mapping[str, Similarity],
    judge: Judge,
    choices: Sequence[Choice],
) -> list[tuple[Choice, float]]:
    """Choices with their best pruning, best first."""
    scored = []
    for choice in choices:
        matches = [solved(opponent, pair, similarities, choice) for pair in pairs]
        held = [match for match in matches if match is not None]
        if len(held) < len(pairs):
            continue
        gains = [Gains.of(p.first, p.second, m.pairs) for p, m in zip(pairs, held, strict=True)]
        for pruning in prunings(pairs, held):
            f1 = [
                judge(pair, gained.kept(pruning.threshold))
                if pruning.how == "gain"
                else judge(pair, pruned(match, pair.first, pair.second, pruning).pairs)
                for pair, match, gained in zip(pairs, held, gains, strict=True)
            ]
            scored.append((replace(choice, pruning=pruning), float(np.mean(f1))))
    scored.sort(key=lambda one: -one[1])
    return scored


def prunings(pairs: Sequence[MatchedPair], matches: Sequence[Match]) -> list[Pruning]:
    """None, thresholds of confidence at quantiles of these matches, and gain at every τ."""
    sure = torch.cat(
        [
            confidence(match)[(match.pairs != NONE) & ~pair.first.is_anchor]
            for pair, match in zip(pairs, matches, strict=True)
        ]
    )
    levels = sorted(set(torch.quantile(sure, torch.tensor(QUANTILES)).tolist())) if len(sure) else []
    return [
        Pruning(),
        *(Pruning(how="confidence", threshold=level) for level in levels),
        *(Pruning(how="gain", threshold=tau) for tau in GAINS),
    ]


def solved(
    opponent: MatchingOpponent,
    pair: MatchedPair,
    similarities: Mapping[str, Similarity],
    choice: Choice,
) -> Match | None:
    """The unpruned match; None where the similarity is not at hand."""
    if choice.source == "none":
        return opponent.solve(pair.first, pair.second, None, choice.setting)
    alike = similarities[choice.source](pair) if choice.source in similarities else None
    if alike is None:
        return None
    weighted = choice.weight * standardised(alike, pair.first, pair.second)
    return opponent.solve(pair.first, pair.second, weighted, choice.setting)


def confidence(match: Match) -> Float[Tensor, " node"]:
    """Of the pair that each node is in; 0 where it is in none."""
    held = match.p.gather(1, match.pairs.clamp_min(0)[:, None]).squeeze(1)
    return held * (match.pairs != NONE)


def pruned(match: Match, first: CircuitGraph, second: CircuitGraph, pruning: Pruning) -> Match:
    """The match without the pairs that are not worth keeping, whose confidence is then 0; anchors stay."""
    pairs = match.pairs
    if pruning.how == "confidence":
        below = (confidence(match) < pruning.threshold) & ~first.is_anchor
        pairs = torch.where(below, torch.full_like(pairs, NONE), pairs)
    elif pruning.how == "gain":
        pairs = without_losses(first, second, pairs, pruning.threshold)
    p = match.p.clone()
    gone = ((pairs == NONE) & (match.pairs != NONE)).nonzero().squeeze(1)
    p[gone, match.pairs[gone]] = 0.0
    return Match(p=p, pairs=pairs, score=match.score)


def without_losses(
    first: CircuitGraph, second: CircuitGraph, pairs: Int[Tensor, " node"], tau: float
) -> Int[Tensor, " node"]:
    """The map without pairs whose edges cost more than they gain, `Σ 2ab − τ(a² + b²) ≤ 0`, worst first."""
    return Gains.of(first, second, pairs).kept(tau)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gains:
    """What the edges between matched nodes gain and cost; every τ is then cheap."""

    pairs: Int[Tensor, " node"]
    held: Int[ndarray, " kept"]
    """Matched nodes."""
    fixed: Bool[ndarray, " kept"]
    """Anchors among them."""
    product: Float[ndarray, "kept same"]
    """`Σ_c 2ab`, both directions added."""
    square: Float[ndarray, "kept same"]
    """`Σ_c a² + b²`, both directions added."""

    @classmethod
    def of(cls, first: CircuitGraph, second: CircuitGraph, pairs: Int[Tensor, " node"]) -> "Gains":
        held = (pairs != NONE).nonzero().squeeze(1)
        theirs = pairs[held]
        a = first.edges[:, held][:, :, held].double().numpy()
        b = second.edges[:, theirs][:, :, theirs].double().numpy()
        product, square = 2 * (a * b).sum(0), (a**2 + b**2).sum(0)
        return cls(
            pairs=pairs,
            held=held.numpy(),
            fixed=first.is_anchor[held].numpy(),
            product=product + product.T,
            square=square + square.T,
        )

    def kept(self, tau: float) -> Int[Tensor, " node"]:
        gain = self.product - tau * self.square
        each = gain.sum(1)
        inside = ~self.fixed
        while inside.any():
            worst = int(np.argmin(np.where(inside, each, np.inf)))
            if each[worst] > 0:
                break
            inside[worst] = False
            each = each - gain[worst]
        pairs = self.pairs.clone()
        pairs[self.held[~(inside | self.fixed)]] = NONE
        return pairs
