"""What every trained opponent does with node embeddings: mixes them in mean, and answers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metamodel.networks.readouts import NodeReadout
from metamodel.subjects.config import KINDS

ROUNDS = 2
"""How often a component hears of its layer and of its subject, in mean."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """Logits, and scores in standard deviations of the training scores."""

    label: Float[Tensor, "*subject node label"]
    score: Float[Tensor, "*subject node label"]
    node_member: Float[Tensor, "*subject node"]
    edge_member: Float[Tensor, "*subject node node"]

    def first(self) -> "Answered":
        """Of the first subject alone."""
        return Answered(
            label=self.label[0],
            score=self.score[0],
            node_member=self.node_member[0],
            edge_member=self.edge_member[0],
        )


class Readout(nn.Module):
    """Adds kind and depth, mixes over components without order, and reads labels, scores and membership."""

    def __init__(self, width: int, n_labels: int, dropout: float):
        super().__init__()
        self.kind, self.depth = nn.Embedding(len(KINDS), width), nn.Linear(2, width)
        self.norms = nn.ModuleList(nn.LayerNorm(3 * width) for _ in range(ROUNDS))
        self.mixes = nn.ModuleList(
            nn.Sequential(
                nn.Linear(3 * width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
            )
            for _ in range(ROUNDS)
        )
        self.enter, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)
        self.nodes = NodeReadout(width, 2 * n_labels + 1, dropout)
        self.source, self.reader = nn.Linear(width, width + 1), nn.Linear(width, width + 1)

    def forward(
        self,
        x: Float[Tensor, "subject node width"],
        kinds: Int[Tensor, "subject node"],
        depth: Float[Tensor, "subject node"],
    ) -> Answered:
        x = self.enter(x) + self.kind(kinds) + self.depth(torch.stack([depth, depth.square()], dim=-1))
        beside = (depth[:, :, None] == depth[:, None]).to(x)
        beside = beside / beside.sum(-1, keepdim=True)
        for norm, mix in zip(self.norms, self.mixes, strict=True):
            x = x + mix(norm(torch.cat([x, beside @ x, x.mean(1, keepdim=True).expand_as(x)], dim=-1)))
        x = self.enter(self.norm(x))
        answers = self.nodes(x)
        n_labels = answers.shape[-1] // 2
        source, reader = self.source(x), self.reader(x)
        pairs = torch.einsum("snw,smw->snm", source[..., :-1], reader[..., :-1]) / x.shape[-1] ** 0.5
        return Answered(
            label=answers[..., :n_labels],
            score=answers[..., n_labels:-1],
            node_member=answers[..., -1],
            edge_member=pairs + source[..., -1:] + reader[..., None, :, -1],
        )
