"""One network of an ensemble: a trunk, a readout for each question, and the closed forms it starts from."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metamodel.features.batch import SeenBatch
from metamodel.networks.exchangeable import Encoded
from metamodel.networks.exemplars import ExemplarReadout
from metamodel.networks.readouts import (
    AlgorithmReadout,
    AnswerReadout,
    Answers,
    EdgeReadout,
    NodeReadout,
    SliceReadout,
)
from metamodel.networks.trunk import Trunk

TRUST = (2.0, 0.0)
"""Initial trust in closed forms, before softplus, of logits and of scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSizes:
    """All that is needed to build a reader before its weights are loaded. Plain numbers."""

    n_features: int
    n_channels: int
    n_evidence: int
    n_labels: int
    n_slices: int
    n_algorithms: int
    """Programs that can be told, without `none of these`."""
    closed_forms: tuple[int, ...]
    """For each label the column of its closed form, -1 where it has none."""
    width: int = 64
    """Of node embeddings."""
    n_layers: int = 3
    n_heads: int = 4
    edge_width: int = 16
    encoder_width: int = 0
    """Of the encoder of circuits; 0 for none, as on the track `activations`."""
    encoded: int = 0
    """Numbers that the encoder gives each node."""
    members: int = 4
    """Networks in the ensemble."""
    dropout: float = 0.1
    input_dropout: float = 0.1
    """Share of feature entries that are zeroed in training."""
    feature_noise: float = 0.1
    """Standard deviation of noise on normalised features in training."""
    track_dropout: float = 0.0
    """Share of subjects that are read without their activations in training, so that either will do."""
    prompt_dropout: float = 0.0
    """Share of subjects that are read without the prompts of the behavior in training."""


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
            n_encoded=sizes.encoded if sizes.encoder_width else 0,
            n_pair=sizes.edge_width if sizes.encoder_width else 0,
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
        n_all = sizes.n_features + (sizes.encoded if sizes.encoder_width else 0)
        self.algorithm = AlgorithmReadout(n_all, width, sizes.n_algorithms + 1, max(dropout, 0.3))
        self.exemplars = ExemplarReadout(width, sizes.n_features, dropout)

    def forward(
        self,
        features: Float[Tensor, "subject node feature"],
        channels: Float[Tensor, "subject node node channel"],
        encoded: Encoded | None,
        batch: SeenBatch,
        network: Float[Tensor, "subject node feature"],
    ) -> Answers:
        """Args:
        network: features of the network alone, without those of prompts.
        """
        x, relation = self.trunk(features, channels, encoded, batch)
        on_logits, on_scores = self.closed_forms(features)
        alone = network if encoded is None else torch.cat([network, encoded[0]], dim=-1)
        return Answers(
            function_logits=self.function(x) + on_logits,
            function_score=self.score(x) + on_scores,
            node_member=self.node(x).squeeze(-1),
            edge_member=self.edge(x, relation),
            slice_logits=self.slice(x, batch.node_mask, batch.slices),
            answer_logits=self.answer(x, batch.node_mask, batch.evidence, batch.n_tokens),
            algorithm_logits=self.algorithm(alone, batch.kinds, batch.depth, batch.node_mask),
            places=self.exemplars.places(x, features),
        )
