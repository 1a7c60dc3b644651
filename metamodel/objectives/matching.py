"""Objective of the matcher: the planted map, what is left over, and whether a circuit is there at all."""

from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.pair_batch import PairBatch
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import plain
from metamodel.losses.analogy import AnalogyWeights, analogy_loss, cycle_loss
from metamodel.losses.relations import node_relations
from metamodel.networks.matching.matcher import Matcher, SoftMatch
from metamodel.objectives.schedule import warmup_cosine


class MatchingObjective(lightning.LightningModule):
    """Trains a matcher on pairs of circuits, with or without a known truth."""

    def __init__(self, matcher: Matcher, config: MatchingConfig):
        super().__init__()
        self.save_hyperparameters({"config": plain(config)})
        self.matcher, self.config = matcher, config
        t = config.training
        self.weights = AnalogyWeights(
            unmatched=t.loss_unmatched,
            energy=t.loss_energy,
            relations=t.loss_gw,
            chain=t.loss_chain,
            entropy=t.loss_entropy,
        )

    def training_step(self, batch: PairBatch, batch_idx: int) -> Float[Tensor, ""]:
        found = self.matcher(batch.first, batch.second)
        terms = analogy_loss(
            found.scores,
            found.dustbin,
            batch.first,
            batch.second,
            weights=self.weights,
            truth=batch.to_second,
            relations=self._relations(batch) if self.weights.relations > 0 else None,
        )
        cycle = self._cycle(batch, found)
        known = batch.presence_known.to(found.presence)
        presence = F.binary_cross_entropy_with_logits(
            found.presence, batch.present.to(found.presence), weight=known, reduction="sum"
        ) / known.sum().clamp_min(1)
        t = self.config.training
        total = terms.total.mean() + t.loss_presence * presence + t.loss_cycle * cycle
        logged = {
            "matched/train": terms.matched.mean(),
            "unmatched/train": terms.unmatched.mean(),
            "energy/train": terms.energy.mean(),
            "gw/train": terms.relations.mean(),
            "cycle/train": cycle,
            "presence/train": presence,
            "loss/train": total,
        }
        self.log_dict(logged, on_step=True, on_epoch=False, batch_size=len(batch))
        return total

    @torch.no_grad()
    def _relations(
        self, batch: PairBatch
    ) -> tuple[Float[Tensor, "pair channel node node2"], Float[Tensor, "pair channel theirs theirs2"]]:
        standardised = self.matcher.encoder.standardised
        return (
            node_relations(batch.first, standardised(batch.first)),
            node_relations(batch.second, standardised(batch.second)),
        )

    def _cycle(self, batch: PairBatch, found: SoftMatch) -> Float[Tensor, ""]:
        """How far maps by a third circuit are from straight ones, anchors left out; 0 without third ones."""
        if batch.third is None:
            return found.p.new_zeros(())
        n = len(batch.third)
        onward = self.matcher(batch.second.begin(n), batch.third)
        straight = self.matcher(batch.first.begin(n), batch.third)
        maps = [found.p[:n] * found.free[:n], onward.p * onward.free, straight.p * straight.free]
        return cycle_loss(*maps).mean()

    def configure_optimizers(self) -> Any:
        """AdamW; linear warmup, then cosine to zero."""
        o = self.config.optim
        optimizer = torch.optim.AdamW(self.matcher.parameters(), lr=o.lr, weight_decay=o.weight_decay)
        return warmup_cosine(optimizer, self.config.training.steps, o.warmup)
