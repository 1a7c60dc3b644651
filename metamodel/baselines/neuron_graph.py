"""The baseline `neuron_graph`: messages between single neurons, along single weights.

After Kofinas et al. 2024, "Graph neural networks for learning equivariant representations of neural
networks". An edge is one weight, and carries it signed, as its size and squared; every relation (what reads
or writes through `W_Q`, `W_in`, ...) has its own functions of it, in both directions, and messages along a
matrix are products with it. What is said of a component does not depend on the order of coordinates, units,
neurons or tokens, and heads of a layer have no names. A rotation of the residual stream, or of the inside of
a head, does change it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.neurons import N_START, RELATIONS, SETS, SIZES, START, neuron_inputs
from metamodel.baselines.node_order import by_node
from metamodel.baselines.trained import Inputs, Setting, TrainedPredictor
from metamodel.subjects.config import SubjectConfig

ROUNDS = 2
"""After the sizes of its own weights, with which every node starts."""
MESSAGE = 12
"""Width of what each of the three channels of an edge carries."""
N_CHANNELS = 3
_TINY = 1e-9


class Round(nn.Module):
    """Messages along every weight both ways, and among the units of each head and layer in mean."""

    def __init__(self, width: int):
        super().__init__()
        inner = N_CHANNELS * MESSAGE
        names = [f"{way}_{name}" for name in RELATIONS for way in ("to", "from")]
        self.say = nn.ModuleDict({name: nn.Linear(width, inner) for name in names})
        self.hear = nn.ModuleDict({name: nn.Linear(inner, width, bias=False) for name in names})
        self.head = nn.Linear(2 * width, 2 * width)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(2 * width) for name in SETS})
        self.updates = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
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
        self.rounds = nn.ModuleList(Round(width) for _ in range(ROUNDS))
        self.head = nn.Linear(4 * width, width)
        names = ("neuron", "token", "position", "coordinate", "answer")
        self.pool = nn.ModuleDict({name: nn.Linear(2 * width, width) for name in names})

    def forward(self, config: SubjectConfig, inputs: Inputs) -> Float[Tensor, "subject node width"]:
        edges = {n: (_channels(inputs[n].mT), _channels(inputs[n])) for n in RELATIONS if n in inputs}
        nodes = {
            name: self.start[name](inputs[START + name]) + self.sizes[name](inputs[SIZES]).unsqueeze(1)
            for name in SETS
            if START + name in inputs
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
    return torch.cat([x.mean(-2), x.square().mean(-2).clamp_min(_TINY).sqrt()], dim=-1)


SETTINGS = (
    Setting(lr=2e-3, width=32, dropout=0.1, epochs=36),
    Setting(lr=4e-3, width=32, dropout=0.1, epochs=36),
)


def neuron_graph() -> TrainedPredictor:
    return TrainedPredictor("neuron_graph", describe=neuron_inputs, encoder=NeuronGraph, settings=SETTINGS)
