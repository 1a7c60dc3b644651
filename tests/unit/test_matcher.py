"""The learned matcher: what it reduces to, its symmetries, its mappings, and its checkpoint."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metamodel
from metamodel.analogy.energy import Edges
from metamodel.analogy.graph import CircuitGraph, compatible, is_anchor, normalised, stacked
from metamodel.analogy.pair_batch import batched
from metamodel.analogy.pairs import NONE, UNKNOWN, MatchedPair, blank_side
from metamodel.analogy.planted import PlantedLevel
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.analogy.unrolled import START_RATE, START_TAU, ascend
from metamodel.config import InputError
from metamodel.config.matching import MatcherConfig, MatchingConfig, MatchTrainingConfig
from metamodel.features.registry import feature_names
from metamodel.matching import SubjectMatcher
from metamodel.networks.matching.matcher import START_POWER, Matcher
from metamodel.objectives.matching import MatchingObjective
from metamodel.training.fit_matching import circuits_of, fit_scales, sizes_of
from metamodel.training.match_pairs import N_DONORS, MatchPairs, TrainingCircuit, donors_for
from metamodel.training.matching_checkpoint import MatchingCheckpoint, load_matching_checkpoint, save

N_FEATURES = 5
LEVEL = PlantedLevel(noise=0.3, feature_noise=0.5, dropped=1, inserted=1)
CONFIG = MatchingConfig(
    matcher=MatcherConfig(width=16, n_layers=1, n_heads=2, edge_width=4, n_steps=3),
    training=MatchTrainingConfig(steps=30, batch_size=8),
)


def pair_at(seed: int, level: PlantedLevel = LEVEL) -> MatchedPair:
    return synthetic_pair(torch.Generator().manual_seed(seed), level, n_features=N_FEATURES)


def untrained(seed: int = 0) -> Matcher:
    """Random weights everywhere, so that nothing holds because something is zero."""
    torch.manual_seed(seed)
    matcher = sizes_of(CONFIG, N_FEATURES).network()
    with torch.no_grad():
        for parameter in matcher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return matcher.eval()


def checkpoint_of(matcher: Matcher, **more) -> MatchingCheckpoint:
    values = {
        "matcher": matcher,
        "sizes": sizes_of(CONFIG, N_FEATURES),
        "feature_names": feature_names("both")[:N_FEATURES],
        "keep_above": 0.3,
        "null_scores": (-2.0, -1.0, 0.5),
        "zoo": {"name": "z", "folder": "data/z", "fingerprint": "f"},
        "lineages": ("a", "b"),
        "training": {},
    }
    return MatchingCheckpoint(**values | more)


@torch.no_grad()
def p_of(matcher: Matcher, first: CircuitGraph, second: CircuitGraph) -> torch.Tensor:
    return matcher(stacked([first]), stacked([second])).p[0]


def test_with_learning_off_it_is_the_unrolled_solver():
    matcher, pair = untrained(), pair_at(0)
    first, second = stacked([pair.first]), stacked([pair.second])
    allowed = compatible(first, second)
    solver = ascend(
        Edges.of(*(normalised(graph.edges**START_POWER) for graph in (first, second))),
        allowed,
        allowed & is_anchor(first.kinds)[:, :, None],
        rates=torch.full((3,), START_RATE),
        taus=torch.full((3,), START_TAU),
        dustbin=torch.zeros(1),
    )
    before = matcher(first, second).scores
    assert not torch.allclose(before, solver, atol=0.1)
    matcher.learned_off()
    torch.testing.assert_close(matcher(first, second).scores, solver, atol=1e-5, rtol=1e-5)


def test_nodes_have_no_order_and_edges_and_features_count():
    matcher, pair = untrained(), pair_at(1)
    p = p_of(matcher, pair.first, pair.second)
    generator = torch.Generator().manual_seed(3)
    ours = torch.randperm(len(pair.first), generator=generator)
    theirs = torch.randperm(len(pair.second), generator=generator)
    moved = p_of(matcher, pair.first.taken(ours), pair.second.taken(theirs))
    torch.testing.assert_close(moved, p[ours][:, theirs], atol=1e-4, rtol=1e-4)
    turned = replace(pair.second, edges=pair.second.edges.flip(0))
    assert (p_of(matcher, pair.first, turned) - p).abs().max() > 1e-3
    other = replace(pair.second, features=pair.second.features.flip(0))
    assert (p_of(matcher, pair.first, other) - p).abs().max() > 1e-3


def test_padding_and_company_change_nothing():
    matcher, pairs = untrained(), [pair_at(seed) for seed in (1, 2, 3)]
    with torch.no_grad():
        first = stacked([pair.first for pair in pairs], size=40)
        together = matcher(first, stacked([pair.second for pair in pairs], size=45))
    assert bool(together.p.isfinite().all())
    for i, pair in enumerate(pairs):
        alone = matcher(stacked([pair.first]), stacked([pair.second]))
        n, m = len(pair.first), len(pair.second)
        torch.testing.assert_close(together.p[i, :n, :m], alone.p[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.presence[i], alone.presence[0], atol=1e-4, rtol=1e-4)
    assert not together.p[0, len(pairs[0].first) :].any()


def test_swapping_the_circuits_transposes_the_map():
    matcher, pair = untrained(), pair_at(2)
    p = p_of(matcher, pair.first, pair.second)
    torch.testing.assert_close(p_of(matcher, pair.second, pair.first).T, p, atol=0.02, rtol=0)


def test_learning_finds_what_is_planted():
    pairs = [pair_at(seed) for seed in range(12)]
    circuits = [TrainingCircuit(graph=pair.first, lineage=str(i)) for i, pair in enumerate(pairs)]
    torch.manual_seed(0)
    matcher = sizes_of(CONFIG, N_FEATURES).network()
    fit_scales(matcher.encoder, [circuit.graph for circuit in circuits])
    objective = MatchingObjective(matcher, CONFIG)
    said = []
    objective.log_dict = lambda values, **_: said.append(float(values["matched/train"].detach()))  # pyright: ignore
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=0.01)
    for i, batch in zip(range(30), MatchPairs(pairs, circuits, CONFIG.training, seed=0), strict=False):
        loss = objective.training_step(batch, i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(said[-5:]) < 0.7 * sum(said[:5])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pairs_of_the_zoo_without_noise_get_some_anew_whenever_they_are_drawn_and_others_none(share):
    quiet = replace(pair_at(1), kind="partial", level={"noise": 0.0, "feature_noise": 0.0})
    noisy, absent = pair_at(2), replace(pair_at(3), kind="absent", truth=None, present=False, level={})
    without = replace(pair_at(4), kind="program", missing=("L0H0", "L1H0", "q"), level={})
    pairs = [
        quiet,
        absent,
        without,
        replace(noisy, kind="planted", level={"noise": 0.5}),
        replace(noisy, kind="larger", level={"feature_noise": 0.5}),
    ]
    circuits = [TrainingCircuit(graph=pair.first, lineage=str(i)) for i, pair in enumerate(pairs)]
    config = replace(CONFIG.training, synthetic=0.0, planted=0.0, poorly_known=share)
    data, generator = MatchPairs(pairs, circuits, config, seed=0), torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {pair.kind: [] for pair in pairs}
    for _ in range(60):
        drawn = data._drawn(generator)
        total = float(drawn.first.features.double().sum() + drawn.second.features.double().sum())
        found[str(drawn.kind)].append(round(total, 6))
    for kind in ("planted", "larger", "program"):
        assert len(set(found[kind])) == 1
    for kind in ("partial", "absent"):
        assert len(set(found[kind])) == (len(found[kind]) if share else 1)


def test_batches_hold_the_truth_and_ask_nothing_of_anchors():
    pair = pair_at(4)
    absent = replace(pair, truth=None, kind="absent", present=False)
    natural = replace(pair, truth=None, kind="natural")
    batch = batched([pair, absent, natural])
    assert pair.truth is not None
    inner = ~pair.first.is_anchor
    assert torch.equal(batch.to_second[0][inner], pair.truth[inner])
    assert bool((batch.to_second[:, pair.first.is_anchor] == UNKNOWN).all())
    assert bool((batch.to_second[1][inner] == NONE).all())
    assert bool((batch.to_second[2] == UNKNOWN).all())
    assert batch.present.tolist() == [True, False, True]
    assert batch.presence_known.tolist() == [True, True, False]


def test_scales_leave_out_what_is_constant():
    graphs = [pair_at(seed).first for seed in range(6)]
    graphs = [replace(g, features=torch.cat([g.features, torch.ones(len(g), 1)], 1)) for g in graphs]
    encoder = Matcher(n_features=N_FEATURES + 1, width=8, n_layers=1, n_heads=2, edge_width=4).encoder
    fit_scales(encoder, graphs)
    z = encoder.standardised(stacked(graphs))
    assert not z[..., -1].any()
    assert 0.3 < float(z[..., :N_FEATURES].std()) < 1.5


def test_a_mapping_says_pairs_reasons_and_what_is_left():
    matcher = SubjectMatcher(checkpoint_of(untrained()))
    pair = pair_at(5)
    mapping = matcher.match(pair.first, pair.second)
    table = mapping.to_pandas()
    inner = [name for i, name in enumerate(pair.first.names) if not pair.first.is_anchor[i]]
    paired = {p.first for p in mapping.pairs}
    assert paired | set(mapping.unmatched_first) == set(inner)
    assert len(table) == len(mapping.pairs) + len(mapping.unmatched_first) + len(mapping.unmatched_second)
    assert mapping.breakdown == len(mapping.pairs)
    held = json.loads(mapping.to_json())
    assert held["null_share"] in (0.0, 1 / 3, 2 / 3, 1.0)
    for one in mapping.pairs:
        i, j = pair.first.names.index(one.first), pair.second.names.index(one.second)
        assert one.confidence == pytest.approx(float(mapping.match.p[i, j]))
        assert one.why
    assert mapping.plot().axes
    strict = SubjectMatcher(checkpoint_of(untrained(), keep_above=1.0)).match(pair.first, pair.second)
    assert not strict.pairs
    assert strict.broken_by
    assert bool((strict.match.pairs[~pair.first.is_anchor] == NONE).all())


def test_many_pairs_at_once_are_what_they_are_alone():
    matcher = SubjectMatcher(checkpoint_of(untrained()))
    pairs = [pair_at(seed) for seed in range(5)]
    graphs = [(pair.first, pair.second) for pair in pairs]
    for one, (first, second) in zip(matcher.match_all(graphs), graphs, strict=True):
        alone = matcher.match_graphs(first, second)
        assert torch.equal(one.pairs, alone.pairs)
        torch.testing.assert_close(one.p, alone.p, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_comes_back_and_loads_by_its_kind(tmp_path):
    kept = checkpoint_of(untrained(1))
    save(kept, tmp_path / "m")
    loaded = metamodel.load(tmp_path / "m")
    assert isinstance(loaded, SubjectMatcher)
    pair = pair_at(6)
    torch.testing.assert_close(
        loaded.match_graphs(pair.first, pair.second).p,
        SubjectMatcher(kept).match_graphs(pair.first, pair.second).p,
    )
    assert loaded.checkpoint.lineages == ("a", "b")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema_version", 7, "schema_version: expected 1, got 7"),
        ("kind", "editing", "kind: expected 'matching', got 'editing'"),
        ("keep_above", 2.0, "keep_above: expected a confidence, 0 to 1, got 2.0"),
        ("feature_names", ["a"], "feature_names: expected 5 names, got 1"),
        ("edge_channels", ["q"], "edge_channels: expected"),
        ("surprise", 1, "surprise: expected a known key, got an unknown one"),
        ("lineages", None, "lineages: expected list, got NoneType"),
    ],
)
def test_a_broken_config_is_refused_in_one_line(tmp_path: Path, key, value, said):
    save(checkpoint_of(untrained()), tmp_path / "m")
    file = tmp_path / "m/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(InputError, match=re.escape(said)):
        load_matching_checkpoint(tmp_path / "m")


def test_circuits_without_the_features_are_refused():
    matcher = SubjectMatcher(checkpoint_of(untrained()))
    pair = pair_at(1)
    bare = replace(pair.first, features=pair.first.features[:, :2])
    with pytest.raises(InputError, match="circuit: expected 5 features of each node"):
        matcher.match(bare, pair.second)
    with pytest.raises(InputError, match="feature_names: expected a known feature, got 'x'"):
        SubjectMatcher(checkpoint_of(untrained(), feature_names=("x",) * N_FEATURES))


def test_circuits_of_training_are_those_that_were_stored_each_once():
    pair = pair_at(1)
    named = replace(pair, kind="natural", truth=None, first_side=replace(pair.first_side, id="a"))
    strange = replace(
        named, kind="planted", first=pair_at(2).first, first_side=blank_side(len(pair_at(2).first), id="a")
    )
    (found,) = circuits_of([named, named, strange, pair])
    assert found.graph is named.first


def test_strangers_of_training_come_from_other_lineages_one_circuit_of_each():
    graph = pair_at(0).first
    circuits = [TrainingCircuit(graph=graph, lineage=str(i % 9)) for i in range(40)]
    generator = torch.Generator().manual_seed(0)
    for circuit in circuits:
        lineages = [donor.lineage for donor in donors_for(circuit, circuits, generator)]
        assert len(lineages) == N_DONORS
        assert len({*lineages, circuit.lineage}) == N_DONORS + 1
    alone = [circuit for circuit in circuits if circuit.lineage == "3"]
    assert donors_for(alone[0], alone, generator) == []
    drawn = iter(MatchPairs([], alone, replace(CONFIG.training, synthetic=0.0), seed=0))
    assert len(next(drawn)) == CONFIG.training.batch_size
