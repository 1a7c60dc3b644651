"""A subject as a graph of single neurons: which weights are its edges, and what its nodes start with.

Nodes are residual coordinates, units of each head (those that match queries to keys, those that carry
values), MLP neurons, tokens and positions. Residual coordinates are shared by all layers. A token is one
node, read through `W_E` and written through `W_U`; of a large vocabulary the first `MAX_TOKENS` are taken.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.baselines.raw_weights import raw_weights
from metamodel.features.examples import Seen

MAX_TOKENS = 64
RELATIONS = {
    "W_Q": "match",
    "W_K": "match",
    "W_V": "carry",
    "W_O": "carry",
    "W_in": "neuron",
    "W_out": "neuron",
    "W_E": "token",
    "W_U": "token",
    "W_pos": "position",
}
"""Between residual coordinates and which set of nodes each matrix stands."""
SETS = ("coordinate", "match", "carry", "neuron", "token", "position")
N_START = 3 + len(RELATIONS)
"""A node starts with its bias, its depth or position, whether it is the first position, and for each relation
the log of the root mean square of its own weights, relative to the whole matrix."""
SIZES, START = "sizes", "start."
"""Names of the log sizes of all matrices, and before the names of sets."""
_COORDINATE_AXIS = {
    "W_Q": 2,
    "W_K": 2,
    "W_V": 2,
    "W_O": 3,
    "W_in": 1,
    "W_out": 2,
    "W_E": 1,
    "W_U": 0,
    "W_pos": 1,
}
_TINY = 1e-9


def neuron_inputs(seen: Seen) -> dict[str, Tensor]:
    """Every relation as `[d_model, item]` over its root mean square; `sizes`; `start.SET` of every set.

    The items of heads and MLPs are ordered by layer, then by head.
    """
    weights = raw_weights(seen)
    weights |= {"W_E": weights["W_E"][:MAX_TOKENS], "W_U": weights["W_U"][:, :MAX_TOKENS]}
    edges, sizes = {}, weights["W_E"].new_zeros(len(RELATIONS))
    for at, name in enumerate(RELATIONS):
        if name in weights:
            matrix = weights[name].movedim(_COORDINATE_AXIS[name], 0).flatten(1)
            size = matrix.square().mean().sqrt().clamp_min(_TINY)
            edges[name], sizes[at] = matrix / size, size.log()
    starts = {
        name: torch.cat([own, _weight_sizes(name, edges, len(own))], dim=-1)
        for name, own in _biases(weights).items()
    }
    return {**edges, SIZES: sizes, **{START + name: value for name, value in starts.items()}}


def _biases(weights: dict[str, Tensor]) -> dict[str, Float[Tensor, "item out"]]:
    """Bias, place and whether first, of the nodes of every set that the subject has."""
    n_layers, n_heads, _, d_head = weights["W_Q"].shape
    n_pos, none = len(weights["W_pos"]), weights["b_U"].new_zeros
    head_depth = _depth(n_layers, n_heads * d_head).to(weights["b_Q"])
    constant = weights["b_O"].sum(0)
    at, first = torch.arange(n_pos).to(constant), none(n_pos)
    first[0] = 1.0
    found = {
        "coordinate": (constant, none(len(constant)), none(len(constant))),
        "match": (weights["b_Q"].flatten(), head_depth, none(len(head_depth))),
        "carry": (none(len(head_depth)), head_depth, none(len(head_depth))),
        "token": (weights["b_U"][:MAX_TOKENS] - weights["b_U"].mean(), *[none(len(weights["W_E"]))] * 2),
        "position": (none(n_pos), at / n_pos, first),
    }
    if "b_in" in weights:
        bias = weights["b_in"]
        found["coordinate"] = (constant + weights["b_out"].sum(0), *found["coordinate"][1:])
        found["neuron"] = (bias.flatten(), _depth(*bias.shape).to(bias), none(bias.numel()))
    return {name: torch.stack(columns, dim=-1) for name, columns in found.items()}


def _depth(n_layers: int, n_items: int) -> Float[Tensor, " item"]:
    return ((torch.arange(n_layers) + 0.5) / n_layers).repeat_interleave(n_items)


def _weight_sizes(name: str, edges: dict[str, Tensor], n_items: int) -> Float[Tensor, "item out"]:
    """Log root mean square of the weights of each node, relation by relation; zero where it has none."""
    found = edges["W_E"].new_zeros(n_items, len(RELATIONS))
    for at, (relation, other) in enumerate(RELATIONS.items()):
        if relation in edges and name in (other, "coordinate"):
            axis = 1 if name == "coordinate" else 0
            found[:, at] = edges[relation].square().mean(axis).clamp_min(_TINY).log() / 2
    return found
