"""Edges of a circuit along which nothing can flow: they lead from nowhere, or to nowhere."""

import torch
from jaxtyping import Bool
from torch import Tensor

from metamodel.circuits.graph import ComponentEdges


def without_dangling(edges: ComponentEdges, kept: Bool[Tensor, " edge"]) -> Bool[Tensor, " edge"]:
    """The kept edges that lie on a path from the token embedding to the logits.

    Under noising the others change no logit: positions are the same on both prompts, a component that reads
    nothing of the run writes its patch, and what a component writes that nobody reads is lost.
    """
    ends = list(zip(edges.source_node, edges.destination_node, kept.tolist(), strict=True))
    fed, used = {0}, {len(edges.nodes) - 1}
    for source, destination, keep in ends:  # by destination, so that every source is settled before
        if keep and source in fed:
            fed.add(destination)
    for source, destination, keep in reversed(ends):
        if keep and destination in used:
            used.add(source)
    alive = [keep and source in fed and destination in used for source, destination, keep in ends]
    return torch.tensor(alive, dtype=torch.bool, device=kept.device)
