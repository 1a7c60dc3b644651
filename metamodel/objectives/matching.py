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
from metamodel.losses.analogy import AnalogyWeights, analogy_loss
from metamodel.networks.matching.matcher import Matcher
from metamodel.objectives.schedule import warmup_cosine


class MatchingObjective(lightning.LightningModule):
    """Trains a matcher on pairs of circuits, with or without a known truth."""

    def __init__(self, matcher: Matcher, config: MatchingConfig):
        super().__init__()
        self.save_hyperparameters({"config": plain(config)})
        self.matcher, self.config = matcher, config
        t = config.training
        self.weights = AnalogyWeights(
            unmatched=t.loss_unmatched, energy=t.loss_energy, chain=t.loss_chain, entropy=t.loss_entropy
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
        )
        known = batch.presence_known.to(found.presence)
        presence = F.binary_cross_entropy_with_logits(
            found.presence, batch.present.to(found.presence), weight=known, reduction="sum"
        ) / known.sum().clamp_min(1)
        total = terms.total.mean() + self.config.training.loss_presence * presence
        logged = {
            "matched/train": terms.matched.mean(),
            "unmatched/train": terms.unmatched.mean(),
            "energy/train": terms.energy.mean(),
            "presence/train": presence,
            "loss/train": total,
        }
        self.log_dict(logged, on_step=True, on_epoch=False, batch_size=len(batch))
        return total

    def configure_optimizers(self) -> Any:
        """AdamW; linear warmup, then cosine to zero."""
        o = self.config.optim
        optimizer = torch.optim.AdamW(self.matcher.parameters(), lr=o.lr, weight_decay=o.weight_decay)
        return warmup_cosine(optimizer, self.config.training.steps, o.warmup)
