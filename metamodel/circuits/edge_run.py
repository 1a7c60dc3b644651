"""Runs in which edges can be patched: what circuit methods ask of a network, whatever it is made of.

A network is a subject, or a bridge of another architecture that is run through hooks. Methods are written
once against `EdgeRun`; a subject answers by its folded weights and runs suffixes only
(`metamodel.circuits.sweep`, `masked`, `gradients`), a bridge runs whole (`metamodel.circuits.bridge_run`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.circuits.base_run import BaseRun, Intervention, base_run
from metamodel.circuits.cost import masked_forwards, sweep_forwards
from metamodel.circuits.gradients import first_order_effects, mean_gradients
from metamodel.circuits.graph import ComponentEdges, component_edges
from metamodel.circuits.masked import masked_logits
from metamodel.circuits.metrics import Measure, Metric
from metamodel.circuits.prompts import Prompts, check_answers_differ, check_fit, check_padding
from metamodel.circuits.sweep import edge_effects
from metamodel.config.errors import InputError
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject


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


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectRun(EdgeRun):
    """A run of a folded subject."""

    base: BaseRun

    @classmethod
    def of(cls, base: BaseRun) -> "SubjectRun":
        return cls(
            base=base,
            config=base.config,
            prompts=base.prompts,
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
        return SubjectRun.of(base_run(network, prompts, intervention, freeze_norm=freeze_norm))
    from metamodel.circuits.bridge_run import bridge_run
    from metamodel.subjects.interchange.hooked import HookedBridge

    assert isinstance(network, HookedBridge)
    return bridge_run(network, prompts, intervention, freeze_norm=freeze_norm)
