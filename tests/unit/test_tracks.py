"""A graph of the track `both`, narrowed, is the graph that the narrower track would have given."""

import pytest
import torch

from metamodel.config.words import Track
from metamodel.features.composition import CHANNELS
from metamodel.features.graph import graph_of
from metamodel.features.registry import feature_names
from metamodel.features.tracks import graph_on
from metamodel.features.view import Shown
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack

SHAPE = SubjectConfig(n_layers=2, n_heads=2, d_model=24, d_head=12, d_mlp=16, d_vocab=20, n_ctx=12)


def subject() -> Subject:
    weights = unstack(initial_weights(SHAPE, [torch.Generator().manual_seed(0)]), 0)
    return Subject(config=SHAPE, weights=weights, name="one")


@pytest.mark.parametrize("track", ["weights", "activations", "both"])
@pytest.mark.parametrize("told", [True, False])
def test_narrowing_is_describing_on_the_narrower_track(track: Track, told: bool):
    tokens = torch.randint(20, (16, 8), generator=torch.Generator().manual_seed(1))
    shown = Shown(tokens=tokens, position=torch.full((16,), 7)) if told else None
    narrow, direct = (
        graph_on(graph_of(subject(), "both", shown=shown), track),
        graph_of(subject(), track, shown=shown),
    )
    assert torch.equal(narrow.nodes, direct.nodes)
    assert torch.equal(narrow.edges, direct.edges)
    assert (narrow.matrices is None) == (direct.matrices is None) == (track == "activations")
    if direct.matrices is not None and narrow.matrices is not None:
        assert torch.equal(narrow.matrices.followed, direct.matrices.followed)


def test_weights_carry_nothing_of_a_run_and_activations_nothing_of_weights():
    tokens = torch.randint(20, (16, 8), generator=torch.Generator().manual_seed(1))
    whole = graph_of(subject(), "both", shown=Shown(tokens=tokens, position=torch.full((16,), 7)))
    of_weights, of_activations = graph_on(whole, "weights"), graph_on(whole, "activations")
    shares = torch.tensor([name.endswith("_share") for name in CHANNELS])
    assert (whole.edges[..., shares] != 0).any()
    assert (of_weights.edges[..., shares] == 0).all()
    assert "head.writes_by_position" not in feature_names("weights")
    assert "head.ov_token_diagonal" not in feature_names("activations")
    assert (of_activations.edges[..., CHANNELS.index("k_share")] == 0).all()
    assert (of_activations.edges[..., CHANNELS.index("k_composition")] == 0).all()
