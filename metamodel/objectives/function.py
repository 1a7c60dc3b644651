"""Objective of the function reader: what every component does, its circuit, the subject's answers."""

import math
from typing import Any, cast

import lightning.pytorch as lightning
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metamodel.config.function import FunctionConfig
from metamodel.config.parser import plain
from metamodel.losses.function import (
    FunctionBatch,
    algorithm_loss,
    answer_loss,
    edge_mass_loss,
    masked_cross_entropy,
    masked_regression,
)
from metamodel.networks.member import Member
from metamodel.networks.normaliser import soft_limited
from metamodel.networks.reader import Reader
from metamodel.networks.readouts import Answers
from metamodel.objectives.exemplars import exemplar_loss
from metamodel.objectives.schedule import warmup_cosine
from metamodel.subjects.config import KINDS

HEAD = KINDS.index("head")


class FunctionObjective(lightning.LightningModule):
    """Trains every member of the ensemble on the same losses, and averages weights over steps."""

    label_weight: Float[Tensor, " label"]
    circuit_weight: Float[Tensor, " 2"]

    def __init__(
        self,
        reader: Reader,
        config: FunctionConfig,
        *,
        label_weight: Float[Tensor, " label"],
        circuit_weight: Float[Tensor, " 2"],
    ):
        """Args:
        label_weight: weight of each label's positives.
        circuit_weight: the same for member nodes and member edges.
        """
        super().__init__()
        self.save_hyperparameters({"config": plain(config)})
        self.config = config
        self.reader = reader
        self.average: AveragedModel | None = None
        if config.optim.ema > 0:
            self.average = AveragedModel(reader, multi_avg_fn=get_ema_multi_avg_fn(config.optim.ema))
        self.register_buffer("label_weight", label_weight)
        self.register_buffer("circuit_weight", circuit_weight)

    @property
    def best(self) -> Reader:
        """The reader that is evaluated and saved."""
        averaged = self.reader if self.average is None else self.average.module
        assert isinstance(averaged, Reader)
        return averaged

    def losses(self, member: Member, answers: Answers, batch: FunctionBatch) -> dict[str, Float[Tensor, ""]]:
        """Each question's loss, for one member."""
        truth = batch.truth
        node_weight, edge_weight = self.circuit_weight
        z = (truth.score - self.reader.score_centre) / self.reader.score_scale
        circuit = masked_cross_entropy(answers.node_member, truth.node_member, node_weight)
        circuit = circuit + masked_cross_entropy(answers.edge_member, truth.edge_member, edge_weight)
        behavior = masked_cross_entropy(answers.slice_logits, truth.slice_accuracy)
        behavior = behavior + answer_loss(answers.answer_logits, truth.probe_answer)
        known = torch.where(truth.positive.isnan(), torch.full_like(z, math.nan), z.clamp(-4, 4))
        weighed = self.config.training.loss_circuit_mass > 0
        return {
            "function": masked_cross_entropy(answers.function_logits, truth.positive, self.label_weight),
            "score": masked_regression(answers.function_score, known),
            "circuit": circuit,
            "circuit_mass": edge_mass_loss(answers.edge_member, truth.edge_mass)
            if weighed
            else z.new_zeros(()),
            "behavior": behavior,
            "algorithm": algorithm_loss(answers.algorithm_logits, truth.algorithm),
            "exemplars": exemplar_loss(
                member.exemplars,
                answers.places,
                truth.positive,
                soft_limited(self.reader.normaliser.deviations(batch.seen)),
                batch.seen.kinds.eq(HEAD) & batch.seen.node_mask,
            ),
        }

    def _total(self, reader: Reader, batch: FunctionBatch, split: str) -> Float[Tensor, ""]:
        each = zip(reader.members, reader(batch.seen), strict=True)
        members = [self.losses(cast(Member, member), answers, batch) for member, answers in each]
        means = {name: torch.stack([member[name] for member in members]).mean() for name in members[0]}
        t = self.config.training
        weights = {
            "function": t.loss_function,
            "score": t.loss_score,
            "circuit": t.loss_circuit,
            "circuit_mass": t.loss_circuit_mass,
            "behavior": t.loss_behavior,
            "algorithm": t.loss_algorithm,
            "exemplars": t.loss_exemplars,
        }
        total = torch.stack([weights[name] * value for name, value in means.items()]).sum()
        logged = {f"{name}/{split}": value for name, value in means.items()} | {f"loss/{split}": total}
        self.log_dict(
            logged, on_step=False, on_epoch=True, batch_size=batch.seen.nodes.shape[0], prog_bar=False
        )
        return total

    def training_step(self, batch: FunctionBatch, batch_idx: int) -> Float[Tensor, ""]:
        n_probes = batch.seen.evidence.shape[1]
        chosen = torch.randperm(n_probes)[: self.config.training.probes].to(batch.seen.nodes.device)
        return self._total(self.reader, batch.with_probes(chosen), "train")

    def validation_step(self, batch: FunctionBatch, batch_idx: int) -> None:
        self._total(self.best.eval(), batch, "validation")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update_parameters(self.reader)

    def configure_optimizers(self) -> Any:
        """AdamW without decay of vectors; linear warmup, then cosine to zero."""
        o = self.config.optim
        matrices = [p for p in self.reader.parameters() if p.ndim > 1]
        vectors = [p for p in self.reader.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": o.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=o.lr)
        n_steps = max(1, int(self.trainer.estimated_stepping_batches))
        return warmup_cosine(optimizer, n_steps, o.warmup)
