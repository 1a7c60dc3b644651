"""Nodes at every grain: what of a subject can be changed by itself.

    Component     an embedding, a head, an MLP
    Neuron        of an MLP: its activation times its row of W_out
    MLPBias       what an MLP writes whatever it reads: b_out
    Direction     the projection of what a component writes on a vector or a small subspace
    Feature       a vector of a dictionary, times its coefficient
    Rest          the error node: what is left of a component besides its directions or features

The parts of a component sum to it: an MLP is its neurons and its bias; a component is its features and their
rest, or orthogonal directions and their rest. What each writes is in `metamodel.circuits.writers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metamodel.circuits.directions import (
    Dictionary,
    Direction,
    Feature,
    Rest,
    check_writes,
    projection,
    readable,
)
from metamodel.circuits.network import Network
from metamodel.config.errors import require
from metamodel.subjects.config import Component, SubjectConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Neuron:
    """One neuron of an MLP."""

    layer: int
    index: int

    @property
    def component(self) -> Component:
        return Component(kind="mlp", layer=self.layer)

    @property
    def name(self) -> str:
        return f"{self.component.name}.{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPBias:
    """`b_out` of an MLP: it says the same on every prompt, so that only zero ablation sees it."""

    layer: int

    @property
    def component(self) -> Component:
        return Component(kind="mlp", layer=self.layer)

    @property
    def name(self) -> str:
        return f"{self.component.name}.bias"


Node = Component | Neuron | MLPBias | Direction | Feature | Rest


def component_of(node: Node) -> Component:
    """The component that a node is, or is part of."""
    return node if isinstance(node, Component) else node.component


def mlp_parts(config: SubjectConfig, layer: int) -> tuple[Neuron | MLPBias, ...]:
    """All neurons of an MLP, and its bias: they sum to what it writes.

    Raises: InputError for a layer without an MLP.
    """
    _check_mlp(config, layer, "layer")
    return (*(Neuron(layer=layer, index=i) for i in range(config.d_mlp)), MLPBias(layer=layer))


def check_nodes(subject: Network, nodes: Sequence[Node]) -> None:
    """Raises: InputError unless these are nodes of the network."""
    require(len(nodes) > 0, "nodes", expected="at least one node", got="none", do="Name nodes to patch.")
    for i, node in enumerate(nodes):
        where, config = f"nodes[{i}]", subject.config
        match node:
            case Component():
                check_writes(config, node, where, subject.name)
            case Neuron() | MLPBias():
                _check_mlp(config, node.layer, where)
                require(
                    isinstance(node, MLPBias) or 0 <= node.index < config.d_mlp,
                    where,
                    expected=f"a neuron from 0 to {config.d_mlp - 1}",
                    got=node.name,
                    do=f"MLPs of {subject.name} have {config.d_mlp} neurons.",
                )
            case Direction() | Feature() | Rest():
                check_writes(config, node.component, where, subject.name)
                _check_vectors(config, node, where)


def _check_mlp(config: SubjectConfig, layer: int, where: str) -> None:
    require(
        config.has_mlp,
        where,
        expected="heads or embeddings, since the subject has no MLP",
        got=f"MLP{layer}",
        do="Name some of those.",
    )
    last = config.n_layers - 1
    require(
        0 <= layer <= last, where, expected=f"a layer from 0 to {last}", got=layer, do="Name one of them."
    )


def _check_vectors(config: SubjectConfig, node: Direction | Feature | Rest, where: str) -> None:
    match node:
        case Direction():
            projection((node,), config, where)
        case Feature(dictionary=dictionary):
            readable(dictionary.vectors, config, where)
            last = len(dictionary) - 1
            require(
                0 <= node.index <= last,
                where,
                expected=f"a feature from 0 to {last}",
                got=node.index,
                do="Name one of them.",
            )
        case Rest(of=Dictionary() as dictionary):
            readable(dictionary.vectors, config, where)
        case Rest(of=tuple() as directions):
            projection(directions, config, where)
