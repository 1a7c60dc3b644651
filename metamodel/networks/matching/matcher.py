"""The learned matcher: similarities of nodes from an encoder, then unrolled steps on the edge-gain energy.

With `learned_off()` it *is* the unrolled solver without learning (`analogy/unrolled.py`), so learning starts
at a method that works and can only be blamed for what it adds.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.analogy.energy import Edges, bound, energy
from metamodel.analogy.graph import CHANNELS, CircuitBatch, compatible, is_anchor, normalised
from metamodel.analogy.sinkhorn import coupling, log_sinkhorn
from metamodel.analogy.unrolled import START_RATE, START_TAU, ascend
from metamodel.networks.matching.alike import Alike
from metamodel.networks.matching.encoder import CircuitEncoder

START_POWER = 0.5
"""Power of edges before learning: sizes span several orders of magnitude, and weak edges tell, too."""
_LEAST = 1e-6
PRESENCE_TAUS = (0.0, 0.3, 0.5, 0.7)
"""Thresholds at which the presence of a circuit is judged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SoftMatch:
    """What the matcher says of a batch of pairs of circuits."""

    scores: Float[Tensor, "pair node theirs"]
    """What each pair is worth."""
    dustbin: Float[Tensor, " pair"]
    """What leaving a node unmatched is worth."""
    p: Float[Tensor, "pair node theirs"]
    """The coupling that these make, dustbins left out: substochastic."""
    free: Bool[Tensor, "pair node theirs"]
    """Pairs that might match: of one kind, and no anchors."""
    presence: Float[Tensor, " pair"]
    """Logit that one circuit has a counterpart in the other at all."""


class Matcher(nn.Module):
    """Partial soft maps between circuits of any two sizes."""

    def __init__(
        self,
        *,
        n_features: int,
        width: int = 64,
        n_layers: int = 3,
        n_heads: int = 4,
        edge_width: int = 16,
        n_steps: int = 6,
        dropout: float = 0.0,
        feature_dropout: float = 0.0,
        column_dropout: float = 0.0,
        cross_attention: bool = True,
        depth: bool = True,
        centred_by_circuit: bool = False,
        blind_share: float = 0.0,
    ):
        super().__init__()
        self.encoder = CircuitEncoder(
            n_features=n_features,
            width=width,
            n_layers=n_layers,
            n_heads=n_heads,
            edge_width=edge_width,
            dropout=dropout,
            feature_dropout=feature_dropout,
            column_dropout=column_dropout,
            cross_attention=cross_attention,
            centred_by_circuit=centred_by_circuit,
        )
        self.sees_depth, self.blind_share = depth, blind_share
        self.to_similarity = nn.Linear(width, width, bias=False)
        self.matchable = nn.Linear(width, 1)
        self.gain = nn.Parameter(torch.tensor(0.0))
        self.alike = Alike(n_features)
        self.power = nn.Parameter(torch.tensor(START_POWER).log())
        self.rate = nn.Parameter(torch.full((n_steps,), START_RATE).log())
        self.tau = nn.Parameter(torch.full((n_steps,), START_TAU).logit())
        self.channel = nn.Parameter(torch.zeros(len(CHANNELS)))
        self.dustbin = nn.Parameter(torch.zeros(()))
        self.correction = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 1))
        self.presence = nn.Sequential(nn.Linear(len(PRESENCE_TAUS) + 4, 32), nn.GELU(), nn.Linear(32, 1))
        last = self.correction[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def learned_off(self) -> None:
        """Sets everything learned to nothing: what is left is the unrolled solver."""
        with torch.no_grad():
            self.to_similarity.weight.zero_()
            self.matchable.weight.zero_()
            self.matchable.bias.zero_()
            self.rate.fill_(START_RATE).log_()
            self.tau.fill_(START_TAU).logit_()
            self.channel.zero_()
            self.dustbin.zero_()
            self.power.fill_(START_POWER).log_()
            for last in (self.correction[-1], self.alike.mix[-1]):
                for parameter in last.parameters():
                    parameter.zero_()

    def forward(self, first: CircuitBatch, second: CircuitBatch) -> SoftMatch:
        """In evaluation, with a `blind_share`, the mean of what is said with features and without."""
        found = self._once(first, second)
        if self.training or not self.blind_share:
            return found
        blind, share = self._once(first, second, blind=True), self.blind_share
        return replace(
            found,
            p=(1 - share) * found.p + share * blind.p,
            presence=(1 - share) * found.presence + share * blind.presence,
        )

    def _once(self, first: CircuitBatch, second: CircuitBatch, *, blind: bool = False) -> SoftMatch:
        allowed = compatible(first, second)
        fixed = allowed & is_anchor(first.kinds)[:, :, None]
        similarity, start = self.similarity(first, second, allowed, blind=blind)
        edges = Edges.of(self._bent(first.edges), self._bent(second.edges))

        def corrected(z: Tensor, p: Tensor, read: Tensor, written: Tensor) -> Tensor:
            told = torch.stack([z / 8, p, 4 * read, 4 * written, start / 8, similarity / 8], -1)
            return self.correction(told).squeeze(-1)

        dustbin = self.dustbin.expand(len(start))
        scores = ascend(
            edges,
            allowed,
            fixed,
            rates=self.rate.exp(),
            taus=self.tau.sigmoid(),
            dustbin=dustbin,
            start=start,
            corrected=corrected,
        )
        p = coupling(log_sinkhorn(scores, allowed, dustbin), allowed)
        free = allowed & ~fixed
        return SoftMatch(
            scores=scores,
            dustbin=dustbin,
            p=p,
            free=free,
            presence=self._presence(Edges.of(first.edges, second.edges), p, free, similarity),
        )

    def similarity(
        self,
        first: CircuitBatch,
        second: CircuitBatch,
        allowed: Bool[Tensor, "pair node theirs"],
        *,
        blind: bool = False,
    ) -> tuple[Float[Tensor, "pair node theirs"], Float[Tensor, "pair node theirs"]]:
        """Scaled products of what both embeddings are projected to, and what pairs are worth at first."""
        if not self.sees_depth:
            first, second = (replace(one, depth=torch.zeros_like(one.depth)) for one in (first, second))
        seen = self.encoder(first, second, blind=blind)
        u, v = self.to_similarity(seen.first), self.to_similarity(seen.second)
        similarity = torch.einsum("pnd,pmd->pnm", u, v) * self.gain.exp() / u.shape[-1] ** 0.5
        start = similarity + self.alike(first, second, seen.features, similarity, allowed)
        leave = self.matchable(seen.first), self.matchable(seen.second).mT
        return similarity, start + leave[0] + leave[1]

    def _bent(
        self, edges: Float[Tensor, "pair channel node node2"]
    ) -> Float[Tensor, "pair channel node node2"]:
        """Edges to a power, times what each channel counts; their norm stays 1."""
        bent = torch.where(edges > 0, edges.clamp_min(_LEAST) ** self.power.exp(), 0.0)
        return normalised(bent * self.channel.exp()[:, None, None])

    def _presence(
        self,
        edges: Edges,
        p: Float[Tensor, "pair node theirs"],
        free: Bool[Tensor, "pair node theirs"],
        similarity: Float[Tensor, "pair node theirs"],
    ) -> Float[Tensor, " pair"]:
        """From what is matched of edges, of nodes, and how alike these are. Gradients stay out of the map."""
        p, similarity = p.detach(), similarity.detach()
        kept = [energy(edges, p, tau) / bound(edges, tau).clamp_min(1e-6) for tau in PRESENCE_TAUS]
        matched = p * free
        there = [free.any(2).sum(1).clamp_min(1), free.any(1).sum(1).clamp_min(1)]
        total = matched.sum((1, 2))
        alike = (matched * similarity).sum((1, 2)) / total.clamp_min(1e-6)
        sharp = (matched * matched).sum((1, 2)) / total.clamp_min(1e-6)
        told = torch.stack([*kept, total / there[0], total / there[1], alike / 8, sharp], -1)
        return self.presence(told).squeeze(-1)
