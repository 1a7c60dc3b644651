"""Laws of matching: no gauge of either subject changes a map, but that nodes permute; a real change does."""

from dataclasses import replace

import pytest
import torch

from metamodel.circuits.prompts import Prompts
from metamodel.features.relative import matcher_names
from metamodel.matching import Behaving, SubjectMatcher
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.gauge import gauge_element
from metamodel.training.matching_checkpoint import MatcherSizes, MatchingCheckpoint

TOLERANCE = 1e-3
SHAPES = {
    "layer norm": SubjectConfig(n_layers=2, n_heads=3, d_model=24, d_head=8, d_mlp=16, d_vocab=30, n_ctx=12),
    "no norm": SubjectConfig(
        n_layers=2, n_heads=2, d_model=16, d_head=8, d_mlp=12, d_vocab=30, n_ctx=12, normalization_type="none"
    ),
}


def subject_of(config: SubjectConfig, seed: int) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    weights = unstack(initial_weights(config, [generator]), 0)
    rough = {k: w + 0.3 * torch.randn(w.shape, generator=generator) for k, w in weights.items()}
    return Subject(config=config, weights=rough, name=f"subject-{seed}").double()


def prompts_of(config: SubjectConfig) -> Prompts:
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(config.d_vocab, (2, 8, 7), generator=generator)
    answer = torch.randint(config.d_vocab, (8,), generator=generator)
    return Prompts(
        clean=clean,
        corrupt=corrupt,
        position=torch.full((8,), 6),
        answer=answer,
        corrupt_answer=(answer + 1) % config.d_vocab,
        slice=torch.zeros(8, dtype=torch.long),
        slice_names=("all",),
    )


@pytest.fixture(scope="module")
def matcher() -> SubjectMatcher:
    """Random weights; features of the order of 1 are left as they are."""
    names = matcher_names()
    sizes = MatcherSizes(n_features=len(names), width=16, n_layers=2, n_heads=2, edge_width=4, n_steps=4)
    torch.manual_seed(0)
    network = sizes.network()
    return SubjectMatcher(
        MatchingCheckpoint(
            matcher=network.eval(),
            sizes=sizes,
            feature_names=names,
            keep_above=0.2,
            null_scores=(),
            zoo={"name": "", "folder": "", "fingerprint": ""},
            lineages=(),
            training={},
        )
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_gauges_permute_the_map_and_change_nothing_else(shape, matcher):
    config = SHAPES[shape]
    first, second, prompts = subject_of(config, 0), subject_of(config, 1), prompts_of(config)
    found = matcher.match(Behaving(subject=first, prompts=prompts), Behaving(subject=second, prompts=prompts))
    moved = gauge_element(second, torch.Generator().manual_seed(5), condition=3.0)
    again = matcher.match(
        Behaving(subject=first, prompts=prompts), Behaving(subject=moved.subject, prompts=prompts)
    )
    old = [node.name for node in _nodes(config)]
    went = {old[i]: old[int(moved.node_order[i])] for i in range(len(old))}  # new name -> old name
    columns = torch.tensor([found.second.names.index(went[name]) for name in again.second.names])
    torch.testing.assert_close(again.match.p, found.match.p[:, columns], atol=TOLERANCE, rtol=0)
    assert again.score == pytest.approx(found.score, abs=TOLERANCE)


def test_a_real_change_of_a_subject_changes_its_map(matcher):
    config = SHAPES["layer norm"]
    first, second, prompts = subject_of(config, 0), subject_of(config, 1), prompts_of(config)
    found = matcher.match(Behaving(subject=first, prompts=prompts), Behaving(subject=second, prompts=prompts))
    weights = dict(second.weights)
    weights["blocks.1.attn.W_Q"] = weights["blocks.1.attn.W_Q"].flip(1)
    changed = replace(second, weights=weights)
    again = matcher.match(
        Behaving(subject=first, prompts=prompts), Behaving(subject=changed, prompts=prompts)
    )
    names = [name for name in found.second.names if name in again.second.names]
    mine = [found.second.names.index(name) for name in names]
    theirs = [again.second.names.index(name) for name in names]
    difference = (again.match.p[:, theirs] - found.match.p[:, mine]).abs().max()
    assert difference > TOLERANCE or len(names) < len(found.second.names)


def _nodes(config: SubjectConfig):
    from metamodel.subjects.config import components

    return components(config)
