"""Several networks that answer as one matcher."""

from dataclasses import replace

import pytest
import torch

from metamodel.analogy.graph import compatible, stacked
from metamodel.analogy.planted import PlantedLevel
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.config import InputError
from metamodel.config.matching import MatcherConfig, MatchingConfig, MatchTrainingConfig
from metamodel.features.registry import feature_names
from metamodel.matching import SubjectMatcher
from metamodel.networks.matching.ensemble import MatcherEnsemble
from metamodel.networks.matching.matcher import Matcher
from metamodel.training.fit_matching import fit_matcher, sizes_of
from metamodel.training.matching_checkpoint import MatchingCheckpoint, load_matching_checkpoint, save

N_FEATURES = 5
LEVEL = PlantedLevel(noise=0.3, feature_noise=0.5, dropped=1, inserted=1)
CONFIG = MatchingConfig(
    matcher=MatcherConfig(width=16, n_layers=1, n_heads=2, edge_width=4, n_steps=3, members=2),
    training=MatchTrainingConfig(steps=2, batch_size=4),
)


def pair_at(seed: int):
    return synthetic_pair(torch.Generator().manual_seed(seed), LEVEL, n_features=N_FEATURES)


def member(seed: int) -> Matcher:
    torch.manual_seed(seed)
    matcher = sizes_of(CONFIG, N_FEATURES).network()
    with torch.no_grad():
        for parameter in matcher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return matcher.eval()


def batch():
    pair = pair_at(0)
    return stacked([pair.first]), stacked([pair.second])


def test_the_answer_is_the_mean_of_what_members_say():
    members = [member(0), member(1)]
    first, second = batch()
    found = MatcherEnsemble(members)(first, second)
    one, other = (m(first, second) for m in members)
    assert not torch.allclose(one.p, other.p, atol=1e-3)
    torch.testing.assert_close(found.p, (one.p + other.p) / 2)
    torch.testing.assert_close(found.presence, (one.presence + other.presence) / 2)
    assert bool((found.p.sum(-1) <= 1 + 1e-5).all())


def test_similarity_is_the_mean_too():
    members = [member(0), member(1)]
    first, second = batch()
    allowed = compatible(first, second)
    found = MatcherEnsemble(members).similarity(first, second, allowed)
    both = [m.similarity(first, second, allowed) for m in members]
    for k in range(2):
        torch.testing.assert_close(found[k], (both[0][k] + both[1][k]) / 2)


def test_equal_members_say_what_one_says():
    first, second = batch()
    torch.testing.assert_close(
        MatcherEnsemble([member(0), member(0)])(first, second).p, member(0)(first, second).p
    )


def checkpoint(matcher) -> MatchingCheckpoint:
    return MatchingCheckpoint(
        matcher=matcher,
        sizes=sizes_of(CONFIG, N_FEATURES),
        feature_names=feature_names("both")[:N_FEATURES],
        keep_above=0.3,
        null_scores=(0.0,),
        zoo={"name": "z", "folder": "data/z", "fingerprint": "f"},
        lineages=("a",),
        training={},
    )


def test_an_ensemble_comes_back_from_disk(tmp_path):
    kept = checkpoint(MatcherEnsemble([member(0), member(1)]))
    save(kept, tmp_path / "two")
    again = SubjectMatcher(load_matching_checkpoint(tmp_path / "two"))
    pair = pair_at(1)
    torch.testing.assert_close(
        again.match_graphs(pair.first, pair.second).p,
        SubjectMatcher(kept).match_graphs(pair.first, pair.second).p,
    )


def test_a_checkpoint_that_lacks_a_member_is_refused(tmp_path):
    lacking = replace(checkpoint(member(0)), sizes=replace(sizes_of(CONFIG, N_FEATURES), members=2))
    save(lacking, tmp_path / "one")
    with pytest.raises(InputError, match="expected no such tensor, got one"):
        load_matching_checkpoint(tmp_path / "one")


def test_members_are_trained_from_seeds_that_follow_one_another(tmp_path):
    pairs = [replace(pair_at(i), kind="permuted") for i in range(8)]
    pairs = [
        replace(pair, first_side=replace(pair.first_side, id=f"s{i}", lineage=f"l{i}"))
        for i, pair in enumerate(pairs)
    ]
    quiet = replace(CONFIG, trainer=replace(CONFIG.trainer, progress=False, accelerator="cpu"))
    both = fit_matcher(quiet, pairs, tmp_path / "both")
    assert isinstance(both, MatcherEnsemble)
    alone = fit_matcher(
        replace(quiet, seed=1, matcher=replace(quiet.matcher, members=1)), pairs, tmp_path / "alone"
    )
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(both.members[1].state_dict()[name], value)
    assert any(
        not torch.equal(value, both.members[0].state_dict()[name])
        for name, value in alone.state_dict().items()
    )
