"""Scores that look at no answer: what a circuit method must beat to have said anything."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.graph import ComponentEdges, component_edges
from metamodel.circuits.metrics import Metric
from metamodel.circuits.network import Network, edge_run
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.config.errors import InputError
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import Component
from metamodel.subjects.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomScores(EdgeMethod):
    """Standard normal numbers, the same for all subjects of a shape. They cost no run."""

    seed: int = 0

    @property
    def name(self) -> str:
        return "random"

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        edges, generator = component_edges(network.config), torch.Generator("cpu")
        generator.manual_seed(self.seed)  # the same on any device
        value = torch.randn(len(edges), generator=generator, device=generator.device)
        return _blind(self.name, network, prompts, metric, intervention, value, "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNorm(EdgeMethod):
    """Frobenius norm of the source's write matrix times the destination's read matrix. It costs no run.

    Written by `W_E`, `W_pos`, `W_O` of a head and `W_out`; read by `W_Q`, `W_K`, `W_V` of a head, `W_in` and
    `W_U`. All are taken from the canonical form, where these norms do not depend on the gauge. Prompts and
    metric do not enter, and scores have no sign.
    """

    @property
    def name(self) -> str:
        return "weight_norm"

    @torch.no_grad()
    def _score(
        self, network: Network, prompts: Prompts, metric: Metric, intervention: Intervention
    ) -> EdgeScores:
        if not isinstance(network, Subject):
            raise InputError(
                "method",
                expected="one that runs the network, for a bridge whose weights are not a subject's",
                got=repr(self.name),
                do="Choose another method.",
            )
        value = composed_norms(canonical(network), component_edges(network.config))
        return _blind(self.name, network, prompts, metric, intervention, value, "norm")


def composed_norms(subject: Subject, edges: ComponentEdges) -> Float[Tensor, " edge"]:
    """‖write · read‖ of each edge, for the weights as they stand."""
    weights = subject.weights

    def write(source: Component) -> Tensor:
        match source.kind:
            case "token_embedding":
                return weights["embed.W_E"]
            case "position_embedding":
                return weights["pos_embed.W_pos"]
            case "head":
                return weights[f"blocks.{source.layer}.attn.W_O"][source.head]
        return weights[f"blocks.{source.layer}.mlp.W_out"]

    def read(reader: Component, channel: str) -> Tensor:
        match channel:
            case "q" | "k" | "v":
                return weights[f"blocks.{reader.layer}.attn.W_{channel.upper()}"][reader.head]
            case "in":
                return weights[f"blocks.{reader.layer}.mlp.W_in"]
        return weights["unembed.W_U"]

    # ‖A B‖² is the inner product of AᵀA and BBᵀ: one small square matrix for each end.
    grams = torch.stack([w.T @ w for w in map(write, edges.sources)])
    readers = [read(d.component, d.channel) for d in edges.destinations]
    squares = torch.einsum("smn,dmn->ds", grams, torch.stack([w @ w.T for w in readers]))
    place = {destination: i for i, destination in enumerate(edges.destinations)}
    index = [place[edge.destination] for edge in edges.edges]
    return squares[index, list(edges.source_node)].clamp_min(0).sqrt()


def _blind(
    name: str,
    network: Network,
    prompts: Prompts,
    metric: Metric,
    intervention: Intervention,
    value: Tensor,
    quantity: str,
) -> EdgeScores:
    """Scores without standard errors; the base metric is measured for tables only."""
    run = edge_run(network, prompts, intervention)
    value = value.to(run.logits)
    return EdgeScores(
        edges=run.edges,
        method=name,
        metric=metric,
        intervention=intervention,
        value=value,
        se=torch.full_like(value, torch.nan),
        base=float(run.measure(metric)(run.logits).mean()),
        forwards=0.0,
        quantity=quantity,
    )
