"""Runs in which edges can be patched: what circuit methods ask of a network, whatever it is made of.

Methods are written once against `EdgeRun`. A subject answers by its folded weights and runs suffixes only
(`metamodel.circuits.subject_run`), a bridge of another architecture runs whole, through hooks
(`metamodel.circuits.bridge_run`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.graph import ComponentEdges, Destination, component_edges
from metamodel.circuits.metrics import Measure, Metric
from metamodel.circuits.prompts import Prompts
from metamodel.subjects.config import Component, SubjectConfig

Both = tuple[Tensor, Tensor]
"""Of this run, and of the prompts that patches come from; under zero and mean ablation the same twice."""


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
    def exists(self) -> Bool[Tensor, " edge"]:
        """Edges that the network has; an architecture may lack some of the graph's."""
        return torch.ones(len(self.edges), dtype=torch.bool, device=self.logits.device)

    @property
    def live(self) -> Bool[Tensor, " edge"]:
        """Edges whose patch alone can change anything."""
        source = torch.tensor(self.edges.source_node, device=self.logits.device)
        return self.active[source] & self.exists

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
    def neuron_logits(
        self, patched: Mapping[int, tuple[Bool[Tensor, "set d_mlp"], Float[Tensor, "batch pos d_mlp"]]]
    ) -> Float[Tensor, "set ask d_vocab"]:
        """Logits where sets of neurons say something else.

        Args:
            patched: block -> which neurons each set has, and what they say then.
        """

    @abstractmethod
    def neurons(self, layer: int) -> tuple[Float[Tensor, "d_mlp d_model"], Float[Tensor, " d_model"]]:
        """What each neuron of an MLP writes for each unit of activation, and the MLP's bias."""
