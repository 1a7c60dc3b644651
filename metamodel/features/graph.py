"""From a subject to what a meta-model sees of it: nodes, edges, kinds, depth. The only way in."""

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.config.words import Track
from metamodel.features.activations import activation_features, probes
from metamodel.features.asked import asked_of_activations, asked_of_weights, run_on_shown
from metamodel.features.composition import add_shares, edges, factors, structure
from metamodel.features.examples import ComponentGraph
from metamodel.features.matrices import matrices_of
from metamodel.features.registry import ACTIVATIONS_SEEN, FEATURES, PROMPTS_SEEN, feature_names
from metamodel.features.streams import sites, written
from metamodel.features.view import Shown, View, view
from metamodel.features.weights import embedding_features, head_features, mlp_features
from metamodel.subjects.config import components, depth_fraction, kind_indices
from metamodel.subjects.subject import Subject


def graph_of(subject: Subject, track: Track, *, seed: int = 0, shown: Shown | None = None) -> ComponentGraph:
    """Gauge-invariant, size-free description of a subject.

    Args:
        track: `weights`, `activations` (from task-free probes), or `both`. A post-norm subject cannot be run:
            its activation columns are zero and its column `activations_seen` says so.
        seed: draws the sample of tokens and the probes. Readers are trained with 0.
        shown: prompts of the behavior that is asked about; without, columns that need them are zero and
            `prompts_seen` says so.
    """
    return graph_of_view(view(subject, seed=seed, shown=shown), track, seed=seed)


@torch.no_grad()
def graph_of_view(v: View, track: Track, *, seed: int = 0) -> ComponentGraph:
    """As `graph_of`, for a view that is used elsewhere too."""
    config = v.config
    nodes = components(config)
    runs = track != "weights" and config.norm_position == "pre"
    columns: dict[str, Tensor] = {}
    if track != "activations":
        columns |= _both(v, head_features(v), mlp_features(v))
        for kind, found in embedding_features(v).items():
            columns |= _placed(v, kind, found)
    asks = v.shown is not None and config.norm_position == "pre"
    if asks and track != "activations":
        columns |= _placed(v, "head", asked_of_weights(v))
    if runs:
        columns |= _both(v, *activation_features(v, seed=seed))
    prompted = run_on_shown(v) if runs and asks else None
    if prompted is not None:
        columns |= _both(v, *asked_of_activations(v, prompted))
    unknown = columns.keys() - {feature.name for feature in FEATURES}
    assert not unknown, f"features that the registry does not list: {sorted(unknown)}"
    columns[ACTIVATIONS_SEEN] = v.E.new_full((len(nodes),), float(runs))
    columns[PROMPTS_SEEN] = v.E.new_full((len(nodes),), float(asks))
    blank = v.E.new_zeros(len(nodes))
    matrix = torch.stack([columns.get(name, blank) for name in feature_names(track)], dim=1)
    read_by = factors(v) if track != "activations" else None
    relations = structure(v) if read_by is None else edges(v, read_by)
    if runs:
        tokens = probes(v, seed=seed).flatten(0, 1)
        ran = written(v, v.subject.run(tokens, taps=sites(config)), tokens, None)
        add_shares(v, relations, ran, prefix="", read_by=read_by)
        if v.shown is not None and prompted is not None:
            ran = written(v, prompted, v.shown.tokens, v.shown.position)
            add_shares(v, relations, ran, prefix="asked_", read_by=read_by)
    assert bool(torch.isfinite(matrix).all()), "a feature is not finite"
    assert bool(torch.isfinite(relations).all()), "an edge feature is not finite"
    device = v.E.device
    return ComponentGraph(
        nodes=matrix.float(),
        edges=relations.float(),
        kinds=torch.tensor(kind_indices(config), device=device),
        depth=torch.tensor([depth_fraction(node, config) for node in nodes], device=device),
        matrices=matrices_of(v) if track != "activations" else None,
    )


def _both(v: View, heads: dict[str, Tensor], mlps: dict[str, Tensor]) -> dict[str, Tensor]:
    return _placed(v, "head", heads) | _placed(v, "mlp", mlps)


def _placed(v: View, kind: str, found: dict[str, Tensor]) -> dict[str, Float[Tensor, " node"]]:
    """Values `[layer, head]`, `[layer]` or single ones of a kind, in columns over all nodes."""
    at = [i for i, node in enumerate(components(v.config)) if node.kind == kind]
    placed = {}
    for name, value in found.items():
        column = v.E.new_zeros(len(components(v.config)))
        column[at] = value.to(v.E).reshape(-1)
        placed[f"{kind}.{name}"] = column
    return placed
