"""How far one circuit is from another, as a loss: 1 minus the share of edge mass that the best map matches.

    L_τ(A, B) = (N − max(E_τ(P*), 0)) / (N + ε₀),   N = (1 − τ) Σ_c (‖A_c‖² + ‖B_c‖²)

`E_τ` is the energy of `metamodel.analogy.energy`, `P*` its best substochastic map. 2ab ≤ a² + b² and
marginals of at most 1 give E ≤ N, so that L lies in [0, 1]: 0 where all edge mass matches exactly, 1 where
no pair of edges earns a gain. Merely row-stochastic maps break the bound: maps are substochastic.

The gradient goes through edges, not through the map: at an optimum the two agree (envelope theorem). It has
the normaliser's term, ∂L/∂B = −∂E/∂B / N + 2 (1 − τ) E·B / N², and is wrong by its own size without it. Maps
of a Sinkhorn temperature above 0.03 are no optima, and edges are not trained by them.

At a fixed τ weak edges match nothing and get no gradient: anneal τ from 0 (`annealed_tau`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.energy import Edges, bound, energy
from metamodel.analogy.graph import CircuitBatch
from metamodel.analogy.solver import SolverSetting, as_map, rounded, solve
from metamodel.config.errors import require
from metamodel.subjects.config import KINDS

LEAST = 1e-8
"""ε₀: edge mass, squared, below which two circuits count as having none."""
_ALIKE = KINDS.index("head")

Kinds = tuple[Int[Tensor, "*rest node"], Int[Tensor, "*rest theirs"]]
"""Of the nodes of both circuits, as indices into `KINDS`; -1 for padding."""


def circuit_loss(
    first: Float[Tensor, "*rest channel node node2"],
    second: Float[Tensor, "*rest channel theirs theirs2"],
    *,
    tau: float,
    p: Float[Tensor, "*rest node theirs"] | None = None,
    kinds: Kinds | None = None,
    setting: SolverSetting | None = None,
) -> Float[Tensor, "*rest"]:
    """Distance of two circuits in [0, 1], differentiable in both.

    Args:
        first, second: edges at least 0, as `analogy.graph.edge_matrix` gives them: raw, so that a circuit of
            half the size is another circuit; divide by their norm first where only shapes should count.
        tau: the analogy threshold, at least 0 and below 1; edges match whose 2ab / (a² + b²) exceeds it.
        p: the map, substochastic; None solves for it. It gets no gradient.
        kinds: nodes match their kind only, and embeddings and unembedding themselves. None: all are alike.
        setting: of the solver; its `tau` is replaced.

    Raises: InputError for a τ out of range.
    """
    _check(tau)
    if p is None:
        p = best_map(first, second, tau=tau, kinds=kinds, setting=setting)
    return loss_of_map(first, second, p.detach().to(first.dtype), tau)


def loss_of_map(
    first: Float[Tensor, "*rest channel node node2"],
    second: Float[Tensor, "*rest channel theirs theirs2"],
    p: Float[Tensor, "*rest node theirs"],
    tau: float,
) -> Float[Tensor, "*rest"]:
    """The loss under one map, which is an upper bound of the loss."""
    edges = Edges.of(first, second)
    whole = bound(edges, tau)
    return (whole - energy(edges, p, tau).clamp_min(0)) / (whole + LEAST)


@torch.no_grad()
def best_map(
    first: Float[Tensor, "*rest channel node node2"],
    second: Float[Tensor, "*rest channel theirs theirs2"],
    *,
    tau: float,
    kinds: Kinds | None = None,
    setting: SolverSetting | None = None,
    candidates: Sequence[Float[Tensor, "*rest node theirs"]] = (),
) -> Float[Tensor, "*rest node theirs"]:
    """The map of most energy that the classical matcher finds, from either side, fractional or rounded.

    Both sides are solved, so that swapping the circuits transposes the map. Circuits whose nodes are of the
    same kinds in the same order are also tried as they stand: then no circuit is away from itself.

    Args:
        candidates: maps that are considered beside it, such as the one of some steps ago.
    """
    n, m = first.shape[-1], second.shape[-1]
    lead = first.shape[:-3]
    one, other = batches(first, second, kinds)
    how = _at(setting, tau)
    found = [solve(one, other, how), solve(other, one, how).mT]
    found += [as_map(rounded(found[0], one, other, how), m, dtype=one.edges.dtype)]
    found += [as_map(rounded(found[1].mT.contiguous(), other, one, how), n, dtype=one.edges.dtype).mT]
    found += [candidate.reshape(-1, n, m).to(one.edges.dtype) for candidate in candidates]
    if n == m and bool((one.kinds == other.kinds).all()):
        found.append(torch.diag_embed(one.mask.to(one.edges.dtype)))
    edges = Edges.of(one.edges, other.edges)
    worth = torch.stack([energy(edges, p, tau) for p in found])
    chosen = torch.stack(found)[worth.argmax(0), torch.arange(len(one), device=first.device)]
    return chosen.reshape(*lead, n, m).to(first.dtype)


@torch.no_grad()
def rounded_map(
    first: Float[Tensor, "*rest channel node node2"],
    second: Float[Tensor, "*rest channel theirs theirs2"],
    *,
    tau: float,
    p: Float[Tensor, "*rest node theirs"] | None = None,
    kinds: Kinds | None = None,
    setting: SolverSetting | None = None,
) -> Int[Tensor, "*rest node"]:
    """For each node its one counterpart, or -1, from a fractional map or from the solver's."""
    if p is None:
        p = best_map(first, second, tau=tau, kinds=kinds, setting=setting)
    one, other = batches(first, second, kinds)
    flat = p.reshape(-1, *p.shape[-2:]).to(one.edges.dtype).contiguous()
    return rounded(flat, one, other, _at(setting, tau)).reshape(p.shape[:-1])


@torch.no_grad()
def circuit_distance(
    first: Float[Tensor, "*rest channel node node2"],
    second: Float[Tensor, "*rest channel theirs theirs2"],
    *,
    tau: float = 0.5,
    kinds: Kinds | None = None,
    setting: SolverSetting | None = None,
) -> Float[Tensor, "*rest"]:
    """The loss under a one-to-one map, for reports: a fractional map may beat every partial permutation.

    Symmetric: the better of the maps that the two sides give.
    """
    _check(tau)
    p = best_map(first, second, tau=tau, kinds=kinds, setting=setting)
    swapped = None if kinds is None else (kinds[1], kinds[0])
    there = rounded_map(first, second, tau=tau, p=p, kinds=kinds)
    back = rounded_map(second, first, tau=tau, p=p.mT, kinds=swapped)
    maps = (one_to_one(there, second).to(first.dtype), one_to_one(back, first).mT.to(first.dtype))
    return torch.minimum(*(loss_of_map(first, second, p, tau) for p in maps))


def one_to_one(
    pairs: Int[Tensor, "*rest node"], second: Float[Tensor, "*rest channel theirs theirs2"]
) -> Float[Tensor, "*rest node theirs"]:
    """The 0/1 map of indices of counterparts."""
    return as_map(pairs.reshape(-1, pairs.shape[-1]), second.shape[-1]).reshape(
        *pairs.shape, second.shape[-1]
    )


def annealed_tau(step: int, n_steps: int, *, final: float = 0.5, share: float = 0.6) -> float:
    """τ of a step, from 0: linear up to `final` over the first `share` of the steps, then constant."""
    return final * min(1.0, step / max(1.0, share * n_steps))


class MapKeeper:
    """The map of a training run: solved anew every few steps, and changed only where that gains enough.

    Without the second, two maps of nearly the same energy take turns, and pull the edges two ways.
    """

    def __init__(self, *, every: int = 10, gain: float = 0.02, setting: SolverSetting | None = None):
        """
        Args:
            every: steps between solutions, at least 1.
            gain: energy that a new map must gain on the old one, as a share of the bound.
        """
        require(every >= 1, "every", expected="at least 1", got=every, do="10 steps are common.")
        require(gain >= 0, "gain", expected="at least 0", got=gain, do="Try 0.02.")
        self.every, self.gain, self.setting = every, gain, setting
        self.n_calls = 0
        self.p: Tensor | None = None

    @torch.no_grad()
    def __call__(
        self,
        first: Float[Tensor, "*rest channel node node2"],
        second: Float[Tensor, "*rest channel theirs theirs2"],
        *,
        tau: float,
        kinds: Kinds | None = None,
    ) -> Float[Tensor, "*rest node theirs"]:
        """The map of this step; the same circuits are given in every call, as they are by then."""
        if self.p is None:
            self.p = best_map(first, second, tau=tau, kinds=kinds, setting=self.setting)
        elif self.n_calls % self.every == 0:
            new = best_map(first, second, tau=tau, kinds=kinds, setting=self.setting)
            edges = Edges.of(first, second)
            least = energy(edges, self.p, tau) + self.gain * bound(edges, tau)
            better = energy(edges, new, tau) > least
            self.p = torch.where(better[..., None, None], new, self.p)
        self.n_calls += 1
        return self.p


def batches(
    first: Float[Tensor, "*rest channel node node2"],
    second: Float[Tensor, "*rest channel theirs theirs2"],
    kinds: Kinds | None = None,
) -> tuple[CircuitBatch, CircuitBatch]:
    """Both sides as matchers take them, with one leading axis."""
    made = []
    for i, edges in enumerate((first, second)):
        n = edges.shape[-1]
        kind = torch.full((n,), _ALIKE, device=edges.device) if kinds is None else kinds[i]
        flat = edges.detach().reshape(-1, *edges.shape[-3:]).to(torch.get_default_dtype())
        kind = kind.expand(*edges.shape[:-3], n).reshape(-1, n)
        made.append(
            CircuitBatch(
                edges=flat,
                features=flat.new_zeros(len(flat), n, 0),
                kinds=kind,
                depth=flat.new_zeros(len(flat), n),
                mask=kind >= 0,
            )
        )
    return made[0], made[1]


def _at(setting: SolverSetting | None, tau: float) -> SolverSetting:
    how = SolverSetting() if setting is None else setting
    return SolverSetting(tau=tau, n_steps=how.n_steps, n_starts=how.n_starts, seed=how.seed)


def _check(tau: float) -> None:
    require(0 <= tau < 1, "tau", expected="at least 0, below 1", got=tau, do="Try 0.5.")
