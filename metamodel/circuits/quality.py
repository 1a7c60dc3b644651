"""What a faithful circuit may lack: no edge without use, a task of its own, the same answer tomorrow."""

import itertools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.faithfulness import CircuitRunner, first_edges
from metamodel.config.errors import require

RANDOM_EDGES = 64
"""Most edges outside a circuit whose effect sets the bar of a redundant one."""
NULL_QUANTILE = 0.95
"""Share of those edges' effects that an edge of use exceeds."""


def redundant(
    runner: CircuitRunner, kept: Bool[Tensor, " edge"], *, generator: torch.Generator
) -> Bool[Tensor, " edge"]:
    """Edges without which the circuit does as well: removing one changes the metric no more than noise does.

    The bar is the 95th percentile of the changes that edges outside the circuit make when they are added to
    it, at most `RANDOM_EDGES` of them drawn at random; 0 where there are none.
    """
    inside, outside = kept.nonzero().squeeze(1), (~kept).nonzero().squeeze(1)
    order = torch.randperm(len(outside), generator=generator)[:RANDOM_EDGES].to(outside.device)
    outside = outside[order]
    changed = torch.cat([inside, outside])
    masks = kept.expand(len(changed) + 1, -1).clone()
    masks[torch.arange(len(changed), device=kept.device), changed] ^= True
    value = runner.values(masks).mean(-1)
    effect = (value[:-1] - value[-1]).abs()
    null = effect[len(inside) :]
    bar = torch.quantile(null, NULL_QUANTILE) if len(null) else effect.new_zeros(())
    found = torch.zeros_like(kept)
    found[inside] = effect[: len(inside)] <= bar
    return found


def damage(runner: CircuitRunner, kept: Bool[Tensor, " edge"]) -> float:
    """Share of the effect that is lost when the circuit's edges are patched: 1 - f of the complement."""
    return 1.0 - float(runner.recovered(~kept.unsqueeze(0))[0])


def selectivity(own: CircuitRunner, other: CircuitRunner, kept: Bool[Tensor, " edge"]) -> float:
    """Damage to the circuit's own task minus damage to another one; both on the same subject.

    1: all of its own is lost and nothing of the other; 0: it serves both alike.

    Raises: InputError for runners of subjects of different shapes.
    """
    require(
        own.run.config == other.run.config,
        "selectivity",
        expected="one subject on two tasks",
        got="subjects of two shapes",
        do="Make both runners from the same subject.",
    )
    return damage(own, kept) - damage(other, kept)


def bootstrap_rankings(
    per_prompt: Float[Tensor, "edge batch"], *, n: int, generator: torch.Generator
) -> Int[Tensor, "resample edge"]:
    """Rankings of edges by |mean score| over `n` resamples of the prompts."""
    n_prompts = per_prompt.shape[1]
    drawn = torch.randint(n_prompts, (n, n_prompts), generator=generator)
    weight = torch.zeros(n, n_prompts).scatter_add_(1, drawn, torch.ones(n, n_prompts)) / n_prompts
    mean = weight.to(per_prompt) @ per_prompt.T
    return mean.abs().argsort(dim=-1, descending=True, stable=True)


def stability(
    per_prompt: Float[Tensor, "edge batch"], k: int, *, n: int = 100, generator: torch.Generator
) -> float:
    """Mean Jaccard overlap, in [0, 1], of the circuits of k edges that two resamples of the prompts find.

    Args:
        per_prompt: effect of each edge on each prompt, as `EdgeScores.per_prompt`.
        n: bootstrap resamples; all pairs of them are compared.

    Raises: InputError for a k outside of 1 to the number of edges, or fewer than two resamples.
    """
    n_edges = per_prompt.shape[0]
    require(1 <= k <= n_edges, "k", expected=f"1 to {n_edges} edges", got=k, do="Take a smaller circuit.")
    require(n >= 2, "n", expected="at least 2 resamples", got=n, do="Take 100 or more.")
    rankings = bootstrap_rankings(per_prompt, n=n, generator=generator)
    member = torch.stack([first_edges(ranking, k) for ranking in rankings]).double()
    shared = member @ member.T
    one, two = torch.tensor(list(itertools.combinations(range(n), 2))).T.to(shared.device)
    overlap = shared[one, two]
    return float((overlap / (2 * k - overlap)).mean())
