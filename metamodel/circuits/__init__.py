"""Causal structure of a subject."""

from metamodel.circuits.ablation import ablation_effects
from metamodel.circuits.acdc import ACDC
from metamodel.circuits.attribution import EAP, EAPIG
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.baselines import RandomScores, WeightNorm
from metamodel.circuits.bridge import bridge_scores
from metamodel.circuits.circuit import Circuit, discover
from metamodel.circuits.exact import Exact, MarginAndKL, edge_scores
from metamodel.circuits.faithfulness import CircuitRunner, Curve
from metamodel.circuits.graph import ComponentEdges, Destination, Edge, component_edges
from metamodel.circuits.methods import METHODS, score
from metamodel.circuits.metrics import Metric, accuracy, kl, margin
from metamodel.circuits.prompt_file import read_prompts, write_prompts
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.circuits.subsets import RandomSubsets

__all__ = [
    "ACDC",
    "EAP",
    "EAPIG",
    "METHODS",
    "Circuit",
    "CircuitRunner",
    "ComponentEdges",
    "Curve",
    "Destination",
    "Edge",
    "EdgeMethod",
    "EdgeScores",
    "Exact",
    "Intervention",
    "MarginAndKL",
    "Metric",
    "Prompts",
    "RandomScores",
    "RandomSubsets",
    "WeightNorm",
    "ablation_effects",
    "accuracy",
    "bridge_scores",
    "component_edges",
    "discover",
    "edge_scores",
    "kl",
    "margin",
    "read_prompts",
    "score",
    "write_prompts",
]
