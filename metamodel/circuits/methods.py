"""Every circuit method by name, with the settings that tables use."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from metamodel.circuits.acdc import ACDC
from metamodel.circuits.attribution import EAP, EAPIG
from metamodel.circuits.baselines import RandomScores, WeightNorm
from metamodel.circuits.exact import Exact
from metamodel.circuits.network import Network
from metamodel.circuits.prompts import Prompts
from metamodel.circuits.scores import EdgeMethod, EdgeScores
from metamodel.circuits.subsets import RandomSubsets
from metamodel.config.errors import require_one_of

_ALL: tuple[EdgeMethod, ...] = (
    Exact(),
    EAP(),
    EAPIG(),
    EAPIG(over="activations"),
    ACDC(),
    RandomSubsets(),
    WeightNorm(),
    RandomScores(),
)
METHODS: Mapping[str, EdgeMethod] = MappingProxyType({method.name: method for method in _ALL})
"""Name in tables -> the method with default settings."""


def method_named(name: str) -> EdgeMethod:
    """A method with default settings. Raises: InputError for an unknown name."""
    require_one_of(name, METHODS, "method")
    return METHODS[name]


def score(
    network: Network | nn.Module,
    prompts: Prompts,
    metric: str = "margin",
    intervention: str = "noising",
    *,
    method: EdgeMethod | str = "exact",
) -> EdgeScores:
    """Scores of every edge of `component_edges(network.config)`.

    Args:
        network: a subject, or a TransformerBridge whose blocks are pre-norm.
        method: a name from `METHODS`, or a method with settings of its own, such as `EAPIG(steps=20)`.

    Raises: InputError for an unknown name, and as `EdgeMethod.score`.
    """
    chosen = method_named(method) if isinstance(method, str) else method
    return chosen.score(network, prompts, metric, intervention)
