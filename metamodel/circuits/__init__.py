"""Causal structure of a subject."""

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.exact import Exact, MarginAndKL, edge_scores
from metamodel.circuits.graph import ComponentEdges, Destination, Edge, component_edges
from metamodel.circuits.metrics import Metric, accuracy, kl, margin
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores

__all__ = [
    "ComponentEdges",
    "Destination",
    "Edge",
    "EdgeMethod",
    "EdgeScores",
    "Exact",
    "Intervention",
    "MarginAndKL",
    "Metric",
    "Prompts",
    "ablation_effects",
    "accuracy",
    "component_edges",
    "edge_scores",
    "kl",
    "margin",
]
