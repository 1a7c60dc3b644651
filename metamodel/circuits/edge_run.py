"""Runs in which edges can be patched: what circuit methods ask of a network, whatever it is made of.

A network is a subject, or a bridge of another architecture that is run through hooks. Methods are written
once against `EdgeRun`; a subject answers by its folded weights and runs suffixes only
(`metamodel.circuits.sweep`, `masked`, `gradients`), a bridge runs whole (`metamodel.circuits.bridge_run`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.circuits.base_run import BaseRun, Intervention, base_run
from metamodel.circuits.cost import masked_forwards, sweep_forwards
from metamodel.circuits.gradients import first_order_effects, mean_gradients
from metamodel.circuits.graph import ComponentEdges, Destination, component_edges, stage_of
from metamodel.circuits.masked import masked_logits
from metamodel.circuits.metrics import Measure, Metric
from metamodel.circuits.prompts import Prompts, check_answers_differ, check_fit, check_padding
from metamodel.circuits.stream import Stream
from metamodel.circuits.sweep import edge_effects, source_effects
from metamodel.config.errors import InputError
from metamodel.subjects.config import Component, SubjectConfig
from metamodel.subjects.forward import run_blocks
from metamodel.subjects.subject import Subject

Both = tuple[Tensor, Tensor]
"""Of this run, and of the prompts that patches come from; under zero and mean ablation the same twice."""


@runtime_checkable
class Network(Protocol):
    """What circuits are found in: a `Subject`, or an `interchange.hooked` bridge."""

    @property
    def config(self) -> SubjectConfig: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeRun(ABC):
    """A run of a network, and what patching edges does to it."""

    config: SubjectConfig
    """Sizes, from which the graph follows."""
    prompts: Prompts
    intervention: Intervention
    outputs: Float[Tensor, "source batch pos d_model"]
    """What each source writes in this run."""
    delta: Float[Tensor, "source batch pos d_model"]
    """What patching changes of what each source writes."""
    logits: Float[Tensor, "ask d_vocab"]
    """Of this run, where answers are asked."""
    clean_logits: Float[Tensor, "ask d_vocab"]
    n_runs: int
    """Forwards that the run itself cost."""

    @property
    def edges(self) -> ComponentEdges:
        return component_edges(self.config)

    @property
    def active(self) -> Bool[Tensor, " source"]:
        """Sources that write something else when patched: edges of the others have no effect."""
        return self.delta.flatten(1).any(1)

    def measure(self, metric: Metric) -> Measure:
        """Raises: InputError for an unknown metric, or one that these prompts do not allow."""
        return Measure.of(metric, self.prompts, self.clean_logits)

    @abstractmethod
    def edge_effects(self, measures: Sequence[Measure]) -> Float[Tensor, "metric edge batch"]:
        """metric(patched) - metric(run) of each edge patched alone."""

    @abstractmethod
    def sweep_forwards(self) -> float:
        """Cost of `edge_effects` in forwards, the run itself included."""

    @abstractmethod
    def first_order_effects(
        self, measure: Measure, at: Float[Tensor, " point"], moved: Sequence[int] = ()
    ) -> Float[Tensor, "edge batch"]:
        """Change of each source times gradient in what each destination reads, averaged over a path.

        Args:
            at: how far, 0 for the run itself and 1 for the end.
            moved: indices of sources; each writes its output plus `at` times the change.
        """

    @abstractmethod
    def masked_logits(
        self, kept: Bool[Tensor, "mask edge"], *, stage: int = 0
    ) -> Float[Tensor, "mask ask d_vocab"]:
        """Logits where answers are asked, one run for each set of kept edges; all others are patched.

        Args:
            stage: all edges into earlier destinations are kept (`masked.reading_stage`).
        """

    @abstractmethod
    def masked_forwards(self, n_masks: int, stage: int = 0) -> float:
        """Cost of `masked_logits` in forwards."""

    @abstractmethod
    def source_effects(
        self,
        measures: Sequence[Measure],
        delta: Float[Tensor, "source batch pos d_model"],
        stage: Int[Tensor, " source"],
    ) -> Float[Tensor, "metric edge batch"]:
        """As `edge_effects`, of any changes of what is written; see `sweep.source_effects`."""

    @abstractmethod
    def node_effects(
        self,
        measure: Measure,
        components: Sequence[Component],
        delta: Float[Tensor, "patch batch pos d_model"],
    ) -> Float[Tensor, "patch batch"]:
        """metric(changed) - metric(run) where what a component writes changes for all its readers.

        Args:
            components: one a patch, all computed at one stage.
        """

    @abstractmethod
    def received_logits(
        self, delta: Float[Tensor, "batch pos d_model"], receivers: Sequence[Destination], stage: int
    ) -> Float[Tensor, "ask d_vocab"]:
        """Logits where some destinations alone see a change of what was written at a stage."""

    @abstractmethod
    def stream(self, stage: int) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream: 0 before the first block, 2l + 1 behind attention l, 2l + 2 behind its MLP."""

    @abstractmethod
    def activations(self, layer: int) -> Both:
        """Of the neurons of an MLP, `[batch, pos, d_mlp]`."""

    @abstractmethod
    def written(self, component: Component) -> Both:
        """What a component writes by the weights as given, `[batch, pos, d_model]`: for encoders."""

    @abstractmethod
    def neurons(self, layer: int) -> tuple[Float[Tensor, "d_mlp d_model"], Float[Tensor, " d_model"]]:
        """What each neuron of an MLP writes for each unit of activation, and the MLP's bias."""


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
        return self._stream(self.measure("margin")).at(stage)

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

    def neurons(self, layer: int) -> tuple[Tensor, Tensor]:
        weights = self.base.subject.weights
        return weights[f"blocks.{layer}.mlp.W_out"], weights[f"blocks.{layer}.mlp.b_out"]


def network_of(given: Network | nn.Module) -> Network:
    """The network that a user names: a bridge becomes a subject where it can, and is run by hooks elsewhere.

    Raises: InputError for a module that is no bridge, or a bridge that neither way can express.
    """
    if isinstance(given, Subject):
        return given
    from metamodel.subjects.interchange.hooked import HookedBridge, hooked
    from metamodel.subjects.interchange.native import from_bridge, is_native

    if isinstance(given, HookedBridge):
        return given
    assert isinstance(given, nn.Module)
    try:
        return from_bridge(given)
    except InputError:
        if is_native(given):
            raise
    return hooked(given)


def edge_run(
    network: Network, prompts: Prompts, intervention: Intervention, *, freeze_norm: bool = False
) -> EdgeRun:
    """A run in which the network's edges can be patched.

    Args:
        freeze_norm: every LayerNorm of a patched run divides by what it divides by in this run.

    Raises: InputError if the prompts do not fit the network, clean and corrupt answers agree, or the
    network is post-norm.
    """
    check_fit(network.config, prompts, who=network.name)
    check_padding(network.config, prompts, intervention)
    check_answers_differ(prompts)
    if isinstance(network, Subject):
        return SubjectRun.of(network, prompts, intervention, freeze_norm=freeze_norm)
    from metamodel.circuits.bridge_run import bridge_run
    from metamodel.subjects.interchange.hooked import HookedBridge

    assert isinstance(network, HookedBridge)
    return bridge_run(network, prompts, intervention, freeze_norm=freeze_norm)
