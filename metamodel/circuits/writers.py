"""What nodes of any grain write to the residual stream, in a run and when they are patched.

Subjects write as they are folded: there a head's value bias lies in `b_O`, which no node owns, and the mean
position in the token embedding. Bridges that run through hooks write by their raw weights, constants and all,
and only what patching changes of it compares. Nodes are linear in what is patched (sources, activations of
neurons, coefficients that encoders answer), so that parts of a component sum to it in both runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.circuits.base_run import Intervention, check_intervention
from metamodel.circuits.directions import Dictionary, Direction, Feature, Rest, projection, readable
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.network import Network, edge_run, network_of
from metamodel.circuits.nodes import MLPBias, Neuron, Node, check_nodes, component_of
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import require
from metamodel.subjects.config import Component


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeOutputs:
    """What nodes write in a run of the folded subject, and what they write when patched."""

    nodes: tuple[Node, ...]
    outputs: Float[Tensor, "node batch pos d_model"]
    patch: Float[Tensor, "node batch pos d_model"]


@torch.no_grad()
def node_outputs(
    network: Network | nn.Module, prompts: Prompts, nodes: Sequence[Node], intervention: str = "noising"
) -> NodeOutputs:
    """What each node writes in the base run and when patched (`metamodel.circuits.base_run`).

    Raises: InputError if prompts or nodes do not fit the network, or the network is post-norm.
    """
    whole = network_of(network)
    check_nodes(whole, nodes)
    writers = Writers.of(edge_run(whole, prompts, check_intervention(intervention)), nodes)
    outputs = writers.outputs(nodes)
    return NodeOutputs(nodes=tuple(nodes), outputs=outputs, patch=outputs + writers.delta(nodes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Signals:
    """What is cut into nodes, linearly: what components write, or by how much patching changes that."""

    sources: Float[Tensor, "source batch pos d_model"]
    posts: Mapping[int, Float[Tensor, "batch pos d_mlp"]]
    """Layer -> activations of neurons."""
    codes: Mapping[Dictionary, Float[Tensor, "batch pos direction"]]
    """Dictionary -> coefficients, of those that have an encoder."""
    constant: float
    """Coefficient of biases."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Writers:
    """A run, ready to say what any of some nodes writes in it, and what patching changes of that."""

    run: EdgeRun
    base: _Signals
    change: _Signals

    @classmethod
    def of(cls, run: EdgeRun, nodes: Sequence[Node]) -> "Writers":
        """Nodes are known to fit the run's network."""

        def pair(here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
            """In the base run, and by how much it changes."""
            return here, patched_values(here, there, run.intervention) - here

        layers = sorted({node.layer for node in nodes if isinstance(node, Neuron)})
        posts = {layer: pair(*run.activations(layer)) for layer in layers}
        coded = [d for d in map(_dictionary_of, nodes) if d is not None and d.encoder is not None]
        codes = {
            d: pair(*(_encode(d, written) for written in run.written(d.component)))
            for d in dict.fromkeys(coded)
        }
        signals = [
            _Signals(
                sources=sources,
                posts={layer: both[i] for layer, both in posts.items()},
                codes={dictionary: both[i] for dictionary, both in codes.items()},
                constant=constant,
            )
            for i, (sources, constant) in enumerate(
                [(run.outputs, 1.0), (run.delta, -1.0 if run.intervention == "zero" else 0.0)]
            )
        ]
        return cls(run=run, base=signals[0], change=signals[1])

    def outputs(self, nodes: Sequence[Node]) -> Float[Tensor, "node batch pos d_model"]:
        """What nodes write in the base run."""
        return torch.stack([self._written(self.base, node) for node in nodes])

    def delta(self, nodes: Sequence[Node]) -> Float[Tensor, "node batch pos d_model"]:
        """What patching changes of that; exactly zero where a node writes the same when patched."""
        return torch.stack([self._written(self.change, node) for node in nodes])

    def _written(self, signals: _Signals, node: Node) -> Float[Tensor, "batch pos d_model"]:
        config = self.run.config
        whole = signals.sources[self.run.edges.sources.index(component_of(node))]
        match node:
            case Component():
                return whole
            case Neuron():
                W_out, _ = self.run.neurons(node.layer)
                return signals.posts[node.layer][..., node.index, None] * W_out[node.index]
            case MLPBias():
                _, b_out = self.run.neurons(node.layer)
                return (signals.constant * b_out).expand_as(whole)
            case Direction():
                return _projected(whole, projection((node,), config, node.name))
            case Feature(dictionary=dictionary):
                vectors = readable(dictionary.vectors, config, node.name).to(whole.dtype)
                return self._codes(signals, dictionary, whole)[..., node.index, None] * vectors[node.index]
            case Rest(of=of):
                if not isinstance(of, Dictionary):
                    return whole - _projected(whole, projection(of, config, node.name))
                vectors = readable(of.vectors, config, node.name).to(whole.dtype)
                return whole - self._codes(signals, of, whole) @ vectors

    def _codes(self, signals: _Signals, dictionary: Dictionary, whole: Tensor) -> Tensor:
        if dictionary.encoder is not None:
            return signals.codes[dictionary]
        vectors = readable(dictionary.vectors, self.run.config, "dictionary").double()
        return whole @ torch.linalg.pinv(vectors).to(whole.dtype)


def _projected(x: Float[Tensor, "*rest d_model"], basis: Float[Tensor, "rank d_model"]) -> Tensor:
    basis = basis.to(x.dtype)
    return x @ basis.T @ basis


def patched_values(here: Tensor, there: Tensor, intervention: Intervention) -> Tensor:
    """What activations or coefficients are when patched; the mean of equal numbers is exactly that number."""
    match intervention:
        case "zero":
            return torch.zeros_like(here)
        case "mean":
            return torch.where((here == here[:1]).all(0), here[0], here.mean(0)).expand_as(here)
    return there


def _dictionary_of(node: Node) -> Dictionary | None:
    match node:
        case Feature(dictionary=dictionary) | Rest(of=Dictionary() as dictionary):
            return dictionary
    return None


def _encode(dictionary: Dictionary, written: Tensor) -> Float[Tensor, "batch pos direction"]:
    assert dictionary.encoder is not None
    codes = dictionary.encoder(written)
    expected = (*written.shape[:-1], len(dictionary))
    require(
        tuple(codes.shape) == expected,
        "dictionary.encoder",
        expected=f"coefficients of shape {expected}",
        got=tuple(codes.shape),
        do="Give one coefficient for each vector.",
    )
    return codes.to(written.dtype)
