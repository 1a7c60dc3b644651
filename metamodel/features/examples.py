"""What a reader is asked, what it answers, and what is true: three types that never mix.

A network's `forward` takes what is in `Seen`; labels travel in `Truth`, so they cannot reach it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.matrices import Matrices
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject

NONE_OF_THESE = "none of these"
"""Answer where a subject runs no program that training subjects run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComponentGraph:
    """Gauge-invariant description of a subject: a node for each component, relations between them."""

    nodes: Float[Tensor, "node feature"]
    edges: Float[Tensor, "node node channel"]
    """`edges[i, j]` relates source i to reader j; zero unless i computes before j."""
    kinds: Int[Tensor, " node"]
    """Index into `metamodel.subjects.config.KINDS`."""
    depth: Float[Tensor, " node"]
    """Depth fraction, the only position."""
    matrices: Matrices | None = None
    """Circuits entry by entry; None on the track `activations`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineInputs:
    """What only some opponents look at: raw weights, statistics of them, and closed forms on every track.

    Weights and their statistics are not gauge-invariant, and the track `activations` shows no closed form of
    weights: so they stand apart from the graph that a meta-model sees.
    """

    subject: Subject
    """The subject itself, as it is stored: for opponents that learn from raw weights or run it."""
    weight_statistics: Float[Tensor, "node statistic"]
    """`metamodel.features.statistics.weight_statistics(subject)`."""
    token_space_scores: Float[Tensor, "node label"]
    """`metamodel.features.token_space.token_space_scores`; NaN without a closed form."""
    labels: tuple[str, ...]
    """Names of the labels, in the order of every `label` axis."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """Everything that a reader may look at for one subject."""

    id: str
    config: SubjectConfig
    graph: ComponentGraph
    family: str
    """For the prior's table only: meta-models and feature baselines never read it."""
    variant: str
    """As `family`."""
    slice_names: tuple[str, ...]
    """Slices whose accuracy is asked for."""
    probe_tokens: Int[Tensor, "probe pos"]
    """Prompts whose answers are asked for."""
    probe_position: Int[Tensor, " probe"]
    probe_slice: Int[Tensor, " probe"]
    evidence: Float[Tensor, "probe node d_vocab channel"]
    """What each component would say of each answer on each probe, from what the track allows."""
    baseline_inputs: BaselineInputs | None = None
    """For baselines only; None where no baseline is asked."""


def unasked(graph: ComponentGraph, config: SubjectConfig, *, id: str, n_evidence: int) -> Seen:
    """A graph of which nothing is asked but what its components do: no slices, no probes.

    Args:
        n_evidence: channels of evidence that a reader expects.
    """
    nothing = torch.zeros(1, 1, dtype=torch.long)
    return Seen(
        id=id,
        config=config,
        graph=graph,
        family="",
        variant="",
        slice_names=(),
        probe_tokens=nothing,
        probe_position=nothing[0],
        probe_slice=nothing[0],
        evidence=graph.nodes.new_zeros(1, len(graph.kinds), 1, n_evidence),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agreement:
    """How many of several measurements say yes: what is learned from where there are several."""

    positive: Float[Tensor, "node label"]
    """NaN where masked."""
    node_member: Float[Tensor, " node"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Labels of one subject."""

    lineage: str
    function_score: Float[Tensor, "node label"]
    """Raw score; NaN where undefined."""
    function_state: Int[Tensor, "node label"]
    """MASKED, NEGATIVE, POSITIVE or PATTERN_ONLY of `metamodel.triples.schema`."""
    node_member: Bool[Tensor, " node"]
    edge_member: Bool[Tensor, "node node"]
    """Whether any channel of this pair is in the circuit."""
    edge_exists: Bool[Tensor, "node node"]
    slice_accuracy: Float[Tensor, " slice"]
    """NaN where a slice has no prompt."""
    probe_answer: Int[Tensor, " probe"]
    """What the subject answers."""
    probe_right_answer: Int[Tensor, " probe"]
    subject: str = ""
    """Name of the network, which its examples on other tasks share; empty where that is not known."""
    algorithm: str = ""
    """Program that the subject is known to run; empty where its circuit is not known."""
    edge_mass: Float[Tensor, "node node"] | None = None
    """Size of the exact effect of each edge, over all channels; None where it was not measured."""
    agreement: Agreement | None = None
    """Of training subjects that were measured more than once."""


Example = tuple[Seen, Truth]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What a reader says of one subject. Probabilities in [0, 1]."""

    function_probability: Float[Tensor, "node label"]
    function_score: Float[Tensor, "node label"]
    node_member: Float[Tensor, " node"]
    edge_member: Float[Tensor, "node node"]
    slice_accuracy: Float[Tensor, " slice"]
    probe_answer: Int[Tensor, " probe"]
    algorithm: str = NONE_OF_THESE
    """Program that the subject runs, of those that training subjects run, or `NONE_OF_THESE`."""
