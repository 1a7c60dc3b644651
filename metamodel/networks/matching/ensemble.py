"""Several matchers that differ in their seed alone, and answer as one: what they say is averaged.

One network in place of another of other initial weights moves the F1 of sizes and tasks that were not
trained on by several hundredths, more than most ingredients do; a mean of some is steadier (Lakshminarayanan,
Pritzel & Blundell 2017).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.analogy.graph import CircuitBatch
from metamodel.networks.matching.matcher import Matcher, SoftMatch


class MatcherEnsemble(nn.Module):
    """The mean of what its members say: of couplings, of worths and of logits of presence."""

    def __init__(self, members: Sequence[Matcher]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, first: CircuitBatch, second: CircuitBatch) -> SoftMatch:
        """Rows and columns of a mean of couplings still sum to 1 at most."""
        found: list[SoftMatch] = [member(first, second) for member in self.members]
        return SoftMatch(
            scores=torch.stack([one.scores for one in found]).mean(0),
            dustbin=torch.stack([one.dustbin for one in found]).mean(0),
            p=torch.stack([one.p for one in found]).mean(0),
            free=found[0].free,
            presence=torch.stack([one.presence for one in found]).mean(0),
        )

    def similarity(
        self,
        first: CircuitBatch,
        second: CircuitBatch,
        allowed: Bool[Tensor, "pair node theirs"],
    ) -> tuple[Float[Tensor, "pair node theirs"], Float[Tensor, "pair node theirs"]]:
        """Means of what members say, as `Matcher.similarity` does."""
        members = [member for member in self.members if isinstance(member, Matcher)]
        both = [member.similarity(first, second, allowed) for member in members]
        similarity, start = (torch.stack(one).mean(0) for one in zip(*both, strict=True))
        return similarity, start
