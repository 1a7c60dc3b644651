"""Opponents of matching: what each promises, whatever it is."""

import importlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE, MatchedPair
from metamodel.analogy.planted import PlantedLevel
from metamodel.analogy.synthetic import synthetic_pair
from metamodel.baselines.matching import MatchingOpponent, TrainingPair, opponents, tuned
from metamodel.baselines.matching.base import MOST_SETTINGS
from metamodel.baselines.matching.lawler import affinity
from metamodel.baselines.matching.learned import LearnedSolver
from metamodel.baselines.matching.plain import DepthAndKind, LocalStatistics, Similarity, squashed
from metamodel.baselines.matching.problem import NONE as ALSO_NONE
from metamodel.baselines.matching.problem import Problem, agreement, assigned, overlap, standardised
from metamodel.baselines.matching.similarity import FeatureScale, correlation, prompt_columns
from metamodel.baselines.matching.tuning import Choice, Pruning, pruned, without_losses
from metamodel.baselines.matching.weight_matching import WeightMatching, weight_similarity
from metamodel.config.errors import InputError
from metamodel.evaluation.matching.scores import partial_f1
from metamodel.features.registry import feature_names
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.subject import Subject, initial_weights

CANNOT = ("random", "uniform", "depth_and_kind", "ngm")
"""By design: chance and uniform see nothing, depth cannot tell heads of a layer apart, NGM needs training."""
SIMILARITY_ALONE = (
    "raw_similarity",
    "prompt_only",
    "activation_correlation",
    "raw_activations",
    "weight_matching",
)
GOOD = {"partial_fgw": 3, "structure_mapping": 8}
"""Setting under which a noiseless copy is found, where the first one is too partial for that."""
ALL = {opponent.name: opponent for opponent in opponents()}
SEES_EDGES = [name for name in ALL if name not in (*SIMILARITY_ALONE, "random", "uniform", "depth_and_kind")]


def made(level: PlantedLevel, seed: int = 0, n_features: int = 4) -> MatchedPair:
    return synthetic_pair(torch.Generator().manual_seed(seed), level, n_features=n_features)


@pytest.fixture(scope="module")
def copy() -> MatchedPair:
    return made(PlantedLevel(), seed=3)


@pytest.fixture(scope="module")
def hard() -> MatchedPair:
    return made(PlantedLevel(noise=0.3, dropped=1, inserted=1), seed=5)


@pytest.fixture(scope="module")
def trained() -> LearnedSolver:
    solver = LearnedSolver(steps=6)
    solver.fit([training(small(made(PlantedLevel(noise=0.1), seed))) for seed in range(3)])
    return solver


def small(pair: MatchedPair, n: int = 6) -> MatchedPair:
    """Anchors and the first few of the nodes that correspond: affinities are then small."""
    assert pair.truth is not None
    inner = (~pair.first.is_anchor & (pair.truth != NONE)).nonzero().squeeze(1)[:n]
    first = torch.cat([pair.first.is_anchor.nonzero().squeeze(1), inner])
    return pair.permuted(first, pair.truth[first])


def training(pair: MatchedPair) -> TrainingPair:
    assert pair.truth is not None
    return TrainingPair(first=pair.first, second=pair.second, truth=pair.truth, similarity=raw(pair))


def raw(pair: MatchedPair) -> torch.Tensor:
    scale = FeatureScale.of([pair.first, pair.second])
    return standardised(scale(pair), pair.first, pair.second)


def matched(opponent: MatchingOpponent, pair: MatchedPair, *, similarity: bool = False) -> Match:
    needs = similarity or opponent.name in SIMILARITY_ALONE
    setting = opponent.settings()[GOOD.get(opponent.name, 0)]
    return opponent.solve(pair.first, pair.second, raw(pair) if needs else None, setting)


@pytest.fixture(params=ALL)
def opponent(request: pytest.FixtureRequest, trained: LearnedSolver) -> MatchingOpponent:
    return trained if request.param == "ngm" else ALL[request.param]


@pytest.mark.parametrize("name", [name for name in ALL if name not in CANNOT])
def test_every_opponent_that_can_finds_a_permuted_copy(copy: MatchedPair, name: str):
    found = matched(ALL[name], copy)
    assert torch.equal(found.pairs, copy.truth)
    assert found.score == pytest.approx(1.0, abs=1e-5)


def test_faq_is_the_same_where_numpy_was_seeded(copy: MatchedPair):
    """As trainings do."""
    before = matched(ALL["faq"], copy)
    np.random.seed(1)
    assert torch.equal(matched(ALL["faq"], copy).pairs, before.pairs)


@pytest.mark.parametrize("name", ["random", "uniform", "depth_and_kind"])
def test_those_that_cannot_do_not(copy: MatchedPair, name: str):
    assert partial_f1(copy, matched(ALL[name], copy).pairs) < 1


def test_all_have_their_own_name_and_no_more_settings_than_the_others():
    assert len(ALL) == len(opponents()) == 19
    for opponent in ALL.values():
        settings = opponent.settings()
        assert 1 <= len(settings) <= MOST_SETTINGS
        assert len({tuple(sorted(s.items())) for s in settings}) == len(settings)


def test_a_match_is_a_substochastic_map_within_kinds(opponent: MatchingOpponent, hard: MatchedPair):
    found = matched(opponent, hard, similarity=opponent.name not in ("random", "uniform"))
    same = hard.first.kinds[:, None] == hard.second.kinds[None, :]
    assert (found.p >= 0).all()
    assert (found.p[~same] == 0).all()
    assert float(found.p.sum(0).max()) <= 1 + 1e-5
    assert float(found.p.sum(1).max()) <= 1 + 1e-5
    held = found.pairs[found.pairs != NONE]
    assert len(held.unique()) == len(held) > 0
    anchors = hard.first.is_anchor
    assert hard.truth is not None
    assert torch.equal(found.pairs[anchors], hard.truth[anchors])
    again = matched(opponent, hard, similarity=opponent.name not in ("random", "uniform"))
    assert torch.equal(found.pairs, again.pairs)
    assert torch.equal(found.p, again.p)


def test_a_match_follows_the_order_of_nodes(opponent: MatchingOpponent, hard: MatchedPair):
    if opponent.name in ("random", "uniform", "depth_and_kind"):
        pytest.skip("cannot tell some nodes apart, so their order decides")
    generator = torch.Generator().manual_seed(1)
    first = torch.randperm(len(hard.first), generator=generator)
    second = torch.randperm(len(hard.second), generator=generator)
    here, there = matched(opponent, hard), matched(opponent, hard.permuted(first, second))
    torch.testing.assert_close(there.p, here.p[first][:, second], atol=2e-3, rtol=1e-3)
    assert there.score == pytest.approx(here.score, abs=1e-4)


@pytest.mark.parametrize("name", SEES_EDGES)
def test_a_match_changes_with_edges(hard: MatchedPair, trained: LearnedSolver, name: str):
    opponent = trained if name == "ngm" else ALL[name]
    strangers = made(PlantedLevel(noise=0.3), seed=8)
    n = min(len(strangers.second), len(hard.second))
    edges = torch.zeros_like(hard.second.edges)
    edges[:, :n, :n] = strangers.second.edges[:, :n, :n]
    other = replace(hard, second=replace(hard.second, edges=edges))
    here, there = matched(opponent, hard), matched(opponent, other)
    assert not torch.allclose(here.p, there.p, atol=1e-3)
    assert there.score < here.score


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("random", "uniform")])
def test_a_match_changes_with_a_similarity(hard: MatchedPair, trained: LearnedSolver, name: str):
    opponent = trained if name == "ngm" else ALL[name]
    setting = opponent.settings()[GOOD.get(name, 0)]
    assert hard.truth is not None
    told = (hard.truth[:, None] == torch.arange(len(hard.second))).float()
    other = told.roll(1, dims=1)
    found = [
        opponent.solve(hard.first, hard.second, 4 * standardised(s, hard.first, hard.second), setting)
        for s in (told, other)
    ]
    assert not torch.allclose(found[0].p, found[1].p, atol=1e-3)
    assert partial_f1(hard, found[0].pairs) > partial_f1(hard, found[1].pairs)


def test_a_similarity_of_another_shape_is_refused(opponent: MatchingOpponent, hard: MatchedPair):
    with pytest.raises(InputError, match="similarity: expected shape"):
        opponent.solve(hard.first, hard.second, torch.zeros(2, 2), opponent.settings()[0])


@pytest.mark.parametrize(
    ("name", "package"), [("sm", "pygmtools"), ("fgw", "POT"), ("partial_fgw", "POT"), ("rrwm", "pygmtools")]
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, hard: MatchedPair, name: str, package: str
):
    def missing(module: str, *_: object):
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=f"the package {package}, got none installed. Run `pip install -e"):
        matched(ALL[name], hard)


def test_an_untrained_network_is_refused(hard: MatchedPair):
    with pytest.raises(InputError, match="NGM: expected a trained network"):
        matched(LearnedSolver(), hard)
    with pytest.raises(InputError, match="NGM: training pairs"):
        LearnedSolver().fit([])


def test_training_lowers_the_loss_and_the_wider_side_is_asked_the_other_way_round(hard: MatchedPair):
    pairs = [training(small(made(PlantedLevel(), seed))) for seed in range(2)]
    hits = []
    for steps in (0, 15):
        solver = LearnedSolver(steps=steps)
        solver.fit(pairs)
        p = [solver.solve(one.first, one.second, one.similarity, solver.settings()[1]).p for one in pairs]
        hits.append(
            sum(
                float(q[one.truth >= 0].gather(1, one.truth[one.truth >= 0, None]).mean())
                for q, one in zip(p, pairs, strict=True)
            )
        )
    assert hits[1] > hits[0] + 0.05
    # which circuit comes first is no matter
    solver = LearnedSolver(steps=2)
    solver.fit(pairs)
    cut = replace(hard, first=hard.first.taken(torch.arange(len(hard.first) - 3)), truth=None)
    here = solver.solve(cut.first, cut.second, None, solver.settings()[0])
    there = solver.solve(cut.second, cut.first, None, solver.settings()[0])
    torch.testing.assert_close(here.p, there.p.T, atol=1e-4, rtol=1e-3)


def test_an_affinity_is_what_its_formula_says(copy: MatchedPair):
    """Against loops; entry (i, j) stands at `j * n + i`."""
    hard = small(copy, 5)
    problem = Problem.of(hard.first, hard.second)
    for form in ("product", "gain"):
        k = affinity(problem, power=1.0, form=form)
        n, m = len(problem.free), len(problem.free_theirs)
        naive = torch.zeros(n * m, n * m)
        a, b = hard.first.edges, hard.second.edges
        for i, x in enumerate(problem.free):
            for j, y in enumerate(problem.free_theirs):
                if not problem.allowed[x, y]:
                    continue
                for u, z in enumerate(problem.free):
                    for v, w in enumerate(problem.free_theirs):
                        if not problem.allowed[z, w]:
                            continue
                        for one, other in ((a[:, x, z], b[:, y, w]), (a[:, z, x], b[:, w, y])):
                            gain = one * other
                            if form == "gain":
                                gain = (2 * gain - (one**2 + other**2) / 2).clamp_min(0)
                            naive[j * n + i, v * n + u] += gain.sum()
        off = ~torch.eye(n * m, dtype=torch.bool)
        ratio = naive[off].max() / k[off].max()
        torch.testing.assert_close(k[off] * ratio, naive[off], atol=1e-5, rtol=1e-4)
    many = hard.first.taken((~hard.first.is_anchor).nonzero()[0].repeat(70))
    with pytest.raises(InputError, match="at most 4096 pairs"):
        affinity(Problem.of(many, many), power=1.0, form="gain")


def test_who_lacks_a_partner_of_the_kind_stays_alone():
    worth, allowed = torch.tensor([[0.1, 0.9], [0.8, 0.7]]).double().numpy(), torch.eye(2).bool().numpy()
    assert assigned(worth, allowed).tolist() == [0, 1]
    allowed[0] = False
    assert assigned(worth, allowed).tolist() == [NONE, 1]
    assert ALSO_NONE == NONE


def test_agreement_and_overlap_by_hand(copy: MatchedPair):
    assert copy.truth is not None
    problem, truth = Problem.of(copy.first, copy.second), copy.truth.numpy()
    inner = (~copy.first.is_anchor).numpy()
    assert agreement(problem, truth)[inner] == pytest.approx(1.0, abs=1e-6)
    assert overlap(problem, truth) == pytest.approx(1.0, abs=1e-6)
    halved = replace(copy, second=replace(copy.second, edges=copy.second.edges / 2))
    # 2 · a · a/2 / (a² + a²/4) = 0.8
    assert agreement(Problem.of(halved.first, halved.second), truth)[inner] == pytest.approx(0.8, abs=1e-6)
    none = truth.copy()
    none[inner] = NONE
    assert agreement(problem, none)[inner].max() == 0
    assert overlap(problem, none) < 0.7


def test_pruning_leaves_what_earns_its_place(hard: MatchedPair):
    assert hard.truth is not None
    wrong = hard.truth.clone()
    free = (~hard.first.is_anchor & (hard.truth != NONE)).nonzero().squeeze(1)
    same_kind = [i for i in free.tolist() if hard.first.kinds[i] == hard.first.kinds[free[0]]][:2]
    wrong[same_kind] = hard.truth[same_kind].flip(0)
    kept = without_losses(hard.first, hard.second, wrong, 0.6)
    assert (kept[same_kind] == NONE).any()
    strict = without_losses(hard.first, hard.second, hard.truth, 0.95)
    mild = without_losses(hard.first, hard.second, hard.truth, 0.05)
    assert int((mild != NONE).sum()) >= int((strict != NONE).sum())
    p = torch.zeros(len(hard.first), len(hard.second))
    held = (hard.truth != NONE).nonzero().squeeze(1)
    p[held, hard.truth[held]] = torch.linspace(0.1, 0.9, len(held))
    match = Match(p=p, pairs=hard.truth, score=0.5)
    cut = pruned(match, hard.first, hard.second, Pruning(how="confidence", threshold=0.5))
    below = (p.sum(1) < 0.5) & ~hard.first.is_anchor
    assert below.any()
    assert (cut.pairs[below] == NONE).all()
    assert torch.equal(cut.pairs[~below], hard.truth[~below])
    assert (cut.score, pruned(match, hard.first, hard.second, Pruning()).pairs is match.pairs) == (0.5, True)


def validation(n: int, level: PlantedLevel, split: str = "validation") -> list[MatchedPair]:
    return [replace(made(level, seed), split=split) for seed in range(n)]


def test_tuning_takes_what_is_best_and_looks_at_validation_pairs_only():
    pairs = validation(3, PlantedLevel(noise=0.2, feature_noise=0.1, dropped=1, inserted=1))
    alike: dict[str, Callable[[MatchedPair], torch.Tensor]] = {"raw": raw, "learned": lambda pair: -raw(pair)}
    asked = [Similarity("raw_similarity", "raw"), DepthAndKind(), Similarity("none_such", "weights")]
    chosen = tuned(asked, pairs, alike, partial_f1)
    assert [one.opponent.name for one in chosen] == ["raw_similarity", "depth_and_kind"]
    assert chosen[1].choice.source == "raw"
    for one in chosen:
        again = sum(partial_f1(pair, one.match(pair, alike).pairs) for pair in pairs) / len(pairs)
        assert again == pytest.approx(one.partial_f1)
        plain = one.opponent.settings()[0]
        untuned = [partial_f1(p, one.opponent.solve(p.first, p.second, raw(p), plain).pairs) for p in pairs]
        assert one.partial_f1 >= sum(untuned) / len(untuned) - 1e-9
    with pytest.raises(InputError, match="expected pairs of the split validation, got \\['seed'\\]"):
        tuned([LocalStatistics()], validation(1, PlantedLevel(), "seed"), {}, partial_f1)
    with pytest.raises(InputError, match="expected the similarity 'raw', got none"):
        replace(chosen[1], choice=Choice(source="raw", setting={"scale": 0.1})).match(pairs[0], {})


def test_feature_similarity_is_a_distance_within_kinds_and_blind_to_scale(copy: MatchedPair):
    scale = FeatureScale.of([copy.first, copy.second])
    near = scale(copy)
    assert copy.truth is not None
    assert near.gather(1, copy.truth[:, None]).abs().max() < 1e-6
    factors = torch.tensor([0.1, 3.0, 10.0, 1.0])
    scaled = copy.with_features(copy.first.features * factors + 2, copy.second.features * factors + 2)
    torch.testing.assert_close(
        FeatureScale.of([scaled.first, scaled.second])(scaled), near, atol=1e-4, rtol=1e-4
    )
    moved = copy.with_features(copy.first.features + 1, copy.second.features)
    assert not torch.allclose(scale(moved), near, atol=1e-2)
    two = FeatureScale.of([copy.first, copy.second], torch.tensor([0, 1]))
    assert two.standardised(copy.first).shape[1] == 2
    with pytest.raises(InputError, match="features of circuits: expected at least one"):
        FeatureScale.of(
            [copy.with_features(torch.zeros(len(copy.first), 0), torch.zeros(len(copy.second), 0)).first]
        )


def test_prompt_columns_are_those_that_ask():
    names = feature_names("both")
    chosen = [names[i] for i in prompt_columns(names).tolist()]
    assert chosen
    assert all("asked_" in name for name in chosen)
    assert prompt_columns(["head.qk_log_norm"]).tolist() == []


def test_correlation_by_hand():
    first = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 1.0]])
    second = torch.tensor([[2.0, 4.0, 6.0], [-1.0, -2.0, -3.0], [5.0, 5.0, 5.0]])
    expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(correlation(first, second), expected)


def test_weight_matching_undoes_permutations_of_the_stream_of_heads_and_of_neurons():
    generator = torch.Generator().manual_seed(0)
    config = SubjectConfig(n_layers=2, n_heads=3, d_model=8, d_head=4, d_mlp=12, d_vocab=9, n_ctx=5)
    weights = {key: value[0] for key, value in initial_weights(config, [generator]).items()}
    subject = Subject(config=config, weights=weights, name="drawn")
    stream = torch.randperm(8, generator=generator)
    heads, neurons = torch.tensor([2, 0, 1]), torch.randperm(12, generator=generator)
    moved = {}
    for name, value in subject.weights.items():
        if "attn" in name and not name.endswith("b_O"):
            value = value[heads]
        if name.endswith(("mlp.W_in",)):
            value = value[:, neurons]
        if name.endswith(("mlp.W_out", "mlp.b_in")):
            value = value[neurons]
        for axis in range(value.ndim):
            residual = name.endswith(("W_E", "W_pos", "W_O", "W_out", "b_O", "b_out")) or ".ln" in name
            last = residual and axis == value.ndim - 1
            first = name.endswith(("W_U", "mlp.W_in")) and axis == 0
            inner = name.endswith(("W_Q", "W_K", "W_V")) and axis == 1
            if last or first or inner:
                value = value.index_select(axis, stream)
        moved[name] = value
    other = replace(subject, weights=moved)
    names = [node.name for node in components(config)]
    found = weight_similarity(subject, other)
    for layer in range(2):
        rows = [names.index(f"L{layer}H{head}") for head in range(3)]
        assert found[rows][:, rows].argmax(1).tolist() == [1, 2, 0]
        assert found[rows][:, rows].max(1).values.min() > 0.999
        i = names.index(f"MLP{layer}")
        assert found[i, i] > 0.999
    assert WeightMatching(lambda _: None)(made(PlantedLevel())) is None


def test_squashed_keeps_order():
    x = torch.linspace(-3, 3, 7).double().numpy()
    assert (squashed(x)[1:] > squashed(x)[:-1]).all()
    assert 0 < squashed(x)[0] < squashed(x)[-1] < 1
