"""The baseline `neuron_graph`: messages between single neurons, along single weights.

After Kofinas et al. 2024, "Graph neural networks for learning equivariant representations of neural
networks". Nodes are residual coordinates, units of each head (those that match queries to keys, those that carry values),
MLP neurons, tokens and positions; an edge is one weight, and carries it signed, as its size and squared. An
answer does not depend on the order of coordinates, units, neurons, heads or tokens: those of a layer have no
names. A rotation of the residual stream, or of the inside of a head, does change it.

Every relation (what reads or writes through `W_Q`, `W_in`, ...) has its own weights, in both directions;
messages along a matrix are products with it. Residual coordinates are shared by all layers, whose depth their
units tell. A token is one node, read through `W_E` and written through `W_U`; of a large vocabulary the first
`MAX_TOKENS` are taken.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.node_order import by_node
from metamodel.baselines.raw_weights import raw_weights
from metamodel.baselines.trained import Inputs, Setting, TrainedPredictor
from metamodel.features.examples import Seen
from metamodel.subjects.config import SubjectConfig

MAX_TOKENS = 64
ROUNDS = 3
MESSAGE = 12
"""Width of what each of the three channels of an edge carries."""
N_CHANNELS = 3
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
"""Between residual coordinates and which nodes each matrix stands."""
SETS = ("coordinate", "match", "carry", "neuron", "token", "position")
N_START = 3
"""Numbers that a node starts with: its bias, its depth or position, and whether it is the first position."""
TINY = 1e-9


def neuron_inputs(seen: Seen) -> Inputs:
    """Every relation as `[d_model, item]`, relative to its root mean square; what nodes start with."""
    weights = raw_weights(seen)
    weights |= {"W_E": weights["W_E"][:MAX_TOKENS], "W_U": weights["W_U"][:, :MAX_TOKENS]}
    found, sizes = {}, []
    for name in RELATIONS:
        if name not in weights:
            continue
        matrix = _by_coordinate(name, weights[name])
        size = matrix.square().mean().sqrt().clamp_min(TINY)
        found[name] = matrix / size
        sizes.append(size.log())
    shape = weights["W_Q"].shape  # layer head d_model d_head
    starts = {
        "coordinate": _start(weights["b_O"].sum(0) + weights.get("b_out", weights["b_O"]).sum(0)),
        "match": _start(weights["b_Q"].flatten(), _depth(shape[0], shape[1] * shape[3], weights["b_Q"])),
        "token": _start(weights["b_U"][:MAX_TOKENS] - weights["b_U"].mean()),
    }
    starts["carry"] = _start(torch.zeros_like(starts["match"][:, 0]), starts["match"][:, 1])
    if "b_in" in weights:
        bias = weights["b_in"]
        starts["neuron"] = _start(bias.flatten(), _depth(*bias.shape, bias))
    at = torch.arange(weights["W_pos"].shape[0], device=weights["W_pos"].device)
    starts["position"] = _start(torch.zeros_like(at).float(), at / len(at))
    starts["position"][0, 2] = 1.0
    return found | {f"start.{name}": value for name, value in starts.items()} | {"sizes": torch.stack(sizes)}


def _by_coordinate(name: str, weight: Tensor) -> Float[Tensor, "d_model item"]:
    match name:
        case "W_Q" | "W_K" | "W_V":
            return weight.movedim(2, 0).flatten(1)
        case "W_O" | "W_in" | "W_out":
            return weight.movedim(3 if name == "W_O" else 1 if name == "W_in" else 2, 0).flatten(1)
        case "W_U":
            return weight
        case _:
            return weight.T


def _depth(n_layers: int, n_items: int, like: Tensor) -> Float[Tensor, " item"]:
    layers = (torch.arange(n_layers, device=like.device) + 0.5) / n_layers
    return layers.repeat_interleave(n_items)


def _start(bias: Float[Tensor, " item"], place: Tensor | None = None) -> Float[Tensor, "item out"]:
    place = torch.zeros_like(bias) if place is None else place.to(bias)
    return torch.stack([bias, place, torch.zeros_like(bias)], dim=-1)


class Round(nn.Module):
    """Messages along every weight both ways, and among the units of each head and layer in mean."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        inner = N_CHANNELS * MESSAGE
        names = [f"{way}_{name}" for name in RELATIONS for way in ("to", "from")]
        self.say = nn.ModuleDict({name: nn.Linear(width, inner) for name in names})
        self.hear = nn.ModuleDict({name: nn.Linear(inner, width, bias=False) for name in names})
        self.head = nn.Linear(2 * width, 2 * width)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(2 * width) for name in SETS})
        self.updates = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
                )
                for name in SETS
            }
        )

    def forward(
        self, nodes: dict[str, Tensor], edges: dict[str, tuple[Tensor, Tensor]], config: SubjectConfig
    ) -> dict[str, Tensor]:
        heard = {name: torch.zeros_like(x) for name, x in nodes.items()}
        for name, other in RELATIONS.items():
            if name in edges:
                to, back = edges[name]
                said = self._along(f"from_{name}", nodes[other], back)
                heard[other] = heard[other] + self._along(f"to_{name}", nodes["coordinate"], to)
                heard["coordinate"] = heard["coordinate"] + said
        units = torch.cat([nodes["match"], nodes["carry"]], dim=-1)
        of_head = units.unflatten(1, (config.n_layers * config.n_heads, -1)).mean(2)
        told = self.head(of_head).repeat_interleave(config.d_head, dim=1)
        for name, part in zip(("match", "carry"), told.chunk(2, dim=-1), strict=True):
            heard[name] = heard[name] + part
        updates = {n: self.updates[n](self.norms[n](torch.cat([nodes[n], heard[n]], dim=-1))) for n in nodes}
        return {name: x + updates[name] for name, x in nodes.items()}

    def _along(
        self,
        name: str,
        x: Float[Tensor, "subject item width"],
        edges: Float[Tensor, "channel subject row item"],
    ) -> Float[Tensor, "subject row width"]:
        """Sums over items of what they say, through the weight, its size and its square."""
        said = self.say[name](x).unflatten(-1, (N_CHANNELS, MESSAGE)).permute(2, 0, 1, 3)
        return self.hear[name]((edges @ said).permute(1, 2, 0, 3).flatten(2))


def _channels(weight: Float[Tensor, "subject row item"]) -> Float[Tensor, "channel subject row item"]:
    """What an edge function sees of each weight; sums over items keep their size at any number of them."""
    n = weight.shape[-1]
    return torch.stack([weight / n**0.5, weight.abs() / n, weight.square() / n])


class NeuronGraph(nn.Module):
    """Rounds of messages, then every component's own neurons pooled."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.start = nn.ModuleDict({name: nn.Linear(N_START, width) for name in SETS})
        self.sizes = nn.ModuleDict({name: nn.Linear(len(RELATIONS), width) for name in SETS})
        self.rounds = nn.ModuleList(Round(width, dropout) for _ in range(ROUNDS))
        self.head = nn.Linear(4 * width, width)
        names = ("neuron", "token", "position", "coordinate", "answer")
        self.pool = nn.ModuleDict({name: nn.Linear(2 * width, width) for name in names})

    def forward(self, config: SubjectConfig, inputs: Inputs) -> Float[Tensor, "subject node width"]:
        edges = {n: (_channels(inputs[n].mT), _channels(inputs[n])) for n in RELATIONS if n in inputs}
        sizes = inputs["sizes"]
        known = torch.tensor([name in edges for name in RELATIONS], device=sizes.device)
        sizes = sizes.new_zeros(len(sizes), len(RELATIONS)).masked_scatter(known, sizes)
        nodes = {
            name: self.start[name](inputs[f"start.{name}"]) + self.sizes[name](sizes).unsqueeze(1)
            for name in SETS
            if f"start.{name}" in inputs
        }
        for step in self.rounds:
            nodes = step(nodes, edges, config)
        match, carry = (
            _pooled(nodes[name].unflatten(1, (config.n_layers, config.n_heads, config.d_head)))
            for name in ("match", "carry")
        )
        whole = {name: _pooled(nodes[name]) for name in ("token", "position", "coordinate")}
        mlps = None
        if config.has_mlp:
            mlps = self.pool["neuron"](_pooled(nodes["neuron"].unflatten(1, (config.n_layers, config.d_mlp))))
        return by_node(
            tokens=self.pool["token"](whole["token"]),
            positions=self.pool["position"](whole["position"]),
            heads=self.head(torch.cat([match, carry], dim=-1)),
            mlps=mlps,
            unembedding=self.pool["answer"](whole["token"]) + self.pool["coordinate"](whole["coordinate"]),
        )


def _pooled(x: Float[Tensor, "*rest item width"]) -> Float[Tensor, "*rest out"]:
    """Mean and root mean square over neurons."""
    return torch.cat([x.mean(-2), x.square().mean(-2).clamp_min(TINY).sqrt()], dim=-1)


SETTINGS = (
    Setting(lr=2e-3, width=32, dropout=0.1, epochs=30),
    Setting(lr=4e-3, width=32, dropout=0.1, epochs=30),
)


def neuron_graph() -> TrainedPredictor:
    return TrainedPredictor("neuron_graph", describe=neuron_inputs, encoder=NeuronGraph, settings=SETTINGS)
