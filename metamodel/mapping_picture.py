"""Draws a mapping: two circuits side by side, depth upwards, one colour for what corresponds.

Where components were transplanted, a second picture below shows how the analogy holds as the map grows.
"""

from typing import TYPE_CHECKING

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import NONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metamodel.mapping import Mapping

ALONE, ANCHOR = "#d9d9d9", "#f3f3f3"
HELPS, HURTS = "#2166ac", "#b2182b"
FAINT = 0.03
"""Edges below this share of the circuit's norm are left out."""
APART = 1.35
"""Distance between the two circuits, in widths of one."""


def draw(mapping: "Mapping") -> "Figure":
    """Nodes of both circuits; edges inside each, blue where they help; thin lines between counterparts."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if mapping.transplants is None:
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.add_subplot()
    else:
        figure = Figure(figsize=(10, 8), layout="constrained")
        axes, below = figure.subplots(2, height_ratios=(3, 1))
        _growth(below, mapping, mapping.transplants)
    places = _places(mapping.first, 0.0), _places(mapping.second, APART)
    palette = colormaps["tab20"]
    pairs = mapping.match.pairs.tolist()
    order = {i: n for n, i in enumerate(i for i in range(len(pairs)) if not mapping.first.is_anchor[i])}
    colours: tuple[list[object], list[object]] = (
        [ANCHOR if mapping.first.is_anchor[i] else ALONE for i in range(len(mapping.first))],
        [ANCHOR if mapping.second.is_anchor[j] else ALONE for j in range(len(mapping.second))],
    )
    for i, j in enumerate(pairs):
        if j != NONE and i in order:
            colours[0][i] = colours[1][j] = palette(order[i] % 20)
            (x0, y0), (x1, y1) = places[0][i], places[1][j]
            sure = float(mapping.match.p[i, j])
            axes.plot([x0, x1], [y0, y1], color=palette(order[i] % 20), lw=0.8 + sure, alpha=0.5, zorder=1)
    for graph, where, colour in zip((mapping.first, mapping.second), places, colours, strict=True):
        _edges(axes, graph, where)
        for i, (x, y) in enumerate(where):
            axes.text(
                x,
                y,
                _short(graph.names[i]),
                ha="center",
                va="center",
                fontsize=8,
                zorder=4,
                bbox={
                    "boxstyle": "round,pad=0.25",
                    "facecolor": colour[i],
                    "edgecolor": "#404040",
                    "lw": 0.6,
                },
            )
    axes.set_xlim(-0.15, APART + 1.15)
    axes.set_ylim(-0.08, 1.1)
    axes.set_axis_off()
    n_left = len(mapping.unmatched_first), len(mapping.unmatched_second)
    axes.set_title(
        f"{len(mapping.pairs)} pairs; left over: {n_left[0]} here, {n_left[1]} there; edge-gain energy "
        f"{mapping.edge_share:.0%}\none colour for what corresponds; arrows: blue helps "
        "the answer, red hurts it",
        fontsize=9,
        loc="left",
    )
    return figure


def _growth(axes: "Axes", mapping: "Mapping", transplants: tuple[float, ...]) -> None:
    """Marginal gain of each pair as bars, cumulative transplant as a line; gaps where it is undefined."""
    at = range(1, len(mapping.pairs) + 1)
    axes.bar(at, [pair.gain for pair in mapping.pairs], color=ALONE, label="gain of the pair")
    axes.plot(at, transplants, color=HELPS, marker="o", label="transplant of all pairs so far")
    axes.axhline(0, color="#404040", lw=0.6)
    axes.axhline(1, color="#404040", lw=0.6, ls=":")
    axes.set_xticks(list(at), [f"{pair.first}\n{pair.second}" for pair in mapping.pairs], fontsize=7)
    axes.legend(fontsize=7, loc="best")


def _places(graph: CircuitGraph, left: float) -> list[tuple[float, float]]:
    """Depth upwards; nodes of one depth are spread from left to right."""
    found = []
    for i, depth in enumerate(graph.depth.tolist()):
        row = (graph.depth == depth).nonzero().squeeze(1)
        at = int((row == i).nonzero())
        found.append((left + (at + 0.5) / len(row), depth))
    return found


def _edges(axes: "Axes", graph: CircuitGraph, where: list[tuple[float, float]]) -> None:
    from matplotlib.patches import FancyArrowPatch

    helps, hurts = graph.edges[0::2].sum(0), graph.edges[1::2].sum(0)
    total = helps + hurts
    largest = float(total.max()) or 1.0
    for i, k in (total >= FAINT).nonzero().tolist():
        share = float(total[i, k]) / largest
        axes.add_patch(
            FancyArrowPatch(
                where[i],
                where[k],
                arrowstyle="-|>",
                mutation_scale=7,
                linewidth=0.4 + 2.0 * share,
                color=HELPS if float(helps[i, k]) >= float(hurts[i, k]) else HURTS,
                alpha=0.25 + 0.5 * share,
                shrinkA=10,
                shrinkB=10,
                connectionstyle="arc3,rad=0.06",
                zorder=2,
            )
        )


def _short(name: str) -> str:
    return {"token_embedding": "tokens", "position_embedding": "positions", "unembedding": "logits"}.get(
        name, name
    )
