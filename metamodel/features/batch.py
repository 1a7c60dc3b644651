"""Several subjects as one padded batch: what a reader's `forward` takes, and nothing that it must predict."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from metamodel.features.examples import Seen
from metamodel.features.matrices import Matrices
from metamodel.features.registry import ACTIVATIONS_COLUMN, PROMPTS_COLUMN

UNKNOWN_SLICE = 0
"""Index of every slice name that the vocabulary lacks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatrixBatch:
    """Padded matrices of several subjects. Masks say which rows and columns are there."""

    tokens: Float[Tensor, "subject node channel token token"]
    positions: Float[Tensor, "subject node placed pos pos"]
    crossed: Float[Tensor, "subject node crossing token pos"]
    followed: Float[Tensor, "virtual through answer answer"]
    """Of all subjects' pairs, one behind the other."""
    neurons: Float[Tensor, "subject node neuron told"]
    token_mask: Bool[Tensor, "subject token"]
    pos_mask: Bool[Tensor, "subject pos"]
    followed_mask: Bool[Tensor, "virtual answer"]
    neuron_mask: Bool[Tensor, "subject node neuron"]

    def sampled(self, share: float) -> "MatrixBatch":
        """The same matrices on a share of their tokens, drawn at random; the first token is kept."""
        token, followed = (
            torch.cat(
                [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(n - 1)[: max(1, round(share * n) - 1)]]
            )
            for n in (self.token_mask.shape[1], self.followed_mask.shape[1])
        )
        return replace(
            self,
            tokens=self.tokens[..., token, :][..., token],
            crossed=self.crossed[..., token, :],
            followed=self.followed[..., followed, :][..., followed],
            token_mask=self.token_mask[:, token],
            followed_mask=self.followed_mask[:, followed],
        )

    def to(self, device: torch.device | str) -> "MatrixBatch":
        return MatrixBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


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
    matrices: MatrixBatch | None = None
    """Circuits entry by entry; None where not every subject has them."""

    @property
    def activations_seen(self) -> Bool[Tensor, " subject"]:
        """Whether each subject was run."""
        return self.nodes[:, 0, ACTIVATIONS_COLUMN] > 0.5

    @property
    def prompts_seen(self) -> Bool[Tensor, " subject"]:
        """Whether prompts of the behavior were shown."""
        return self.nodes[:, 0, PROMPTS_COLUMN] > 0.5

    def to(self, device: torch.device | str) -> "SeenBatch":
        there = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return replace(self, **{name: getattr(self, name).to(device) for name in there})

    def with_probes(self, chosen: Int[Tensor, " chosen"]) -> "SeenBatch":
        """The same subjects, asked a few of the probes only."""
        return replace(self, evidence=self.evidence[:, chosen])


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
        matrices=_pad_matrices([g.matrices for g in graphs if g.matrices is not None], len(graphs)),
    )


def _pad_matrices(found: Sequence[Matrices], n_subjects: int) -> MatrixBatch | None:
    if len(found) < n_subjects:
        return None

    def present(sizes: Sequence[int]) -> Bool[Tensor, "subject item"]:
        at = torch.arange(max(sizes), device=found[0].tokens.device)
        return at < torch.tensor(sizes, device=at.device)[:, None]

    n_followed = max(m.followed.shape[-1] for m in found)
    pairs = [m.followed.shape[0] for m in found]
    short = [n_followed - m.followed.shape[-1] for m in found]
    followed = [pad(m.followed, (0, n, 0, n)) for m, n in zip(found, short, strict=True)]
    seen = present([n_followed - n for n in short] + [n_followed])[:-1]
    is_mlp = padded([(m.neurons != 0).any(-1).any(-1) for m in found])
    return MatrixBatch(
        tokens=padded([m.tokens for m in found]),
        positions=padded([m.positions for m in found]),
        crossed=padded([m.crossed for m in found]),
        followed=torch.cat(followed),
        neurons=padded([m.neurons for m in found]),
        token_mask=present([m.tokens.shape[-1] for m in found]),
        pos_mask=present([m.positions.shape[-1] for m in found]),
        followed_mask=seen.repeat_interleave(torch.tensor(pairs, device=seen.device), dim=0),
        neuron_mask=is_mlp[..., None] & present([m.neurons.shape[1] for m in found])[:, None],
    )


def padded(tensors: Sequence[Tensor], value: int | float = 0) -> Tensor:
    """Tensors of one rank, stacked after padding each axis at its end to the longest."""
    shape = [max(t.shape[axis] for t in tensors) for axis in range(tensors[0].ndim)]
    whole = tensors[0].new_full((len(tensors), *shape), value)
    for row, tensor in zip(whole, tensors, strict=True):
        row[tuple(slice(0, n) for n in tensor.shape)] = tensor
    return whole
