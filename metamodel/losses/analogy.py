"""The loss of a matcher: scores of pairs of nodes -> a partial soft map, and what is wrong with that map.

    L = NLL_matched + ½ (NLL_unmatched,first + NLL_unmatched,second)       where the true map is known
        + λ_E (1 − E_τ / N_τ) + λ_R R − λ_S Sys + λ_H H                    anywhere

The map is a log-Sinkhorn coupling with a learned dustbin (SuperGlue, Sarlin et al. 2020). Unmatched nodes
count as much as matched ones, both sides alike: otherwise all nodes go to the dustbin, or none (SuperGlue
issue 6). `R` is the Gromov-Wasserstein cost of node relations in closed form (Peyré et al. 2016),

    R = (rᵀ D_A∘² r + sᵀ D_B∘² s − 2⟨D_A, P D_B Pᵀ⟩) / (ΣP)²,   r = P1, s = Pᵀ1

never over pairs of pairs. Alone it invites maps of no mass; the energy does not. `Sys` rewards matched chains
(systematicity, Gentner 1983) and is off by default.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.analogy.energy import Edges, bound, energy, messages
from metamodel.analogy.graph import CircuitBatch, compatible, is_anchor
from metamodel.analogy.pairs import NONE, UNKNOWN
from metamodel.analogy.sinkhorn import coupling, log_sinkhorn
from metamodel.config.errors import require

_LEAST_MASS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogyWeights:
    """What each term counts. 0 leaves it out."""

    matched: float = 1.0
    """Negative log-likelihood of the true pairs."""
    unmatched: float = 1.0
    """The same of nodes without counterpart, half from either side."""
    energy: float = 0.3
    """Share of edge mass that the map does not match."""
    relations: float = 0.0
    """Gromov-Wasserstein cost of relations of nodes, where there are any."""
    chain: float = 0.0
    """Reward for matched chains."""
    entropy: float = 0.0
    """Entropy of the coupling."""
    tau: float = 0.5
    """Analogy threshold of the energy."""
    temperature: float = 1.0
    """Scores are divided by it."""
    n_steps: int = 40
    """Of Sinkhorn scaling."""

    def __post_init__(self):
        require(0 <= self.tau < 1, "tau", expected="at least 0, below 1", got=self.tau, do="Try 0.5.")
        for name in ("matched", "unmatched", "energy", "relations", "chain", "entropy"):
            value = getattr(self, name)
            require(value >= 0, name, expected="at least 0", got=value, do="0 leaves the term out.")
        for name in ("temperature", "n_steps"):
            value = getattr(self, name)
            require(value > 0, name, expected="above 0", got=value, do="Leave it out for the default.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnalogyTerms:
    """The loss and each of its parts, unweighted, of each pair of circuits; and the map."""

    total: Float[Tensor, " pair"]
    matched: Float[Tensor, " pair"]
    unmatched: Float[Tensor, " pair"]
    energy: Float[Tensor, " pair"]
    relations: Float[Tensor, " pair"]
    chain: Float[Tensor, " pair"]
    entropy: Float[Tensor, " pair"]
    p: Float[Tensor, "pair node theirs"]


def analogy_loss(
    scores: Float[Tensor, "pair node theirs"],
    dustbin: Float[Tensor, " pair"],
    first: CircuitBatch,
    second: CircuitBatch,
    *,
    weights: AnalogyWeights,
    truth: Int[Tensor, "pair node"] | None = None,
    relations: tuple[Float[Tensor, "pair channel node node2"], Float[Tensor, "pair channel theirs theirs2"]]
    | None = None,
) -> AnalogyTerms:
    """What is wrong with the maps that these scores stand for.

    Args:
        scores: what each pair of nodes is worth; nodes of other kinds, and padding, never match.
        dustbin: what leaving a node unmatched is worth.
        truth: index of each node's counterpart, NONE, or UNKNOWN. Embeddings and unembedding do not count.
        relations: a number for each kind of relation and pair of nodes of a circuit, such as a distance.
    """
    may = compatible(first, second)
    log_p = log_sinkhorn(scores, may, dustbin, n_steps=weights.n_steps, temperature=weights.temperature)
    p = coupling(log_p, may)
    edges = Edges.of(first.edges, second.edges)
    whole = bound(edges, weights.tau)
    zero = whole.new_zeros(len(whole))
    matched, unmatched = (zero, zero) if truth is None else likelihoods(log_p, truth, first, second)
    missed = 1 - energy(edges, p, weights.tau) / whole.clamp_min(1e-8)
    related = zero if relations is None else gromov_wasserstein(*relations, p)
    chain = chains(edges, p, weights.tau) / whole.clamp_min(1e-8) if weights.chain > 0 else zero
    spread = entropy(log_p, first.mask)
    total = (
        weights.matched * matched
        + weights.unmatched * unmatched
        + weights.energy * missed
        + weights.relations * related
        - weights.chain * chain
        + weights.entropy * spread
    )
    return AnalogyTerms(
        total=total,
        matched=matched,
        unmatched=unmatched,
        energy=missed,
        relations=related,
        chain=chain,
        entropy=spread,
        p=p,
    )


def likelihoods(
    log_p: Float[Tensor, "pair row column"],
    truth: Int[Tensor, "pair node"],
    first: CircuitBatch,
    second: CircuitBatch,
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Mean negative log-likelihood of true pairs, and of nodes without counterpart: half from either side.

    Zero where there is none. Where some of a circuit is unknown, so is what has no counterpart on the side
    of the other.
    """
    n, m = truth.shape[1], log_p.shape[2] - 1
    inner = first.mask & ~is_anchor(first.kinds)
    pairs = -log_p[:, :n].gather(2, truth.clamp_min(0)[..., None]).squeeze(2)
    matched = _mean(pairs, inner & (truth >= 0))
    alone = _mean(-log_p[:, :n, m], inner & (truth == NONE))
    met = torch.zeros(len(truth), m + 1, dtype=torch.bool, device=truth.device)
    met.scatter_(1, torch.where(truth >= 0, truth, m), True)
    known = ~(inner & (truth == UNKNOWN)).any(1)
    theirs = second.mask & ~is_anchor(second.kinds) & ~met[:, :m] & known[:, None]
    return matched, (alone + _mean(-log_p[:, n, :m], theirs)) / 2


def gromov_wasserstein(
    first: Float[Tensor, "pair channel node node2"],
    second: Float[Tensor, "pair channel theirs theirs2"],
    p: Float[Tensor, "pair node theirs"],
) -> Float[Tensor, " pair"]:
    """Mean squared difference of the relations of matched pairs of nodes, Σ over relations."""
    row, column = p.sum(-1), p.sum(-2)
    cost = torch.einsum("pi,pcij,pj->p", row, first.pow(2), row)
    cost = cost + torch.einsum("pi,pcij,pj->p", column, second.pow(2), column)
    across = p[:, None]
    shared = (first * (across @ second @ across.mT)).sum((1, 2, 3))
    return (cost - 2 * shared) / row.sum(-1).clamp_min(_LEAST_MASS).pow(2)


def chains(edges: Edges, p: Float[Tensor, "pair node theirs"], tau: float) -> Float[Tensor, " pair"]:
    """Σ P [In]₊ [Out]₊: pairs that gain both by what they read and by what they write."""
    read, written = messages(edges, p, tau)
    return (p * read.clamp_min(0) * written.clamp_min(0)).sum((-2, -1))


def entropy(
    log_p: Float[Tensor, "pair row column"], mask: Bool[Tensor, "pair node"]
) -> Float[Tensor, " pair"]:
    """Entropy of where a node of the first circuit goes, in nats, its dustbin included; mean over nodes."""
    rows = log_p[:, :-1]
    # Pairs that may not match have a log of minus nearly infinity: their product with 0 is not a number.
    rows = rows.clamp_min(-80.0)
    return _mean(-(rows.exp() * rows).sum(-1), mask)


def cycle_loss(
    first_second: Float[Tensor, "*rest node theirs"],
    second_third: Float[Tensor, "*rest theirs column"],
    first_third: Float[Tensor, "*rest node column"],
) -> Float[Tensor, "*rest"]:
    """How far going by the second circuit is from going straight: ‖P_AB P_BC − P_AC‖² a confident node.

    A node counts by the mass that goes either way, whichever is more; the weight gets no gradient, for mass
    would then flee from disagreement into the dustbin.
    """
    around = first_second @ second_third
    sure = torch.maximum(around.sum(-1), first_third.sum(-1)).detach()
    each = (around - first_third).pow(2).sum(-1)
    return (sure * each).sum(-1) / sure.sum(-1).clamp_min(_LEAST_MASS)


def _mean(each: Float[Tensor, "pair node"], among: Bool[Tensor, "pair node"]) -> Float[Tensor, " pair"]:
    """Mean over some; zero where there are none."""
    return torch.where(among, each, torch.zeros_like(each)).sum(1) / among.sum(1).clamp_min(1)
