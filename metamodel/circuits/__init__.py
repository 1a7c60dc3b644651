"""Causal structure of a subject."""

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.exact import EdgeScores, edge_scores
from metamodel.circuits.graph import ComponentEdges, Destination, Edge, component_edges
from metamodel.circuits.metrics import accuracy, kl, margin
from metamodel.circuits.prompts import Prompts

__all__ = [
    "ComponentEdges",
    "Destination",
    "Edge",
    "EdgeScores",
    "Prompts",
    "ablation_effects",
    "accuracy",
    "component_edges",
    "edge_scores",
    "kl",
    "margin",
]
