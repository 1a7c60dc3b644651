"""Draws a circuit: inputs at the bottom, logits at the top, heads with their three inputs in between."""

from typing import TYPE_CHECKING

from metamodel.subjects.config import Component

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metamodel.circuits.circuit import Circuit

HELPS, HURTS, UNSIGNED = "#2166ac", "#b2182b", "#606060"
KIND_COLORS = {
    "token_embedding": "#e0e0e0",
    "position_embedding": "#e0e0e0",
    "head": "#fde9c9",
    "mlp": "#d5ead5",
    "unembedding": "#e0e0e0",
}
SHORT = {"token_embedding": "tokens", "position_embedding": "positions", "unembedding": "logits"}
WIDTH, HEIGHT = 0.8, 0.42
PORTS = {"q": -0.28, "k": 0.0, "v": 0.28}
"""Where the inputs of a head sit, left to right."""


def draw(circuit: "Circuit") -> "Figure":
    """A figure of all components (those outside the circuit pale) and of the circuit's edges.

    An edge's width is its share of the largest score; blue where it helps the answer, red where it hurts,
    grey where scores have no sign.
    """
    from matplotlib.figure import Figure

    scores = circuit.scores
    edges, config = scores.edges, scores.edges.config
    places = _places(edges.nodes, config.n_layers, config.has_mlp)
    columns = max(config.n_heads, 2)
    top = places[edges.nodes[-1]][1]
    figure = Figure(figsize=(1.6 * columns + 3.2, 1.05 * top + 2.2), layout="constrained")
    axes = figure.add_subplot()
    used = {node for edge in circuit.members for node in (edge.source, edge.destination.component)}
    largest = float(scores.size[circuit.kept].max()) if len(circuit) else 1.0
    # Helping edges have negative effects where patching removes them, but of the KL divergence.
    sign = (1 if scores.intervention == "denoising" else -1) * (-1 if scores.metric == "kl" else 1)
    for i in reversed(scores.ranking().tolist()):
        if circuit.kept[i]:
            edge, value = edges.edges[i], float(scores.value[i])
            signed = HELPS if sign * value > 0 else HURTS
            _arrow(axes, places, edge.source, edge.destination.component, edge.destination.channel,
                   color=signed if scores.signed else UNSIGNED, share=abs(value) / largest)  # fmt: skip
    for node, (x, y) in places.items():
        _box(axes, node, x, y, pale=node not in used)
    axes.set_xlim(-0.9, columns + (0.9 if config.has_mlp else -0.1))
    axes.set_ylim(-0.6, top + 0.6)
    axes.set_axis_off()
    axes.set_title(
        f"{circuit.subject}: {len(circuit)} of {len(edges)} edges recover {circuit.recovered:.0%} of the "
        f"{scores.metric.replace('_', ' ')}\n{scores.method.replace('_', ' ')}, {scores.intervention}; "
        f"{_legend(scores.signed)}q, k, v: inputs of a head",
        fontsize=9,
        loc="left",
    )
    return figure


def _legend(signed: bool) -> str:
    return "blue helps the answer, red hurts it; " if signed else "scores without a sign; "


def _places(
    nodes: tuple[Component, ...], n_layers: int, has_mlp: bool
) -> dict[Component, tuple[float, float]]:
    """x and y of each component: a row a layer of heads, MLPs at the right, half a row higher."""
    step = 2.0 if has_mlp else 1.4
    n_heads = max(node.head for node in nodes) + 1
    middle = (max(n_heads, 2) - 1) / 2
    places = {}
    for node in nodes:
        match node.kind:
            case "token_embedding":
                places[node] = (middle - 0.7, 0.0)
            case "position_embedding":
                places[node] = (middle + 0.7, 0.0)
            case "head":
                places[node] = (float(node.head), 1.3 + step * node.layer)
            case "mlp":
                places[node] = (float(max(n_heads, 2)), 2.2 + step * node.layer)
            case "unembedding":
                places[node] = (middle, 1.3 + step * n_layers)
    return places


def _box(axes: "Axes", node: Component, x: float, y: float, *, pale: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    alpha = 0.35 if pale else 1.0
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor=KIND_COLORS[node.kind],
            edgecolor="#404040",
            linewidth=0.8,
            alpha=alpha,
            zorder=3,
        )
    )
    raised = 0.06 if node.kind == "head" else 0.0
    axes.text(
        x,
        y + raised,
        SHORT.get(node.kind, node.name),
        ha="center",
        va="center",
        fontsize=8,
        alpha=alpha,
        zorder=4,
    )
    if node.kind == "head":
        for channel, shift in PORTS.items():
            axes.text(
                x + shift, y - 0.13, channel, ha="center", va="center", fontsize=5.5, color="#606060",
                alpha=alpha, zorder=4,
            )  # fmt: skip


def _arrow(
    axes: "Axes",
    places: dict[Component, tuple[float, float]],
    source: Component,
    destination: Component,
    channel: str,
    *,
    color: str,
    share: float,
) -> None:
    from matplotlib.patches import FancyArrowPatch

    (x0, y0), (x1, y1) = places[source], places[destination]
    start = (x0, y0 + HEIGHT / 2)
    end = (x1 + PORTS.get(channel, 0.0), y1 - HEIGHT / 2 - 0.03)
    bend = 0.12 if abs(x1 - x0) < 0.3 and y1 - y0 > 2.5 else 0.0
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.5 + 3.0 * share,
            color=color,
            alpha=0.35 + 0.6 * share,
            connectionstyle=f"arc3,rad={bend}",
            zorder=2,
            shrinkA=0,
            shrinkB=0,
        )
    )
