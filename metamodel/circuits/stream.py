"""What a change of the residual stream at one stage does to the answer: the end of every node's patch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.base_run import BaseRun
from metamodel.circuits.metrics import Measure, Metric

_CHUNK = 1_000_000
"""Numbers in the widest array of one chunk of patches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """The residual stream of a run, and how a metric answers when it is changed.

    Stages are 0 before the first block, 2l + 1 behind the attention of block l, 2l + 2 behind its MLP. All
    that reads the stream from there on sees the change, and nothing before runs.
    """

    run: BaseRun
    measure: Measure
    reference: Float[Tensor, " batch"]
    """Metric of the run itself."""

    @classmethod
    def of(cls, run: BaseRun, metric: Metric) -> "Stream":
        """Raises: InputError for a metric that these prompts do not allow."""
        measure = run.measure(metric)
        return cls(run=run, measure=measure, reference=measure(run.logits))

    def at(self, stage: int) -> Float[Tensor, "batch pos d_model"]:
        """The stream itself."""
        return stream_at(self.run, stage)

    def answers_only(self, stage: int) -> bool:
        """Whether only the stream at answer positions matters from there on."""
        return stage > 0 and self.run.suffix.is_last((stage - 1) // 2)

    def chunk(self) -> int:
        """How many patches run at once."""
        c, (_, n_prompts, n_pos, _) = self.run.config, self.run.outputs.shape
        widest = max(c.d_model, c.d_mlp, c.n_heads * c.d_head, c.n_heads * n_pos)
        return max(1, _CHUNK // (n_prompts * max(n_pos * widest, c.d_vocab)))

    def effects(
        self, stage: int, delta: Float[Tensor, "patch *places d_model"]
    ) -> Float[Tensor, "patch batch"]:
        """metric(changed) - metric(run), prompt by prompt; exactly zero where nothing changes.

        Args:
            delta: `[patch, batch, pos, d_model]`; where `answers_only`, also `[patch, batch, d_model]`.
        """
        suffix, layer, base = self.run.suffix, (stage - 1) // 2, self.at(stage)
        at_answer = self.answers_only(stage)
        if at_answer:
            base = suffix.at_answer(base)
            delta = suffix.at_answer(delta) if delta.ndim == 4 else delta
        active = delta.flatten(1).any(1).nonzero().squeeze(1)
        made = delta.new_zeros(len(delta), len(self.reference))
        for part in active.split(self.chunk()):
            resid = base + delta[part]
            if stage % 2 and suffix.config.has_mlp:
                resid = resid + suffix.mlp(layer, resid, at_answer=at_answer)
            logits = suffix.unembed(resid) if at_answer else suffix.logits_after(layer, resid)
            made[part] = self.measure(logits) - self.reference
        return made

    def base(self) -> float:
        """Mean metric of the run itself."""
        return float(self.reference.mean())

    def read_by_mlp(self, layer: int, delta: Float[Tensor, "patch batch pos d_model"]) -> Tensor:
        """By what an MLP's output changes when it alone sees the change, for `effects` behind it."""
        suffix, mid = self.run.suffix, self.at(2 * layer + 1)
        if at_answer := self.answers_only(2 * layer + 1):
            mid, delta = suffix.at_answer(mid), suffix.at_answer(delta)
        unchanged = suffix.mlp(layer, mid, at_answer=at_answer)
        parts = [suffix.mlp(layer, mid + part, at_answer=at_answer) for part in delta.split(self.chunk())]
        return torch.cat(parts) - unchanged


def stream_at(run: BaseRun, stage: int) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream of a run at a stage of `Stream`."""
    if stage == 0:
        return run.taps["blocks.0.hook_resid_pre"]
    layer, behind_mlp = divmod(stage - 1, 2)
    return run.taps[f"blocks.{layer}.hook_resid_{'post' if behind_mlp else 'mid'}"]
