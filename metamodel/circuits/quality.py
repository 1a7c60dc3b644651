"""What a faithful circuit may lack: no edge without use, a task of its own, the same answer tomorrow."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.faithfulness import CircuitRunner, first_edges
from metamodel.circuits.graph import ComponentEdges
from metamodel.circuits.pruning import without_dangling
from metamodel.config.errors import require

SMALLEST_USE = 0.01
"""Share of the effect that an edge of use changes at least."""
RANDOM_EDGES = 64
"""Most edges outside a circuit whose effects an edge of use must exceed."""
NULL_QUANTILE = 0.95
"""Share of those that it must exceed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Redundancy:
    """Members without which a circuit does as well, one at a time."""

    edge: Bool[Tensor, " edge"]
    bar: float
    """Change of the metric that an edge of use exceeds."""


def redundant(
    runner: CircuitRunner, kept: Bool[Tensor, " edge"], *, generator: torch.Generator
) -> Redundancy:
    """Edges whose removal from the circuit changes the metric no more than edges of no account do.

    The bar is `SMALLEST_USE` of the effect, or the 95th percentile of what edges outside the circuit change
    when they are added to it, if that is more. Only edges that anything can flow along count for that, at
    most `RANDOM_EDGES` of them drawn at random.
    """
    inside = kept.nonzero().squeeze(1)
    outside = (~kept & runner.run.exists).nonzero().squeeze(1)
    order = torch.randperm(len(outside), generator=generator, device=generator.device)
    alive = []
    for i in outside[order.to(outside.device)].tolist():
        more = kept.clone()
        more[i] = True
        if bool(without_dangling(runner.edges, more)[i]):
            alive.append(i)
        if len(alive) == RANDOM_EDGES:
            break
    changed = torch.cat([inside, torch.tensor(alive, dtype=inside.dtype, device=inside.device)])
    masks = kept.expand(len(changed) + 1, -1).clone()
    masks[torch.arange(len(changed), device=kept.device), changed] ^= True
    value = runner.values(masks).mean(-1)
    effect = (value[:-1] - value[-1]).abs()
    null = effect[len(inside) :]
    bar = SMALLEST_USE * abs(runner.full - runner.empty)
    if len(null):
        bar = max(bar, float(torch.quantile(null, NULL_QUANTILE)))
    found = torch.zeros_like(kept)
    found[inside] = effect[: len(inside)] <= bar
    return Redundancy(edge=found, bar=bar)


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
    drawn = torch.randint(n_prompts, (n, n_prompts), generator=generator, device=generator.device)
    count = torch.stack([torch.bincount(row, minlength=n_prompts) for row in drawn])
    mean = count.to(per_prompt) / n_prompts @ per_prompt.T
    return mean.abs().argsort(dim=-1, descending=True, stable=True)


def stability(
    per_prompt: Float[Tensor, "edge batch"],
    k: int,
    *,
    n: int = 100,
    generator: torch.Generator,
    pruned: ComponentEdges | None = None,
) -> float:
    """Mean Jaccard overlap, in [0, 1], of the circuits of k edges that two resamples of the prompts find.

    Args:
        per_prompt: effect of each edge on each prompt, as `EdgeScores.per_prompt`.
        n: bootstrap resamples; all pairs of them are compared.
        pruned: graph of the subject, if dangling edges are dropped before circuits are compared.

    Raises: InputError for a k outside of 1 to the number of edges, or fewer than two resamples.
    """
    n_edges = per_prompt.shape[0]
    require(1 <= k <= n_edges, "k", expected=f"1 to {n_edges} edges", got=k, do="Take a smaller circuit.")
    require(n >= 2, "n", expected="at least 2 resamples", got=n, do="Take 100 or more.")
    circuits = [first_edges(r, k) for r in bootstrap_rankings(per_prompt, n=n, generator=generator)]
    if pruned is not None:
        circuits = [without_dangling(pruned, one) for one in circuits]
    member = torch.stack(circuits).double()
    shared, size = member @ member.T, member.sum(1)
    either = (size.unsqueeze(0) + size.unsqueeze(1) - shared).clamp_min(1)
    one, two = torch.triu_indices(n, n, offset=1, device=member.device)
    return float((shared / either)[one, two].mean())
