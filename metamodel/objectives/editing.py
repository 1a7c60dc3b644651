"""Objective of the editor: what it proposes must hold when the edited subject is run."""

from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metamodel.config.editing import EditingConfig
from metamodel.config.parser import plain
from metamodel.losses.editing import (
    NO_ANSWER,
    EditingBatch,
    edit_loss,
    keep_loss,
    norm_loss,
    scope_loss,
    size_loss,
    success,
    wanted_loss,
)
from metamodel.losses.kept_circuit import kept_circuit_loss, kept_prompts
from metamodel.networks.editing.editor import Editor
from metamodel.objectives.schedule import warmup_cosine
from metamodel.subjects.forward import logits_at


class EditingObjective(lightning.LightningModule):
    """Trains an editor on batches of edits with known truth."""

    def __init__(self, editor: Editor, config: EditingConfig):
        super().__init__()
        self.save_hyperparameters({"config": plain(config)})
        self.editor, self.config = editor, config
        editor.of_steps(config.editor.training_steps)

    def training_step(self, batch: EditingBatch, batch_idx: int) -> Float[Tensor, ""]:
        told, t = batch.told, self.config.training
        edited = self.editor(told)
        weights = {
            key: value + edited.changes[key] if key in edited.changes else value
            for key, value in told.weights.items()
        }
        n, n_pos = batch.tokens.shape[1:]
        rows = (torch.arange(n, device=batch.tokens.device) * n_pos + n_pos - 1).expand(len(batch.tokens), -1)
        after = logits_at(weights, told.config, batch.tokens, rows).log_softmax(-1)
        with torch.no_grad():
            before = logits_at(told.weights, told.config, batch.tokens, rows).log_softmax(-1)
        # of edits that no few pairs tell, only the forecast can be learnt
        feasible = batch.feasible.to(after.dtype)
        found = {
            "edit": (edit_loss(after, told, batch.wanted, batch.scope) * feasible).mean(),
            "keep": keep_loss(after, before, batch.scope).mean(),
            "scope": scope_loss(edited.targets.gate, told.role, batch.example_scope).mean(),
            "wanted": (
                wanted_loss(edited.targets.wanted, told, batch.example_wanted, batch.example_scope) * feasible
            ).mean(),
            "map": self._map_loss(batch),
            "size": size_loss(edited.changes, told).mean(),
            "norm": norm_loss(edited.changes, told).mean(),
        }
        found["circuit"] = found["keep"].new_zeros(())
        if t.loss_circuit > 0 and batch_idx % t.circuit_every == 0:
            prompts, able = kept_prompts(batch.tokens, before, batch.scope, t.circuit_prompts)
            moved = kept_circuit_loss(told.weights, weights, told.config, prompts)
            found["circuit"] = t.circuit_every * (moved * able).mean()
        good = success(after, before, batch.wanted, batch.scope, told.answer_mask.sum(1))
        found["forecast"] = F.binary_cross_entropy_with_logits(edited.forecast, good.to(after.dtype))
        weight = {
            "edit": t.loss_edit,
            "keep": t.loss_keep,
            "scope": t.loss_scope,
            "wanted": t.loss_wanted,
            "map": t.loss_map,
            "forecast": t.loss_forecast,
            "size": t.loss_size,
            "circuit": t.loss_circuit,
            "norm": t.loss_norm,
        }
        total = torch.stack([weight[name] * value for name, value in found.items()]).sum()
        logged = {f"{name}/train": value for name, value in found.items()} | {"loss/train": total}
        self.log_dict(logged, on_step=True, on_epoch=False, batch_size=len(batch.tokens))
        return total

    def _map_loss(self, batch: EditingBatch) -> Float[Tensor, ""]:
        if batch.maps is None:
            return batch.told.weights["unembed.W_U"].new_zeros(())
        maps = batch.maps
        known = torch.ones(maps.seen.shape[:2], dtype=torch.bool, device=maps.seen.device)
        logits = self.editor.read.map(maps.grams, maps.seen, known)
        return F.cross_entropy(logits.flatten(0, 1), maps.target.flatten(), ignore_index=NO_ANSWER)

    def configure_optimizers(self) -> Any:
        """AdamW; linear warmup, then cosine to zero."""
        o, n_steps = self.config.optim, self.config.training.steps
        optimizer = torch.optim.AdamW(self.editor.parameters(), lr=o.lr, weight_decay=o.weight_decay)
        return warmup_cosine(optimizer, n_steps, o.warmup)
