"""Readouts of the function reader: functions of components, circuit membership, answers of the subject."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metamodel.networks.exchangeable import LEAST
from metamodel.subjects.config import KINDS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Logits and values of one member of an ensemble for a batch of subjects."""

    function_logits: Float[Tensor, "subject node label"]
    function_score: Float[Tensor, "subject node label"]
    """In standard deviations of the training scores."""
    node_member: Float[Tensor, "subject node"]
    edge_member: Float[Tensor, "subject node node"]
    slice_logits: Float[Tensor, "subject slice"]
    answer_logits: Float[Tensor, "subject probe d_vocab"]
    """Minus infinity for tokens that a subject does not have."""
    algorithm_logits: Float[Tensor, "subject algorithm"]
    """Of each program that is known, and of none of these."""
    places: Float[Tensor, "subject node width"]
    """Where components lie in the space in which they are compared with exemplars."""


class NodeReadout(nn.Module):
    """Several numbers a node, from its embedding."""

    def __init__(self, width: int, n_out: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, n_out)
        )

    def forward(self, x: Float[Tensor, "subject node width"]) -> Float[Tensor, "subject node out"]:
        return self.layers(x)


class EdgeReadout(nn.Module):
    """One logit for every ordered pair of nodes, from both embeddings and their relation."""

    def __init__(self, width: int, edge_width: int, dropout: float):
        super().__init__()
        self.source, self.reader = nn.Linear(width, width), nn.Linear(width, width)
        self.relation = nn.Linear(edge_width, width)
        self.out = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(
        self, x: Float[Tensor, "subject node width"], relation: Float[Tensor, "subject node node edge_width"]
    ) -> Float[Tensor, "subject node node"]:
        pair = self.source(x)[:, :, None] + self.reader(x)[:, None] + self.relation(relation)
        return self.out(pair).squeeze(-1)


class SliceReadout(nn.Module):
    """Accuracy on a named slice of a task: the name's embedding asks, the nodes answer."""

    def __init__(self, width: int, n_slices: int, dropout: float):
        super().__init__()
        self.query = nn.Embedding(n_slices + 1, width)
        self.layers = nn.Sequential(
            nn.Linear(3 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(
        self,
        x: Float[Tensor, "subject node width"],
        mask: Bool[Tensor, "subject node"],
        slices: Int[Tensor, "subject slice"],
    ) -> Float[Tensor, "subject slice"]:
        query = self.query(slices)
        scores = torch.einsum("sqw,snw->sqn", query, x) / x.shape[-1] ** 0.5
        attended = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ x
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        asked = torch.cat([query, attended, mean[:, None].expand_as(query)], dim=-1)
        return self.layers(asked).squeeze(-1)


class AlgorithmReadout(nn.Module):
    """Which known program a subject runs, from its components as a set.

    It looks at features of the network alone: prompts of a behavior would give the program's name away.
    """

    def __init__(self, n_features: int, width: int, n_out: int, dropout: float):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(n_features + len(KINDS) + 1, width), nn.GELU())
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, n_out))

    def forward(
        self,
        features: Float[Tensor, "subject node feature"],
        kinds: Int[Tensor, "subject node"],
        depth: Float[Tensor, "subject node"],
        mask: Bool[Tensor, "subject node"],
    ) -> Float[Tensor, "subject algorithm"]:
        kind = nn.functional.one_hot(kinds, len(KINDS)).to(features)
        there = mask[..., None]
        x = self.each(torch.cat([features, kind, depth[..., None]], dim=-1))
        mean = (x * there).sum(1) / mask.sum(1, keepdim=True)
        return self.out(torch.cat([mean, x.masked_fill(~there, LEAST).amax(1)], dim=-1))


class AnswerReadout(nn.Module):
    """The answer to an unseen prompt: evidence of every component, weighted by what its embedding says."""

    def __init__(self, width: int, n_channels: int, dropout: float):
        super().__init__()
        self.weights = NodeReadout(width, n_channels, dropout)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Float[Tensor, "subject node width"],
        mask: Bool[Tensor, "subject node"],
        evidence: Float[Tensor, "subject probe node d_vocab evidence"],
        n_tokens: Int[Tensor, " subject"],
    ) -> Float[Tensor, "subject probe d_vocab"]:
        weights = self.weights(x) * mask[..., None]
        logits = torch.einsum("snc,spnvc->spv", weights, evidence) * self.log_scale.exp()
        padding = torch.arange(logits.shape[2], device=logits.device) >= n_tokens[:, None, None]
        return logits.masked_fill(padding, -torch.inf)
