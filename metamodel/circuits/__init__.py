"""Causal structure of a subject."""

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.ddmin import ddmin
from metamodel.circuits.exact import Exact, MarginAndKL, edge_scores
from metamodel.circuits.graph import ComponentEdges, Destination, Edge, component_edges
from metamodel.circuits.interactions import Interactions, interactions
from metamodel.circuits.item_order import correlated_order, neuron_activations
from metamodel.circuits.metrics import Metric, accuracy, kl, margin
from metamodel.circuits.minimal_sets import MinimalSets, minimal_sets
from metamodel.circuits.oracles import Neuron, component_oracle, edge_oracle, neuron_oracle, neurons
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.roles import Backup, Formula, Roles, roles
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.circuits.search import Found, GroupTest, group_search
from metamodel.circuits.sets import Gap, SetOracle

__all__ = [
    "Backup",
    "ComponentEdges",
    "Destination",
    "Edge",
    "EdgeMethod",
    "EdgeScores",
    "Exact",
    "Formula",
    "Found",
    "Gap",
    "GroupTest",
    "Interactions",
    "Intervention",
    "MarginAndKL",
    "Metric",
    "MinimalSets",
    "Neuron",
    "Prompts",
    "Roles",
    "SetOracle",
    "ablation_effects",
    "accuracy",
    "component_edges",
    "component_oracle",
    "correlated_order",
    "ddmin",
    "edge_oracle",
    "edge_scores",
    "group_search",
    "interactions",
    "kl",
    "margin",
    "minimal_sets",
    "neuron_activations",
    "neuron_oracle",
    "neurons",
    "roles",
]
