"""The classical matcher: directed, channel-wise, partial Frank-Wolfe on the edge-gain energy.

A step goes towards the partial map that the gradient likes best (Hungarian algorithm over positive entries
alone), as far as the energy, quadratic along the line, rises (Vogelstein et al. 2015, FAQ, for permutations;
Gold & Rangarajan 1996). The threshold τ rises from 0 over the first half of the steps: at the end weak edges
match nothing, so a search that began there would not leave its start.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from metamodel.analogy.energy import Edges, energy, gradient
from metamodel.analogy.graph import CircuitBatch, compatible, is_anchor
from metamodel.analogy.pairs import NONE
from metamodel.config.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverSetting:
    """How the classical matcher searches, and what counts as alike."""

    tau: float = 0.5
    """Analogy threshold: matched edges of sizes a and b gain 2ab - tau (a² + b²). At least 0, below 1."""
    weight: float = 0.0
    """What the similarity of two nodes counts beside edges, whose energy is 2 (1 - tau) at most."""
    kappa: float = 0.5
    """Similarity above which it speaks for a pair."""
    n_steps: int = 30
    """Frank-Wolfe steps of a start."""
    n_starts: int = 4
    """Starts: one without preference, the others beside it at random. The best end is kept."""
    seed: int = 0
    """Draws the starts."""

    def __post_init__(self):
        require(0 <= self.tau < 1, "tau", expected="at least 0, below 1", got=self.tau, do="Try 0.5.")
        for name in ("n_steps", "n_starts"):
            value = getattr(self, name)
            require(value >= 1, name, expected="at least 1", got=value, do="Leave it out for the default.")


@torch.no_grad()
def solve(
    first: CircuitBatch,
    second: CircuitBatch,
    setting: SolverSetting,
    similarity: Float[Tensor, "pair node theirs"] | None = None,
) -> Float[Tensor, "pair node theirs"]:
    """Substochastic maps of high energy; anchors are matched to themselves.

    Args:
        similarity: of nodes, 0 to 1 or so; used where `setting.weight` is above 0.
    """
    edges = Edges.of(first.edges, second.edges)
    allowed = compatible(first, second)
    fixed = allowed & is_anchor(first.kinds)[:, :, None]
    free = allowed & ~fixed
    linear = None
    if similarity is not None and setting.weight > 0:
        linear = setting.weight * (similarity - setting.kappa) * free
    generator = torch.Generator().manual_seed(setting.seed)
    best_p = best_energy = None
    for i in range(setting.n_starts):
        p = _start(free, fixed, generator, noisy=i > 0)
        for step in range(setting.n_steps):
            tau = setting.tau * min(1.0, 2 * step / setting.n_steps)
            slope = gradient(edges, p, tau, linear=linear)
            towards = worthiest_map(slope, free).to(p.dtype) + fixed
            move = towards - p
            rise = (slope * move).sum((-2, -1))
            bend = energy(edges, move, tau)
            length = torch.where(
                bend < 0, (-rise / (2 * bend.clamp_max(-1e-30))).clamp(0, 1), (rise + bend > 0).to(p.dtype)
            )
            p = p + length[:, None, None] * move
            if bool((length == 0).all()) and tau == setting.tau:
                break
        reached = energy(edges, p, setting.tau, linear=linear)
        if best_p is None or best_energy is None:
            best_p, best_energy = p, reached
        else:
            better = reached > best_energy
            best_p = torch.where(better[:, None, None], p, best_p)
            best_energy = torch.where(better, reached, best_energy)
    assert best_p is not None
    return best_p


def _start(
    free: Bool[Tensor, "pair node theirs"],
    fixed: Bool[Tensor, "pair node theirs"],
    generator: torch.Generator,
    *,
    noisy: bool,
) -> Float[Tensor, "pair node theirs"]:
    """All allowed pairs alike, or nearly; rows and columns sum to at most 1."""
    p = free.to(torch.get_default_dtype())
    if noisy:
        drawn = torch.rand(free.shape, generator=generator).to(free.device)
        p = p * drawn.pow(2)
    largest = torch.maximum(p.sum(-1).amax(-1), p.sum(-2).amax(-1)).clamp_min(1e-9)
    return p / largest[:, None, None] + fixed


def worthiest_map(
    worth: Float[Tensor, "pair node theirs"], allowed: Bool[Tensor, "pair node theirs"]
) -> Bool[Tensor, "pair node theirs"]:
    """The partial maps of greatest worth: Hungarian algorithm over what is worth more than 0."""
    values = torch.where(allowed, worth, torch.zeros_like(worth)).clamp_min(0).cpu().double().numpy()
    chosen = np.zeros(values.shape, dtype=bool)
    for i, value in enumerate(values):
        rows, columns = linear_sum_assignment(value, maximize=True)
        kept = value[rows, columns] > 0
        chosen[i, rows[kept], columns[kept]] = True
    return torch.from_numpy(chosen).to(worth.device)


@torch.no_grad()
def rounded(
    p: Float[Tensor, "pair node theirs"],
    first: CircuitBatch,
    second: CircuitBatch,
    setting: SolverSetting,
    similarity: Float[Tensor, "pair node theirs"] | None = None,
) -> Int[Tensor, "pair node"]:
    """For each node its counterpart's index, or NONE: the likeliest map, mended pair by pair.

    The pair that costs most is taken out as long as one costs anything, then the pair that gains most put in
    as long as one gains anything; each changes the energy by exactly its entry of the gradient.
    """
    edges = Edges.of(first.edges, second.edges)
    allowed = compatible(first, second)
    fixed = allowed & is_anchor(first.kinds)[:, :, None]
    free = allowed & ~fixed
    linear = None
    if similarity is not None and setting.weight > 0:
        linear = setting.weight * (similarity - setting.kappa) * free
    chosen = (worthiest_map(p, free) | fixed).to(p.dtype)
    n_pairs = len(chosen)
    for _ in range(2 * max(chosen.shape[1:])):
        slope = gradient(edges, chosen, setting.tau, linear=linear)
        held = (chosen > 0) & free
        worst, out = slope.where(held, slope.new_full((), torch.inf)).flatten(1).min(1)
        taken = (chosen.sum(-1, keepdim=True) > 0) | (chosen.sum(-2, keepdim=True) > 0)
        best, into = slope.where(free & ~taken, slope.new_full((), -torch.inf)).flatten(1).max(1)
        drops = worst < 0
        adds = ~drops & (best > 1e-9)
        if not bool((drops | adds).any()):
            break
        flat = chosen.flatten(1)
        rows = torch.arange(n_pairs, device=p.device)
        flat[rows[drops], out[drops]] = 0
        flat[rows[adds], into[adds]] = 1
        chosen = flat.view_as(chosen)
    found, where = chosen.max(-1)
    return torch.where(found > 0, where, where.new_full((), NONE))


def as_map(
    pairs: Int[Tensor, "*rest node"], n_theirs: int, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*rest node theirs"]:
    """0/1 maps from indices of counterparts."""
    p = torch.zeros(*pairs.shape, n_theirs, dtype=dtype, device=pairs.device)
    return p.scatter_(-1, pairs.clamp_min(0)[..., None], (pairs >= 0).to(dtype)[..., None])
