"""From triples to what is seen and what is true, two types that part here and never meet in a network."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from metamodel.analogy.graph import edge_matrix
from metamodel.circuits.graph import component_edges
from metamodel.config.words import Track
from metamodel.features.evidence import evidence
from metamodel.features.examples import BaselineInputs, Example, Seen, Truth
from metamodel.features.graph import graph_of_view
from metamodel.features.statistics import weight_statistics
from metamodel.features.token_space import token_space_scores
from metamodel.features.view import Shown, view
from metamodel.subjects.config import SubjectConfig
from metamodel.triples.schema import Triple
from metamodel.triples.store import Zoo


def examples_of(
    zoo: Zoo,
    ids: Iterable[str],
    track: Track,
    *,
    for_baselines: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Example]:
    """What is seen and what is true of subjects of a zoo.

    Args:
        for_baselines: also compute what only opponents look at.
        progress: told the id of every subject that is done.
    """
    labels = [label.name for label in zoo.labels]
    found = []
    for id in ids:
        triple = zoo.triple(id)
        found.append((seen_of(triple, track, labels if for_baselines else None), truth_of(triple)))
        progress(id)
    return found


def seen_of(triple: Triple, track: Track, baseline_labels: Sequence[str] | None = None) -> Seen:
    """What a reader may look at; with `baseline_labels`, also what only opponents look at."""
    behavior, inputs = triple.behavior, None
    v = view(triple.subject, shown=Shown(tokens=behavior.shown_tokens, position=behavior.shown_position))
    if baseline_labels is not None:
        inputs = BaselineInputs(
            subject=triple.subject,
            weight_statistics=weight_statistics(triple.subject),
            token_space_scores=token_space_scores(v, baseline_labels),
            labels=tuple(baseline_labels),
        )
    return Seen(
        id=triple.info.id,
        config=triple.subject.config,
        graph=graph_of_view(v, track),
        family=triple.info.family,
        variant=triple.info.variant,
        slice_names=behavior.slice_names,
        probe_tokens=behavior.probe_tokens,
        probe_position=behavior.probe_position,
        probe_slice=behavior.probe_slice,
        evidence=evidence(v, behavior.probe_tokens, behavior.probe_position, track),
        baseline_inputs=inputs,
    )


def truth_of(triple: Triple) -> Truth:
    """Labels of a subject; circuit membership of a pair of nodes is that of any of its channels."""
    config, member = triple.subject.config, triple.circuit.member
    behavior = triple.behavior
    return Truth(
        lineage=triple.info.lineage,
        function_score=triple.labels.raw,
        function_state=triple.labels.state,
        node_member=triple.circuit.node_member,
        edge_member=pairs_of_nodes(member, config),
        edge_exists=pairs_of_nodes(torch.ones_like(member), config),
        slice_accuracy=behavior.slice_accuracy,
        probe_answer=behavior.probe_answer,
        probe_right_answer=behavior.probe_right_answer,
        subject=triple.info.subject,
        edge_mass=edge_matrix(config, triple.circuit.noising_margin).pow(2).sum(0).sqrt(),
        algorithm="" if triple.truth is None else triple.info.family,
    )


def pairs_of_nodes(flags: Bool[Tensor, " edge"], config: SubjectConfig) -> Bool[Tensor, "node node"]:
    """Whether any channel of each pair (source, reader) is flagged."""
    graph = component_edges(config)
    pairs = torch.zeros(len(graph.nodes), len(graph.nodes), dtype=torch.bool, device=flags.device)
    source, reader = torch.tensor(graph.source_node), torch.tensor(graph.destination_node)
    pairs[source[flags.cpu()], reader[flags.cpu()]] = True
    return pairs
