"""Several subjects as one padded batch: what a reader's `forward` takes, and nothing that it must predict."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.examples import Seen

UNKNOWN_SLICE = 0
"""Index of every slice name that the vocabulary lacks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenBatch:
    """Padded graphs, slice queries and evidence. Padding is marked by the masks and changes no answer."""

    nodes: Float[Tensor, "subject node feature"]
    edges: Float[Tensor, "subject node node channel"]
    kinds: Int[Tensor, "subject node"]
    depth: Float[Tensor, "subject node"]
    node_mask: Bool[Tensor, "subject node"]
    slices: Int[Tensor, "subject slice"]
    """Index into the reader's vocabulary of slice names, from 1; 0 is unknown."""
    evidence: Float[Tensor, "subject probe node d_vocab evidence"]
    n_tokens: Int[Tensor, " subject"]
    """Size of each subject's own vocabulary: later tokens are padding, and no answer."""

    def to(self, device: torch.device | str) -> "SeenBatch":
        return SeenBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def with_probes(self, chosen: Int[Tensor, " chosen"]) -> "SeenBatch":
        """The same subjects, asked a few of the probes only."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return SeenBatch(**(values | {"evidence": self.evidence[:, chosen]}))


def pad_seen(seen: Sequence[Seen], slice_names: Sequence[str]) -> SeenBatch:
    """Pads graphs, slices, probes and vocabularies to the largest of the batch."""
    index = {name: i + 1 for i, name in enumerate(slice_names)}
    slices = [torch.tensor([index.get(name, UNKNOWN_SLICE) for name in s.slice_names]).long() for s in seen]
    graphs = [s.graph for s in seen]
    device = graphs[0].nodes.device
    return SeenBatch(
        nodes=padded([g.nodes for g in graphs]),
        edges=padded([g.edges for g in graphs]),
        kinds=padded([g.kinds for g in graphs]),
        depth=padded([g.depth for g in graphs]),
        node_mask=padded([torch.ones_like(g.kinds, dtype=torch.bool) for g in graphs]),
        slices=padded([s.to(device) for s in slices]),
        evidence=padded([s.evidence for s in seen]),
        # not d_vocab: who asks for no answers gives evidence for a single token
        n_tokens=torch.tensor([s.evidence.shape[2] for s in seen], device=device),
    )


def padded(tensors: Sequence[Tensor], value: int | float = 0) -> Tensor:
    """Tensors of one rank, stacked after padding each axis at its end to the longest."""
    shape = [max(t.shape[axis] for t in tensors) for axis in range(tensors[0].ndim)]
    whole = tensors[0].new_full((len(tensors), *shape), value)
    for row, tensor in zip(whole, tensors, strict=True):
        row[tuple(slice(0, n) for n in tensor.shape)] = tensor
    return whole
