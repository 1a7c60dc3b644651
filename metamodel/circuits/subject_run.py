"""Runs of folded subjects in which edges can be patched: suffixes only, many patches at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metamodel.circuits.base_run import BaseRun, Intervention, base_run
from metamodel.circuits.cost import masked_forwards, sweep_forwards
from metamodel.circuits.edge_run import Both, EdgeRun
from metamodel.circuits.gradients import first_order_effects, mean_gradients
from metamodel.circuits.graph import Destination, stage_of
from metamodel.circuits.masked import masked_logits
from metamodel.circuits.metrics import Measure
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.stream import Stream, stream_at
from metamodel.circuits.sweep import edge_effects, source_effects
from metamodel.subjects.config import Component
from metamodel.subjects.forward import run_blocks
from metamodel.subjects.sites import Replacement, Sites
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectRun(EdgeRun):
    """A run of a folded subject."""

    base: BaseRun
    given: Subject
    """The subject as it was given, before it was folded."""

    @classmethod
    def of(
        cls, given: Subject, prompts: Prompts, intervention: Intervention, *, freeze_norm: bool
    ) -> "SubjectRun":
        base = base_run(given, prompts, intervention, freeze_norm=freeze_norm)
        return cls(
            base=base,
            given=given,
            config=base.config,
            prompts=prompts,
            intervention=intervention,
            outputs=base.outputs,
            delta=base.delta,
            logits=base.logits,
            clean_logits=base.clean_logits,
            n_runs=base.n_runs,
        )

    def edge_effects(self, measures: Sequence[Measure]) -> Tensor:
        return edge_effects(self.base, measures)

    def sweep_forwards(self) -> float:
        return sweep_forwards(self.base)

    def first_order_effects(self, measure: Measure, at: Tensor, moved: Sequence[int] = ()) -> Tensor:
        return first_order_effects(self.base, mean_gradients(self.base, measure, at, moved), self.delta)

    def masked_logits(self, kept: Tensor, *, stage: int = 0) -> Tensor:
        return masked_logits(self.base, kept, stage=stage)

    def masked_forwards(self, n_masks: int, stage: int = 0) -> float:
        return masked_forwards(self.base, n_masks, stage)

    def source_effects(self, measures: Sequence[Measure], delta: Tensor, stage: Tensor) -> Tensor:
        return source_effects(self.base, measures, delta, stage)

    def node_effects(self, measure: Measure, components: Sequence[Component], delta: Tensor) -> Tensor:
        return self._stream(measure).effects(stage_of(components[0]), delta)

    def received_logits(self, delta: Tensor, receivers: Sequence[Destination], stage: int) -> Tensor:
        """Runs from the first block of the receivers on."""
        run, c = self.base, self.config
        addends: dict[str, Tensor] = {}
        layers = [r.component.layer for r in receivers if r.channel != "logits"]
        for receiver in receivers:
            if receiver.channel in ("q", "k", "v"):
                blank = delta.new_zeros(1, *delta.shape[:2], c.n_heads, c.d_model)
                addend = addends.setdefault(receiver.site, blank)
                addend[0, :, :, receiver.component.head] = delta
            else:
                addends[receiver.site] = delta.unsqueeze(0)
        first, last = min(layers, default=c.n_layers), c.n_layers - 1
        name = f"blocks.{first}.hook_resid_pre" if layers else f"blocks.{last}.hook_resid_post"
        resid = run.taps[name].unsqueeze(0)
        made = run_blocks(run.subject.stacked, c, resid, first_layer=first, addends=addends)
        return run.suffix.at_answer(made.logits[0])

    def stream(self, stage: int) -> Tensor:
        return stream_at(self.base, stage)

    def _stream(self, measure: Measure) -> Stream:
        return Stream(run=self.base, measure=measure, reference=measure(self.logits))

    def activations(self, layer: int) -> Both:
        return self._tapped(self.base.subject, f"blocks.{layer}.mlp.hook_post")

    def written(self, component: Component) -> Both:
        block = f"blocks.{component.layer}"
        match component.kind:
            case "head":
                here, there = self._tapped(self.given, f"{block}.attn.hook_result")
                return here[..., component.head, :], there[..., component.head, :]
            case "mlp":
                return self._tapped(self.given, f"{block}.hook_mlp_out")
            case "token_embedding":
                return self._tapped(self.given, "hook_embed")
        return self._tapped(self.given, "hook_pos_embed")

    def _tapped(self, subject: Subject, site: str) -> Both:
        two, n = self.intervention in ("noising", "denoising"), len(self.prompts)
        other = self.prompts.corrupt if self.intervention == "noising" else self.prompts.clean
        tokens = torch.cat([self.base.tokens, other]) if two else self.base.tokens
        value = subject.run(tokens, taps=[site]).taps[site][0]
        return value[:n], value[n:] if two else value

    def neuron_logits(self, patched: Mapping[int, tuple[Tensor, Tensor]]) -> Tensor:
        """Runs from the first of the blocks on."""
        first, n_sets = min(patched), len(next(iter(patched.values()))[0])

        def put(mask: Tensor, patch: Tensor) -> Replacement:
            def replaced(value: Tensor) -> Tensor:
                sets = value[0].unflatten(0, (n_sets, -1))
                return torch.where(mask[:, None, None], patch, sets).flatten(0, 1).unsqueeze(0)

            return replaced

        sites = {f"blocks.{layer}.mlp.hook_post": put(*chosen) for layer, chosen in patched.items()}
        run = self.base
        resid = run.taps[f"blocks.{first}.hook_resid_pre"].repeat(n_sets, 1, 1)[None]
        made = run_blocks(run.subject.stacked, self.config, resid, first_layer=first, site=Sites((), sites))
        return run.suffix.at_answer(made.logits[0].unflatten(0, (n_sets, len(self.prompts))))

    def neurons(self, layer: int) -> tuple[Tensor, Tensor]:
        weights = self.base.subject.weights
        return weights[f"blocks.{layer}.mlp.W_out"], weights[f"blocks.{layer}.mlp.b_out"]
