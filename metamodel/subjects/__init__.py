"""What is read, edited or matched: shapes, weights, the functional forward and its symmetries."""

from metamodel.subjects.config import Component, SubjectConfig, components, depth_fraction, weight_shapes
from metamodel.subjects.forward import Run, Weights, forward
from metamodel.subjects.subject import Subject, initial_weights, stack, unstack

__all__ = [
    "Component",
    "Run",
    "Subject",
    "SubjectConfig",
    "Weights",
    "components",
    "depth_fraction",
    "forward",
    "initial_weights",
    "stack",
    "unstack",
    "weight_shapes",
]
