"""The function reader: what every component of a subject does, from gauge-invariant features alone.

An ensemble of small relational transformers, each with readouts of its own, whose logits are averaged.
Features are normalised inside, with constants that belong to the network and are saved with it. Its `forward`
takes a `SeenBatch`: no label, family, variant, seed or identity can enter.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.features.batch import UNKNOWN_SLICE, SeenBatch
from metamodel.networks.readouts import AnswerReadout, Answers, EdgeReadout, NodeReadout, SliceReadout
from metamodel.networks.trunk import Trunk
from metamodel.subjects.config import KINDS

SOFT_LIMIT = 3.0
"""Normalised features are squashed smoothly beyond this many deviations, so that no outlier rules."""
TRUST = (2.0, 0.0)
"""Initial trust in closed forms, before softplus, of logits and of scores."""
SLICE_DROPOUT = 0.25
"""Share of slice names that are unknown in training, or those of another task would find nothing learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSizes:
    """All that is needed to build a reader before its weights are loaded. Plain numbers."""

    n_features: int
    n_channels: int
    n_evidence: int
    n_labels: int
    n_slices: int
    closed_forms: tuple[int, ...]
    """For each label the column of its closed form, -1 where it has none."""
    width: int = 64
    """Of node embeddings."""
    n_layers: int = 3
    n_heads: int = 4
    edge_width: int = 16
    members: int = 4
    """Networks in the ensemble."""
    dropout: float = 0.1
    input_dropout: float = 0.1
    """Share of feature entries that are zeroed in training."""
    feature_noise: float = 0.1
    """Standard deviation of noise on normalised features in training."""
    track_dropout: float = 0.0
    """Share of subjects that are read without their activations in training, so that either will do."""


class Normaliser(nn.Module):
    """Centre and scale of every column, for the kind it belongs to, and of every edge channel."""

    centre: Float[Tensor, "kind feature"]
    scale: Float[Tensor, "kind feature"]
    used: Bool[Tensor, "kind feature"]
    of_activations: Bool[Tensor, " feature"]
    edge_centre: Float[Tensor, " channel"]
    edge_scale: Float[Tensor, " channel"]

    def __init__(self, n_features: int, n_channels: int):
        super().__init__()
        shape = (len(KINDS), n_features)
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("used", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("of_activations", torch.zeros(n_features, dtype=torch.bool))
        self.register_buffer("edge_centre", torch.zeros(n_channels))
        self.register_buffer("edge_scale", torch.ones(n_channels))

    def deviations(self, batch: SeenBatch) -> Float[Tensor, "subject node feature"]:
        """Features in robust deviations from the training median; zero where a column does not apply."""
        z = (batch.nodes - self.centre[batch.kinds]) / self.scale[batch.kinds]
        z = z * self.used[batch.kinds]
        unseen = batch.nodes[..., -1:] < 0.5
        z = z.masked_fill(unseen & self.of_activations, 0.0)
        return z * batch.node_mask[..., None]

    def relations(self, batch: SeenBatch) -> Float[Tensor, "subject node node channel"]:
        """Edge channels, centred and scaled where there is an edge."""
        exists = batch.edges[..., :1]
        z = soft_limited((batch.edges - self.edge_centre) / self.edge_scale) * exists
        return torch.cat([exists, z[..., 1:]], dim=-1)


def soft_limited(z: Tensor) -> Tensor:
    """Identity near zero, `SOFT_LIMIT` far out."""
    return z / (1 + (z / SOFT_LIMIT).pow(2)).sqrt()


class ClosedForms(nn.Module):
    """Each label's closed form, weighted by how far it is trusted: what a member's answers start from.

    A network that learns from four families alone forgets what holds for all of them.
    """

    column: Int[Tensor, " label"]

    def __init__(self, columns: tuple[int, ...]):
        super().__init__()
        self.register_buffer("column", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.trust = nn.Parameter(torch.tensor(TRUST)[:, None].repeat(1, len(columns)))

    def forward(
        self, features: Float[Tensor, "subject node feature"]
    ) -> tuple[Float[Tensor, "subject node label"], Float[Tensor, "subject node label"]]:
        """What to add to logits and to scores."""
        hint = features[..., self.column.clamp_min(0)] * (self.column >= 0)
        on_logits, on_scores = nn.functional.softplus(self.trust)
        return hint * on_logits, hint * on_scores


class Member(nn.Module):
    """One network of the ensemble."""

    def __init__(self, sizes: ReaderSizes):
        super().__init__()
        width, dropout = sizes.width, sizes.dropout
        self.trunk = Trunk(
            n_features=sizes.n_features,
            n_channels=sizes.n_channels,
            width=width,
            n_layers=sizes.n_layers,
            n_heads=sizes.n_heads,
            edge_width=sizes.edge_width,
            dropout=dropout,
            input_dropout=sizes.input_dropout,
        )
        self.function = NodeReadout(width, sizes.n_labels, dropout)
        self.score = NodeReadout(width, sizes.n_labels, dropout)
        self.closed_forms = ClosedForms(sizes.closed_forms)
        self.node = NodeReadout(width, 1, dropout)
        self.edge = EdgeReadout(width, sizes.edge_width, dropout)
        self.slice = SliceReadout(width, sizes.n_slices, dropout)
        self.answer = AnswerReadout(width, sizes.n_evidence, dropout)

    def forward(
        self,
        features: Float[Tensor, "subject node feature"],
        channels: Float[Tensor, "subject node node channel"],
        batch: SeenBatch,
    ) -> Answers:
        x, relation = self.trunk(features, channels, batch)
        on_logits, on_scores = self.closed_forms(features)
        return Answers(
            function_logits=self.function(x) + on_logits,
            function_score=self.score(x) + on_scores,
            node_member=self.node(x).squeeze(-1),
            edge_member=self.edge(x, relation),
            slice_logits=self.slice(x, batch.node_mask, batch.slices),
            answer_logits=self.answer(x, batch.node_mask, batch.evidence, batch.n_tokens),
        )


class Reader(nn.Module):
    """Ensemble of members over one normaliser, with one temperature a label."""

    log_temperature: Float[Tensor, " label"]
    log_temperature_node: Float[Tensor, ""]
    log_temperature_edge: Float[Tensor, ""]
    shift: Float[Tensor, " label"]
    shift_node: Float[Tensor, ""]
    shift_edge: Float[Tensor, ""]
    score_centre: Float[Tensor, " label"]
    score_scale: Float[Tensor, " label"]
    asked: Bool[Tensor, "kind label"]
    """Kinds of components for which training subjects had the label at all."""
    farthest: Float[Tensor, ""]
    """Largest `distance` of a training subject."""
    largest: Int[Tensor, "2"]
    """Most layers, and most heads in a layer, of a training subject."""

    def __init__(self, sizes: ReaderSizes):
        super().__init__()
        self.sizes = sizes
        self.normaliser = Normaliser(sizes.n_features, sizes.n_channels)
        self.members = nn.ModuleList(Member(sizes) for _ in range(sizes.members))
        # logits are divided by the temperature and shifted, both fitted on validation
        for name in ("log_temperature", "shift", "score_centre", "score_scale"):
            self.register_buffer(name, torch.zeros(sizes.n_labels))
        self.score_scale.fill_(1.0)
        self.register_buffer("asked", torch.ones(len(KINDS), sizes.n_labels, dtype=torch.bool))
        self.register_buffer("farthest", torch.zeros(()))
        self.register_buffer("largest", torch.zeros(2, dtype=torch.long))
        for name in ("node", "edge"):
            self.register_buffer(f"log_temperature_{name}", torch.zeros(()))
            self.register_buffer(f"shift_{name}", torch.zeros(()))

    def forward(self, batch: SeenBatch) -> list[Answers]:
        """Answers of each member. In training features are noisy and sometimes missing."""
        z = self.normaliser.deviations(batch)
        relations = self.normaliser.relations(batch)
        if not self.training:
            features = soft_limited(z)
            return [member(features, relations, batch) for member in self.members]
        forgotten = torch.rand(batch.slices.shape, device=z.device) < SLICE_DROPOUT
        batch = replace(batch, slices=batch.slices.masked_fill(forgotten, UNKNOWN_SLICE))
        return [member(self._noisy(z, batch), relations, batch) for member in self.members]

    def distance(self, batch: SeenBatch) -> Float[Tensor, " subject"]:
        """How far subjects lie from what was trained on: mean size of squashed deviations of their heads."""
        size = soft_limited(self.normaliser.deviations(batch)).abs()
        heads = (batch.kinds == KINDS.index("head")) & batch.node_mask
        used = self.normaliser.used[KINDS.index("head")]
        per_node = (size * used).sum(-1) / used.sum().clamp_min(1)
        return (per_node * heads).sum(1) / heads.sum(1).clamp_min(1)

    def _noisy(self, z: Tensor, batch: SeenBatch) -> Tensor:
        noise = torch.randn_like(z) * self.sizes.feature_noise
        features = soft_limited(z + noise * (z != 0))
        if self.sizes.track_dropout > 0:
            lost = torch.rand(z.shape[0], device=z.device) < self.sizes.track_dropout
            gone = lost[:, None, None] & self.normaliser.of_activations
            features = features.masked_fill(gone, 0.0)
        return features * batch.node_mask[..., None]

    @torch.no_grad()
    def answers(self, batch: SeenBatch) -> "Averaged":
        """Calibrated probabilities and scores, averaged over members. Padding is answered too."""
        members = self(batch)

        def mean(name: str) -> Tensor:
            return torch.stack([getattr(member, name) for member in members]).mean(0)

        def calibrated(name: str, log_temperature: Tensor, shift: Tensor) -> Tensor:
            return ((mean(name) + shift) / log_temperature.exp()).sigmoid()

        says = torch.stack([member.answer_logits.softmax(-1) for member in members])
        return Averaged(
            function_probability=calibrated("function_logits", self.log_temperature, self.shift),
            function_score=mean("function_score") * self.score_scale + self.score_centre,
            node_member=calibrated("node_member", self.log_temperature_node, self.shift_node),
            edge_member=calibrated("edge_member", self.log_temperature_edge, self.shift_edge),
            slice_accuracy=torch.stack([m.slice_logits.sigmoid() for m in members]).mean(0),
            answer=says.mean(0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Averaged:
    """What the whole ensemble says of a batch."""

    function_probability: Float[Tensor, "subject node label"]
    function_score: Float[Tensor, "subject node label"]
    """In the unit of the label's raw score."""
    node_member: Float[Tensor, "subject node"]
    edge_member: Float[Tensor, "subject node node"]
    slice_accuracy: Float[Tensor, "subject slice"]
    answer: Float[Tensor, "subject probe d_vocab"]
    """Probability of each token as the answer."""
