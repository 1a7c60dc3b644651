"""What a reader of a narrower track sees of a subject that was described on the track `both`."""

from dataclasses import replace

import torch

from metamodel.config.words import Track
from metamodel.features.composition import CHANNELS
from metamodel.features.evidence import FROM_WEIGHTS
from metamodel.features.examples import ComponentGraph, Seen
from metamodel.features.registry import ACTIVATIONS_COLUMN, feature_names

_ALONE = ("exists", "depth_step", "stream_share", "asked_stream_share")
"""Channels of the track `activations`."""


def seen_on(seen: Seen, track: Track) -> Seen:
    """`seen`, described on the track `both`, as `seen_of` would have described it on `track`."""
    evidence = seen.evidence
    if track == "activations":
        evidence = evidence.clone()
        evidence[..., :FROM_WEIGHTS] = 0.0
    return replace(seen, graph=graph_on(seen.graph, track), evidence=evidence)


def graph_on(graph: ComponentGraph, track: Track) -> ComponentGraph:
    """A graph of the track `both`, as `graph_of` would have made it on `track`."""
    if track == "both":
        return graph
    every = {name: i for i, name in enumerate(feature_names("both"))}
    nodes = graph.nodes[:, [every[name] for name in feature_names(track)]].clone()
    ran = [name.endswith("_share") for name in CHANNELS]
    kept = [name in _ALONE if track == "activations" else not ran[i] for i, name in enumerate(CHANNELS)]
    if track == "weights":
        nodes[:, ACTIVATIONS_COLUMN] = 0.0
    return replace(
        graph,
        nodes=nodes,
        edges=graph.edges * torch.tensor(kept, device=graph.edges.device),
        matrices=None if track == "activations" else graph.matrices,
    )
