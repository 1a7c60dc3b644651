"""Causal structure of a subject."""

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.acdc import ACDC
from metamodel.circuits.attribution import EAP, EAPIG
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.baselines import RandomScores, WeightNorm
from metamodel.circuits.circuit import Circuit, discover
from metamodel.circuits.ddmin import ddmin
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
from metamodel.circuits.faithfulness import CircuitRunner, Curve
from metamodel.circuits.graph import ComponentEdges, Destination, Edge, component_edges
from metamodel.circuits.interactions import Interactions, interactions
from metamodel.circuits.item_order import correlated_order, neuron_activations
from metamodel.circuits.methods import METHODS, score
from metamodel.circuits.metrics import Metric, accuracy, kl, margin
from metamodel.circuits.minimal_sets import MinimalSets, minimal_sets
from metamodel.circuits.node_effects import NodeScores, node_scores
from metamodel.circuits.nodes import MLPBias, Neuron, Node, mlp_parts
from metamodel.circuits.oracles import component_oracle, edge_oracle, neuron_oracle, neurons
from metamodel.circuits.paths import NodeEdgeScores, PathScore, node_edge_scores, path_patch
from metamodel.circuits.prompt_file import read_prompts, write_prompts
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.quality import Redundancy, damage, redundant, selectivity, stability
from metamodel.circuits.roles import Backup, Formula, Roles, roles
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.circuits.search import Found, GroupTest, group_search
from metamodel.circuits.sets import Gap, SetOracle
from metamodel.circuits.span_effects import SpanScores, refine, span_scores
from metamodel.circuits.spans import Spans, spans_at, spans_per_position
from metamodel.circuits.subsets import RandomSubsets
from metamodel.circuits.writers import NodeOutputs, node_outputs

__all__ = [
    "ACDC",
    "EAP",
    "EAPIG",
    "METHODS",
    "Backup",
    "Circuit",
    "CircuitRunner",
    "ComponentEdges",
    "Curve",
    "Destination",
    "Dictionary",
    "Direction",
    "Edge",
    "EdgeMethod",
    "EdgeScores",
    "Exact",
    "Feature",
    "Formula",
    "Found",
    "Gap",
    "GroupTest",
    "Interactions",
    "Intervention",
    "MLPBias",
    "MarginAndKL",
    "Metric",
    "MinimalSets",
    "Neuron",
    "Node",
    "NodeEdgeScores",
    "NodeOutputs",
    "NodeScores",
    "PathScore",
    "Prompts",
    "RandomScores",
    "RandomSubsets",
    "Redundancy",
    "Rest",
    "Roles",
    "SetOracle",
    "SpanScores",
    "Spans",
    "WeightNorm",
    "ablation_effects",
    "accuracy",
    "component_edges",
    "component_oracle",
    "correlated_order",
    "damage",
    "ddmin",
    "direction",
    "discover",
    "edge_oracle",
    "edge_scores",
    "group_search",
    "interactions",
    "kl",
    "margin",
    "minimal_sets",
    "mlp_parts",
    "neuron_activations",
    "neuron_oracle",
    "neurons",
    "node_edge_scores",
    "node_outputs",
    "node_scores",
    "path_patch",
    "principal_directions",
    "read_prompts",
    "redundant",
    "refine",
    "roles",
    "score",
    "selectivity",
    "singular_directions",
    "span_scores",
    "spans_at",
    "spans_per_position",
    "stability",
    "write_prompts",
]
