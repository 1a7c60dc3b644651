"""What training the matcher can ask for beside the planted map, and what it can be told not to see."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metamodel.analogy.graph import stacked
from metamodel.analogy.pair_batch import PairBatch, batched
from metamodel.analogy.pairs import MatchedPair
from metamodel.analogy.planted import PlantedLevel
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.config import InputError
from metamodel.config.matching import MatcherConfig, MatchingConfig, MatchTrainingConfig
from metamodel.losses.relations import node_relations
from metamodel.networks.matching.matcher import Matcher
from metamodel.objectives.matching import MatchingObjective
from metamodel.training.fit_matching import sizes_of
from metamodel.training.match_pairs import CYCLES, MatchPairs, TrainingCircuit
from metamodel.training.thirds import Thirds

N_FEATURES = 5
SMALL = MatcherConfig(width=16, n_layers=1, n_heads=2, edge_width=4, n_steps=2)
NOTHING = MatchTrainingConfig(steps=5, batch_size=4, loss_unmatched=0.0, loss_presence=0.0)


def pair_at(seed: int, *, noise: float = 0.3) -> MatchedPair:
    level = PlantedLevel(noise=noise, feature_noise=noise, dropped=1, inserted=1)
    return synthetic_pair(torch.Generator().manual_seed(seed), level, n_features=N_FEATURES)


def natural(pair: MatchedPair, first: str, second: str) -> MatchedPair:
    sides = replace(pair.first_side, id=first), replace(pair.second_side, id=second)
    return replace(pair, kind="natural", truth=None, first_side=sides[0], second_side=sides[1])


def untrained(config: MatcherConfig = SMALL, n_features: int = N_FEATURES) -> Matcher:
    """Random weights everywhere, so that nothing holds because something is zero."""
    torch.manual_seed(0)
    sizes = sizes_of(MatchingConfig(matcher=config), n_features)
    matcher = sizes.network(column_dropout=config.column_dropout)
    with torch.no_grad():
        for parameter in matcher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return matcher


def step(matcher: Matcher, batch: PairBatch, **weights: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one training step, and what it logged."""
    objective = MatchingObjective(matcher, MatchingConfig(training=replace(NOTHING, **weights)))
    said: dict[str, Tensor] = {}
    objective.log_dict = lambda values, **_: said.update({k: v.detach() for k, v in values.items()})  # pyright: ignore
    return objective.training_step(batch, 0), said


def test_gw_is_a_term_of_training_and_compares_relations_inside_circuits():
    matcher, batch = untrained(), batched([pair_at(0), pair_at(1)])
    without, said = step(matcher, batch)
    assert float(said["gw/train"]) == 0
    with_it, said = step(matcher, batch, loss_gw=2.0)
    assert float(said["gw/train"]) > 0
    assert float((with_it - without).detach()) == pytest.approx(2 * float(said["gw/train"]), rel=1e-4)
    with_it.backward()
    assert matcher.to_similarity.weight.grad is not None
    alone = torch.autograd.grad(
        step(matcher, batch, loss_gw=2.0)[0] - step(matcher, batch)[0], matcher.to_similarity.weight
    )[0]
    assert bool(alone.abs().max() > 0)


def test_relations_are_distances_and_steps_of_depth():
    graph = pair_at(2).first
    found = node_relations(stacked([graph]), graph.features[None])[0]
    i, k = 3, 5
    expected = (graph.features[i] - graph.features[k]).pow(2).mean().sqrt()
    torch.testing.assert_close(found[0, i, k], expected)
    torch.testing.assert_close(found[1, i, k], graph.depth[i] - graph.depth[k])
    bare = replace(graph, features=graph.features[:, :0])
    assert not node_relations(stacked([bare]), bare.features[None])[:, 0].any()


def test_cycle_is_a_term_of_training_where_there_are_third_circuits():
    matcher, pairs = untrained(), [pair_at(0), pair_at(1), pair_at(2)]
    batch = batched(pairs)
    assert float(step(matcher, batch, loss_cycle=1.0)[1]["cycle/train"]) == 0
    triples = replace(batch, third=stacked([pair.second for pair in pairs[:2]]))
    without, _ = step(matcher, triples)
    with_it, said = step(matcher, triples, loss_cycle=3.0)
    assert float(said["cycle/train"]) > 1e-4
    assert float((with_it - without).detach()) == pytest.approx(3 * float(said["cycle/train"]), rel=1e-3)
    alone = torch.autograd.grad(with_it - without, matcher.to_similarity.weight)[0]
    assert bool(alone.abs().max() > 0)
    moved = triples.to("cpu").third
    assert moved is not None
    assert torch.equal(moved.edges, triples.third.edges)  # pyright: ignore[reportOptionalMemberAccess]


def test_batches_have_third_circuits_only_where_cycles_count():
    pairs = [pair_at(seed) for seed in range(4)]
    circuits = [TrainingCircuit(graph=pair.first, lineage="") for pair in pairs]
    training = MatchTrainingConfig(batch_size=CYCLES + 2, synthetic=0.0, planted=0.0)
    without = next(iter(MatchPairs(pairs, circuits, training, seed=0)))
    with_them = next(iter(MatchPairs(pairs, circuits, replace(training, loss_cycle=0.1), seed=0)))
    assert without.third is None
    assert with_them.third is not None
    assert len(with_them.third) == CYCLES
    assert torch.equal(without.first.edges, with_them.first.edges)


def test_the_third_of_a_natural_pair_has_learnt_the_same_task_and_of_others_it_is_a_copy():
    chain = [natural(pair_at(0), "a", "b"), natural(pair_at(1), "b", "c"), natural(pair_at(2), "x", "y")]
    thirds, generator = Thirds(chain), torch.Generator().manual_seed(0)
    assert thirds.others(chain[0]) == ["c"]
    assert thirds.of(chain[0], generator) is chain[1].second
    assert thirds.others(chain[2]) == []
    copies = [thirds.of(pair_at(3), generator) for _ in range(8)]
    whole = pair_at(3).second
    assert all(set(copy.names) <= set(whole.names) for copy in copies)
    assert min(map(len, copies)) < len(whole)
    assert all(float(copy.edges.norm()) == pytest.approx(1) for copy in copies)
    assert all(bool(copy.is_anchor.sum() == whole.is_anchor.sum()) for copy in copies)


def p_of(matcher: Matcher, pair: MatchedPair) -> Tensor:
    with torch.no_grad():
        return matcher(stacked([pair.first]), stacked([pair.second])).p[0]


def moved(pair: MatchedPair) -> MatchedPair:
    return replace(pair, second=replace(pair.second, features=pair.second.features + 1.0))


def stretched(pair: MatchedPair) -> MatchedPair:
    return replace(pair, second=replace(pair.second, depth=pair.second.depth.pow(2)))


def test_what_a_matcher_is_told_not_to_see_moves_nothing():
    pair = pair_at(4)
    plain = untrained().eval()
    assert (p_of(plain, pair) - p_of(plain, stretched(pair))).abs().max() > 1e-3
    flat = untrained(replace(SMALL, depth=False)).eval()
    assert torch.equal(p_of(flat, pair), p_of(flat, stretched(pair)))
    assert (p_of(plain, pair) - p_of(plain, moved(pair))).abs().max() > 1e-3
    centred = untrained(replace(SMALL, centre="circuit")).eval()
    torch.testing.assert_close(p_of(centred, moved(pair)), p_of(centred, pair), atol=1e-4, rtol=0)
    other = replace(pair, second=replace(pair.second, features=pair.second.features.flip(0)))
    assert (p_of(centred, pair) - p_of(centred, other)).abs().max() > 1e-3
    blind = untrained(replace(SMALL, blind_share=1.0)).eval()
    assert torch.equal(p_of(blind, pair), p_of(blind, other))
    half = untrained(replace(SMALL, blind_share=0.5)).eval()
    torch.testing.assert_close(p_of(half, pair), (p_of(plain, pair) + p_of(blind, pair)) / 2)


def test_without_cross_attention_an_embedding_knows_nothing_of_the_other_circuit():
    pair, other = pair_at(5), pair_at(6)
    first, second, third = (stacked([graph]) for graph in (pair.first, pair.second, other.second))
    plain, alone = untrained().encoder.eval(), untrained(replace(SMALL, cross_attention=False)).encoder.eval()
    assert not torch.allclose(plain(first, second).first, plain(first, third).first, atol=1e-3)
    assert torch.equal(alone(first, second).first, alone(first, third).first)
    assert not [name for name, _ in alone.named_parameters() if name.startswith("across")]


def test_hidden_columns_are_hidden_in_both_circuits_and_in_training_only():
    encoder = untrained(replace(SMALL, column_dropout=0.5)).encoder
    pair = pair_at(7)
    first, second = stacked([pair.first] * 20), stacked([pair.second] * 20)
    z, w = encoder.train()(first, second).features
    hidden = [(x == 0).all(1) for x in (z, w)]
    assert torch.equal(hidden[0], hidden[1])
    assert 0.3 < float(hidden[0].float().mean()) < 0.7
    z, _ = encoder.eval()(first, second).features
    assert not (z == 0).all(1).any()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_matcher_of_edges_alone_trains():
    pairs = [
        pair.with_features(pair.first.features[:, :0], pair.second.features[:, :0])
        for pair in (pair_at(0), pair_at(1))
    ]
    matcher = untrained(n_features=0)
    loss, _ = step(matcher, batched(pairs), loss_gw=1.0)
    loss.backward()
    assert bool(loss.isfinite())


def test_weights_and_shares_outside_their_range_are_refused():
    with pytest.raises(InputError, match=r"training\.loss_gw"):
        MatchTrainingConfig(loss_gw=-1.0)
    with pytest.raises(InputError, match=r"training\.loss_cycle"):
        MatchTrainingConfig(loss_cycle=-1.0)
    with pytest.raises(InputError, match=r"matcher\.blind_share"):
        MatcherConfig(blind_share=1.5)
