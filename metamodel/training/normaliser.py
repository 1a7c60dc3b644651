"""Fits what a reader knows of its inputs' scales, on training subjects only."""

from collections.abc import Sequence

import torch

from metamodel.config.words import Track
from metamodel.features.batch import pad_seen
from metamodel.features.composition import CHANNELS
from metamodel.features.examples import Seen, Truth
from metamodel.features.registry import ACTIVATIONS_COLUMN, PROMPTS_COLUMN, features_of
from metamodel.networks.normaliser import Normaliser
from metamodel.networks.reader import Reader
from metamodel.subjects.config import KINDS
from metamodel.triples.schema import MASKED

FLAT = 1e-5
"""Spread below which a column counts as constant, and is left out."""


def fit_normaliser(normaliser: Normaliser, seen: Sequence[Seen], track: Track) -> None:
    """Sets median and robust deviation of each column among nodes of its kind, and of each edge channel."""
    features = features_of(track)
    nodes = torch.cat([s.graph.nodes for s in seen])
    kinds = torch.cat([s.graph.kinds for s in seen])
    used = torch.zeros_like(normaliser.used)
    for column, feature in enumerate(features):
        kind = KINDS.index(feature.kind)
        values = nodes[kinds == kind, column]
        if not len(values):
            continue
        low, centre, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], device=values.device))
        # quartiles vanish where most subjects agree; the standard deviation then tells them apart
        scale = torch.maximum((high - low) / 1.35, 0.3 * values.std(correction=0))
        if scale > FLAT * (1 + centre.abs()):
            normaliser.centre[kind, column], normaliser.scale[kind, column] = centre, scale
            used[kind, column] = True
        normaliser.of_activations[column] = feature.track == "activations"
        normaliser.of_prompts[column] = feature.asks
    used[:, [PROMPTS_COLUMN, ACTIVATIONS_COLUMN]] = True
    normaliser.of_activations[ACTIVATIONS_COLUMN] = True
    normaliser.of_prompts[PROMPTS_COLUMN] = True
    for channel, name in enumerate(CHANNELS):
        normaliser.edge_of_activations[channel] = name.endswith("_share")
        normaliser.edge_of_prompts[channel] = name.startswith("asked_")
    normaliser.used.copy_(used)
    edges = torch.cat([s.graph.edges[s.graph.edges[..., 0] > 0] for s in seen])
    spread = edges.std(0, correction=0)
    normaliser.edge_centre.copy_(edges.mean(0))
    normaliser.edge_scale.copy_(torch.where(spread > FLAT, spread, torch.ones_like(spread)))


def fit_range(reader: Reader, seen: Sequence[Seen], truth: Sequence[Truth]) -> None:
    """Sets what training covers: kinds that are labelled, the farthest subject, and each score's scale."""
    score = torch.cat([t.function_score for t in truth]).float()
    state = torch.cat([t.function_state for t in truth])
    kinds = torch.cat([s.graph.kinds for s in seen])
    for kind in range(len(KINDS)):
        reader.asked[kind] = (state[kinds == kind] != MASKED).any(0)
    shapes = torch.tensor([(s.config.n_layers, s.config.n_heads) for s in seen])
    reader.largest.copy_(shapes.amax(0))
    reader.farthest.copy_(reader.distance(pad_seen(seen, ())).max())
    for label in range(score.shape[1]):
        values = score[(state[:, label] != MASKED) & score[:, label].isfinite(), label]
        if len(values) > 1:
            reader.score_centre[label] = values.mean()
            reader.score_scale[label] = values.std(correction=0).clamp_min(1e-6)
