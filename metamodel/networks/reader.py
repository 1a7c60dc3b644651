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
from metamodel.networks.exchangeable import CircuitEncoder
from metamodel.networks.member import Member, ReaderSizes
from metamodel.networks.normaliser import Normaliser, soft_limited, without
from metamodel.networks.readouts import Answers
from metamodel.subjects.config import KINDS

__all__ = ["Averaged", "Reader", "ReaderSizes"]

TOKEN_SHARE = 0.67
"""Share of the tokens of circuits that a step of training looks at: the encoder learns no single ones."""
SLICE_DROPOUT = 0.25
"""Share of slice names that are unknown in training, or those of another task would find nothing learned."""


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
        self.encoder = (
            CircuitEncoder(sizes.encoder_width, sizes.encoded, sizes.edge_width)
            if sizes.encoder_width
            else None
        )
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
        if self.training and batch.matrices is not None:
            batch = replace(batch, matrices=batch.matrices.sampled(TOKEN_SHARE))
        encoded = None if self.encoder is None else self.encoder(batch)
        if not self.training:
            features = soft_limited(z)
            alone = self._alone(features)
            return [member(features, relations, encoded, batch, alone) for member in self.members]
        forgotten = torch.rand(batch.slices.shape, device=z.device) < SLICE_DROPOUT
        batch = replace(batch, slices=batch.slices.masked_fill(forgotten, UNKNOWN_SLICE))
        said = []
        for member in self.members:
            features, related = self._noisy(z, relations, batch)
            said.append(member(features, related, encoded, batch, self._alone(features)))
        return said

    def _alone(
        self, features: Float[Tensor, "subject node feature"]
    ) -> Float[Tensor, "subject node feature"]:
        """Features of the network, without those of prompts."""
        return features.masked_fill(self.normaliser.of_prompts, 0.0)

    def distance(self, batch: SeenBatch) -> Float[Tensor, " subject"]:
        """How far subjects lie from what was trained on: mean size of squashed deviations of their heads."""
        size = soft_limited(self.normaliser.deviations(batch)).abs()
        heads = (batch.kinds == KINDS.index("head")) & batch.node_mask
        used = self.normaliser.used[KINDS.index("head")]
        per_node = (size * used).sum(-1) / used.sum().clamp_min(1)
        return (per_node * heads).sum(1) / heads.sum(1).clamp_min(1)

    def _noisy(self, z: Tensor, relations: Tensor, batch: SeenBatch) -> tuple[Tensor, Tensor]:
        """Features with noise, and subjects without activations or without prompts now and then."""
        noise = torch.randn_like(z) * self.sizes.feature_noise
        features, own = soft_limited(z + noise * (z != 0)), self.normaliser
        for share, columns, channels in (
            (self.sizes.track_dropout, own.of_activations, own.edge_of_activations),
            (self.sizes.prompt_dropout, own.of_prompts, own.edge_of_prompts),
        ):
            lost = torch.rand(z.shape[0], device=z.device) < share
            features, relations = without(features, columns, lost), without(relations, channels, lost)
        return features * batch.node_mask[..., None], relations

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
            algorithm=torch.stack([member.algorithm_logits.softmax(-1) for member in members]).mean(0),
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
    algorithm: Float[Tensor, "subject algorithm"]
    """Probability of each known program, and of none of these."""
