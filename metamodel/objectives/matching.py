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
from metamodel.networks.matching.matcher import Matcher
from metamodel.objectives.schedule import warmup_cosine


class MatchingObjective(lightning.LightningModule):
    """Trains a matcher on pairs of circuits with known truth."""

    def __init__(self, matcher: Matcher, config: MatchingConfig):
        super().__init__()
        self.save_hyperparameters({"config": plain(config)})
        self.matcher, self.config = matcher, config

    def training_step(self, batch: PairBatch, batch_idx: int) -> Float[Tensor, ""]:
        t = self.config.training
        found = self.matcher(batch.first, batch.second)
        log = found.log_augmented
        ours, theirs = batch.to_second, batch.to_first
        rows = log.shape[1] - 1
        columns = log.shape[2] - 1
        matched = ours >= 0
        at = ours.clamp_min(0)
        hit = -log[:, :rows].gather(2, at[..., None]).squeeze(-1)
        left = -log[:, :rows, columns]
        right = -log[:, rows, :columns]
        nll = (hit * matched).sum() / matched.sum().clamp_min(1)
        a, b = ours == -1, theirs == -1
        un = ((left * a).sum() / a.sum().clamp_min(1) + (right * b).sum() / b.sum().clamp_min(1)) / 2
        presence = F.binary_cross_entropy_with_logits(found.presence, batch.present.to(found.presence))
        total = nll + t.loss_unmatched * un + t.loss_presence * presence
        logged = {
            "matched/train": nll,
            "unmatched/train": un,
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
