"""Finds a named pattern in a subject: its exact circuit on prompts, then roles and required edges in it.

found = find_pattern("induction", subject, prompts)
found.present, found.embeddings, found.missing_edge
"""

from metamodel.analogy.graph import CircuitGraph, circuit_graph
from metamodel.analogy.patterns import Found, Pattern, find, pattern_named
from metamodel.circuits.base_run import Intervention
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.prompts import Prompts
from metamodel.features.graph import graph_of
from metamodel.subjects.subject import Subject
from metamodel.subjects.threads import one_thread

INTERVENTION: Intervention = "zero"
"""What patched edges carry. Zeros, as an edge that carries the same on clean and corrupt prompts has no
effect under noising, though the mechanism needs it. Levels of patterns were chosen on these scores."""


def pattern_graph(
    subject: Subject, prompts: Prompts, *, intervention: Intervention = INTERVENTION
) -> CircuitGraph:
    """All components of a subject with the exact scores of all edges, and the features that patterns ask for.

    Raises: InputError if the prompts do not fit the subject, or it cannot be run.
    """
    scores = edge_scores(subject, prompts, intervention)
    features = graph_of(subject, "weights").nodes
    return circuit_graph(subject.config, scores.margin, features, least_share=0.0)[0]


def find_pattern(
    pattern: Pattern | str, subject: Subject, prompts: Prompts, *, intervention: Intervention = INTERVENTION
) -> Found:
    """Whether a pattern is in a subject, which components play its roles, and which edge is missing if not.

    Args:
        pattern: a name of `metamodel.analogy.patterns.PATTERNS`, or one of your own.
        prompts: on which the circuit is measured; what they do not exercise is not found.

    Raises: InputError for an unknown name, or prompts that do not fit the subject.
    """
    known = pattern_named(pattern) if isinstance(pattern, str) else pattern
    with one_thread():
        return find(known, pattern_graph(subject, prompts, intervention=intervention))
