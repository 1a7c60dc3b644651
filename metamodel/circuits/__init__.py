"""Causal structure of a subject."""

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.directions import (
    Dictionary,
    Direction,
    Feature,
    Rest,
    direction,
    principal_directions,
    singular_directions,
)
from metamodel.circuits.exact import Exact, MarginAndKL, edge_scores
from metamodel.circuits.graph import ComponentEdges, Destination, Edge, component_edges
from metamodel.circuits.metrics import Metric, accuracy, kl, margin
from metamodel.circuits.node_effects import NodeScores, node_scores
from metamodel.circuits.nodes import MLPBias, Neuron, Node, mlp_parts
from metamodel.circuits.paths import NodeEdgeScores, PathScore, node_edge_scores, path_patch
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.circuits.span_effects import SpanScores, refine, span_scores
from metamodel.circuits.spans import Spans, spans_at, spans_per_position
from metamodel.circuits.writers import NodeOutputs, node_outputs

__all__ = [
    "ComponentEdges",
    "Destination",
    "Dictionary",
    "Direction",
    "Edge",
    "EdgeMethod",
    "EdgeScores",
    "Exact",
    "Feature",
    "Intervention",
    "MLPBias",
    "MarginAndKL",
    "Metric",
    "Neuron",
    "Node",
    "NodeEdgeScores",
    "NodeOutputs",
    "NodeScores",
    "PathScore",
    "Prompts",
    "Rest",
    "SpanScores",
    "Spans",
    "ablation_effects",
    "accuracy",
    "component_edges",
    "direction",
    "edge_scores",
    "kl",
    "margin",
    "mlp_parts",
    "node_edge_scores",
    "node_outputs",
    "node_scores",
    "path_patch",
    "principal_directions",
    "refine",
    "singular_directions",
    "span_scores",
    "spans_at",
    "spans_per_position",
]
