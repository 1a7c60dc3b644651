"""Every opponent finds what is planted, finds nothing in noise, and falls back where it knows nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from metamodel.baselines import MetaModel, Predictor, opponents
from metamodel.baselines.algorithms import (
    boosted_algorithm,
    linear_algorithm,
    nearest_algorithm,
    subject_columns,
)
from metamodel.baselines.answers import (
    _logit_weights,
    _Probes,
    boosted_candidates,
    candidate_columns,
    conditional_logit,
    single_channel,
)
from metamodel.baselines.boosted_trees import boosted_trees
from metamodel.baselines.logistic import logistic
from metamodel.baselines.nearest import nearest
from metamodel.baselines.prior import Prior
from metamodel.baselines.single_feature import best_single_feature
from metamodel.baselines.table import neighbourhood_columns, node_columns, pairs_of
from metamodel.baselines.token_space import token_space
from metamodel.features.algorithms import algorithm_in, algorithm_names
from metamodel.features.examples import NONE_OF_THESE
from metamodel.subjects.config import KINDS
from metamodel.triples.schema import MASKED, POSITIVE

TRAIN = 18
FEATURE_READERS = ("best_single_feature", "nearest", "logistic", "boosted_trees", "statistics", "token_space")


@pytest.fixture(scope="module")
def fitted(planted_examples) -> dict[tuple[str, bool], Predictor]:
    """Every opponent on planted labels, and on labels that nothing explains."""
    found = {}
    for noise in (False, True):
        train = planted_examples(TRAIN, seed=0, noise=noise)
        validation = planted_examples(6, seed=1, noise=noise)
        for reader in opponents():
            reader.fit(train, validation)
            found[reader.name, noise] = reader
    return found


def precision(reader: Predictor, examples, label: int = 0) -> tuple[float, float]:
    """Average precision on a label, and its base rate."""
    truth, said = [], []
    for seen, true in examples:
        known = true.function_state[:, label] != MASKED
        truth.append(true.function_state[known, label] == POSITIVE)
        said.append(reader.predict(seen).function_probability[known, label])
    y = torch.cat(truth).numpy()
    return float(average_precision_score(y, torch.cat(said).numpy())), float(y.mean())


@pytest.mark.parametrize("name", FEATURE_READERS)
def test_a_planted_feature_is_found_and_noise_is_not(fitted, planted_examples, name):
    found, base = precision(fitted[name, False], planted_examples(12, seed=2))
    assert found > base + 0.3
    found, base = precision(fitted[name, True], planted_examples(30, seed=2, noise=True))
    assert found < base + 0.15


def test_the_prior_cannot_find_a_feature(fitted, planted_examples):
    found, base = precision(fitted["prior", False], planted_examples(12, seed=2))
    assert found == pytest.approx(base, abs=0.15)


@pytest.mark.parametrize("name", ["best_single_feature", "nearest", "logistic", "boosted_trees"])
def test_circuit_edges_are_found_from_the_planted_channel(fitted, planted_examples, name):
    truth, said = [], []
    for seen, true in planted_examples(5, seed=3):
        exists = true.edge_exists
        answer = fitted[name, False].predict(seen).edge_member
        assert not answer[~exists].any()
        truth.append(true.edge_member[exists])
        said.append(answer[exists])
    y = torch.cat(truth).numpy()
    assert average_precision_score(y, torch.cat(said).numpy()) > y.mean() + 0.25


def test_every_opponent_answers_every_question_in_shape_and_range(fitted, planted_examples):
    seen, truth = planted_examples(1, seed=4, size=(3, 2), family="another")[0]
    for (name, _), reader in fitted.items():
        said = reader.predict(seen)
        assert said.function_probability.shape == truth.function_state.shape, name
        assert said.edge_member.shape == truth.edge_member.shape
        assert said.slice_accuracy.shape == (2,)
        assert said.probe_answer.shape == truth.probe_answer.shape
        for probability in (said.function_probability, said.node_member, said.edge_member):
            assert ((probability >= 0) & (probability <= 1)).all(), name
        assert said.function_score.isfinite().all()


def test_fitting_again_gives_the_same_answers(fitted, planted_examples):
    train, validation = planted_examples(TRAIN, seed=0), planted_examples(6, seed=1)
    seen = planted_examples(1, seed=5)[0][0]
    for reader in (nearest(), logistic(), boosted_trees()):
        reader.fit(train, validation)
        again, before = reader.predict(seen), fitted[reader.name, False].predict(seen)
        assert torch.equal(again.function_probability, before.function_probability), reader.name
        assert torch.equal(again.edge_member, before.edge_member), reader.name


def test_opponents_fit_without_validation_subjects(planted_examples):
    train, test = planted_examples(15, seed=0), planted_examples(8, seed=2)
    for reader in (best_single_feature(), nearest(), logistic(), boosted_trees()):
        reader.fit(train, [])
        found, base = precision(reader, test)
        assert found > base + 0.1, reader.name


def test_a_label_without_positives_is_answered_by_its_base_rate(fitted, planted_examples):
    seen = planted_examples(1, seed=6)[0][0]
    prior = fitted["prior", False].predict(seen).function_probability[:, 2]
    assert (prior < 0.05).all()
    for name in FEATURE_READERS:
        assert torch.equal(fitted[name, False].predict(seen).function_probability[:, 2], prior), name


def labelled(examples, positive: bool):
    """Label 0 of every head set to one state."""
    state = POSITIVE if positive else 0
    return [
        (s, replace(t, function_state=torch.where(t.function_state == MASKED, MASKED, state)))
        for s, t in examples
    ]


def test_the_prior_knows_the_task_and_falls_back_to_depth_for_unseen_families(planted_examples):
    always = labelled(planted_examples(9, seed=0, family="always"), True)
    never = labelled(planted_examples(3, seed=1, family="never"), False)
    prior = Prior()
    prior.fit([*always, *never], [])

    def of_heads(family: str, variant: str = "base") -> torch.Tensor:
        seen, truth = planted_examples(1, seed=2, family=family)[0]
        said = prior.predict(replace(seen, variant=variant)).function_probability[:, 0]
        return said[truth.function_state[:, 0] != MASKED]

    assert (of_heads("always") > 0.95).all()
    assert (of_heads("never") < 0.1).all()
    assert (of_heads("always", "unseen variant") > 0.95).all()
    np.testing.assert_allclose(of_heads("unseen"), 9 / 12, atol=0.03)


def test_the_prior_knows_depth_where_it_does_not_know_the_family(planted_examples):
    def deep_only(examples):
        return [
            (s, replace(t, function_state=torch.where(s.graph.depth[:, None] > 0.5, t.function_state, 0)))
            for s, t in labelled(examples, True)
        ]

    prior = Prior()
    prior.fit(deep_only(planted_examples(9, seed=0)), [])
    seen = planted_examples(1, seed=2, family="unseen")[0][0]
    said, heads = prior.predict(seen).function_probability[:, 0], seen.graph.kinds == KINDS.index("head")
    assert (said[heads & (seen.graph.depth > 0.5)] > 0.95).all()
    assert (said[heads & (seen.graph.depth < 0.5)] < 0.1).all()


def test_the_prior_answers_with_the_most_frequent_answer_of_a_slice(fitted, planted_examples):
    seen, truth = planted_examples(1, seed=7)[0]
    said = fitted["prior", False].predict(seen)
    assert torch.equal(said.probe_answer, truth.probe_answer)
    assert said.slice_accuracy[0] == pytest.approx(0.9, abs=0.03)


def test_the_best_single_feature_is_the_planted_one_with_its_sign(planted_examples):
    def turned(examples):
        return [(replace(s, graph=replace(s.graph, nodes=-s.graph.nodes)), t) for s, t in examples]

    reader = best_single_feature()
    reader.fit(turned(planted_examples(20, seed=0)), turned(planted_examples(5, seed=1)))
    found, _ = precision(reader, turned(planted_examples(10, seed=2)))
    assert found == 1.0


def test_closed_forms_answer_nan_with_the_prior(planted_examples):
    train = planted_examples(15, seed=0)
    reader, prior = token_space(), Prior()
    reader.fit(train, train)
    prior.fit(train, train)
    seen = planted_examples(1, seed=3)[0][0]
    said, usual = reader.predict(seen), prior.predict(seen)
    heads = seen.graph.kinds == KINDS.index("head")
    assert torch.equal(said.function_probability[~heads], usual.function_probability[~heads])
    assert not torch.equal(said.function_probability[heads, 0], usual.function_probability[heads, 0])
    assert torch.equal(said.edge_member, usual.edge_member)


def test_neighbourhood_columns_hold_the_aggregates_of_a_naive_loop(planted_examples):
    seen = planted_examples(1, seed=0)[0][0]
    wide, own = neighbourhood_columns(seen), node_columns(seen)
    n, channels = len(own), seen.graph.edges.shape[-1]
    exists, edges = pairs_of(seen), seen.graph.edges.numpy()
    node = 4
    incoming = np.array([edges[i, node] for i in range(n) if exists[i, node]])
    outgoing = np.array([edges[node, j] for j in range(n) if exists[node, j]])
    expected = np.concatenate([incoming.mean(0), incoming.max(0), outgoing.mean(0), outgoing.max(0)])
    np.testing.assert_allclose(wide[node, -4 * channels :], expected, atol=1e-6)


def with_evidence(examples, seed: int, *, tell: bool):
    """Answers are where the heads' mean first channel is highest, or anywhere."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for seen, truth in examples:
        evidence = torch.randn(seen.evidence.shape, generator=generator)
        heads = seen.graph.kinds == KINDS.index("head")
        told = evidence[:, heads, :, 0].mean(1).argmax(1)
        drawn = torch.randint(0, evidence.shape[2], told.shape, generator=generator)
        answer = told if tell else drawn
        found.append((replace(seen, evidence=evidence), replace(truth, probe_answer=answer)))
    return found


@pytest.mark.parametrize("learn", [single_channel, conditional_logit, boosted_candidates])
def test_answers_are_found_in_evidence_and_not_in_noise(planted_examples, learn):
    accuracy = {}
    for tell in (True, False):
        train, validation, test = (
            with_evidence(planted_examples(n, seed=s), s, tell=tell) for n, s in ((20, 0), (6, 1), (15, 2))
        )
        answer = learn(train, validation)
        assert answer is not None
        hits = [(answer(seen) == truth.probe_answer).float().mean().item() for seen, truth in test]
        accuracy[tell] = np.mean(hits)
    assert accuracy[True] > 0.5
    assert accuracy[False] < 0.2


def of_two_vocabularies(examples, seed: int):
    """Every other subject has ten tokens, the rest sixteen; answers are where the evidence tells."""
    cut = [
        (replace(seen, evidence=seen.evidence[:, :, : 10 if i % 2 else None]), truth)
        for i, (seen, truth) in enumerate(examples)
    ]
    return with_evidence(cut, seed, tell=True)


@pytest.mark.parametrize("learn", [single_channel, conditional_logit, boosted_candidates])
def test_subjects_of_two_vocabularies_are_answered_together(planted_examples, learn):
    train, validation, test = (
        of_two_vocabularies(planted_examples(n, seed=s), s) for n, s in ((20, 0), (6, 1), (16, 2))
    )
    answer = learn(train, validation)
    assert answer is not None
    hits = [(answer(seen) == truth.probe_answer).float().mean().item() for seen, truth in test]
    assert np.mean(hits[::2]) > 0.5
    assert np.mean(hits[1::2]) > 0.5


def test_tokens_that_a_subject_lacks_are_never_picked_and_weigh_nothing(planted_examples):
    examples = of_two_vocabularies(planted_examples(6, seed=0), 0)

    def near_zero(x):  # where padding, which is zero, would win
        return -np.square(x).sum(2)

    hits = [
        near_zero(candidate_columns(seen)).argmax(1) == truth.probe_answer.numpy() for seen, truth in examples
    ]
    assert _Probes.of(examples).accuracy(near_zero) == pytest.approx(np.mean(hits))
    small = _Probes.of(examples[1::2])
    wide = replace(
        small,
        x=np.pad(small.x, ((0, 0), (0, 6), (0, 0))),
        known=np.pad(small.known, ((0, 0), (0, 6))),
    )
    one = np.ones(small.x.shape[2], dtype=np.float32)
    weights = _logit_weights(small, one, 1.0)  # a ridge under which few steps converge
    assert weights.any()
    np.testing.assert_allclose(_logit_weights(wide, one, 1.0), weights, atol=1e-4)


def test_empty_evidence_leaves_answers_to_the_prior(planted_examples):
    train = planted_examples(10, seed=0)
    reader = logistic()
    reader.fit(train, train)
    seen, truth = train[0]
    assert torch.equal(reader.predict(seen).probe_answer, truth.probe_answer)


def with_algorithms(planted_examples, n: int, seed: int, *, tell: bool = True):
    """Every third subject counts, every third sorts, the rest run nothing that is known; six
    features of heads tell which, or nothing does."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, (seen, truth) in enumerate(planted_examples(n, seed=seed)):
        heads = (seen.graph.kinds == KINDS.index("head")).float()
        shift = {0: 2.0, 1: -2.0, 2: 0.0}[i % 3] if tell else float(torch.randn(1, generator=generator))
        nodes = seen.graph.nodes.clone()
        nodes[:, :6] += shift * heads[:, None]
        algorithm = {0: "count", 1: "sort", 2: ""}[i % 3]
        found.append(
            (replace(seen, graph=replace(seen.graph, nodes=nodes)), replace(truth, algorithm=algorithm))
        )
    return found


def test_readers_are_asked_for_programs_that_two_training_subjects_run(planted_examples):
    truths = [truth for _, truth in with_algorithms(planted_examples, 7, 0)]
    assert [truth.algorithm for truth in truths] == ["count", "sort", "", "count", "sort", "", "count"]
    assert algorithm_names(truths) == ("count", "sort")
    assert algorithm_names(truths[:4]) == ("count",)
    named = [algorithm_in(truth, ("count",)) for truth in truths[:3]]
    assert named == ["count", NONE_OF_THESE, ""]


@pytest.mark.parametrize("learn", [nearest_algorithm, linear_algorithm, boosted_algorithm])
def test_algorithms_are_found_in_pooled_features_and_not_in_noise(planted_examples, learn):
    right = {}
    for tell in (True, False):
        train, validation, test = (
            with_algorithms(planted_examples, n, seed, tell=tell) for n, seed in ((30, 0), (9, 1), (60, 2))
        )
        name = learn(train, validation)
        assert name is not None
        known = [(seen, truth) for seen, truth in test if truth.algorithm]
        right[tell] = np.mean([name(seen) == truth.algorithm for seen, truth in known])
    assert right[True] > 0.85
    assert right[False] < 0.75


@pytest.mark.parametrize("learn", [nearest_algorithm, linear_algorithm, boosted_algorithm])
def test_one_algorithm_or_none_leaves_nothing_to_learn(planted_examples, learn):
    examples = with_algorithms(planted_examples, 9, 0)
    assert learn(planted_examples(3, seed=0), []) is None
    assert learn(examples[::3], examples) is None
    alone = [*examples[::3], (examples[1][0], replace(examples[1][1], algorithm="alone"))]
    name = learn(alone, [])
    assert name is not None
    assert name(examples[4][0]) in ("count", NONE_OF_THESE)


def test_subject_columns_are_those_of_a_naive_loop_and_stand_without_mlps(planted_examples):
    seen = planted_examples(1, seed=0)[0][0]
    nodes, kinds = seen.graph.nodes.double().numpy(), [KINDS[k] for k in seen.graph.kinds]
    expected = []
    for kind in ("head", "mlp"):
        own = np.array([row for row, of in zip(nodes, kinds, strict=True) if of == kind])
        expected += [*own.mean(0), *own.max(0)]
    np.testing.assert_allclose(subject_columns(seen), [*expected, 2, 4])
    heads_only = replace(
        seen.graph, kinds=torch.where(seen.graph.kinds == KINDS.index("mlp"), 0, seen.graph.kinds)
    )
    columns = subject_columns(replace(seen, graph=heads_only))
    assert len(columns) == len(expected) + 2
    assert not columns[len(expected) // 2 : -2].any()


def test_the_prior_names_the_most_frequent_algorithm_of_the_shape_and_is_not_told_by_the_family(
    planted_examples,
):
    def run(algorithm: str, n: int, seed: int, **made):
        return [(s, replace(t, algorithm=algorithm)) for s, t in planted_examples(n, seed=seed, **made)]

    small, deep = {"size": (1, 2)}, {"size": (3, 2)}
    prior = Prior()
    prior.fit([*run("sort", 3, 0, **small), *run("count", 2, 1, **small), *run("count", 4, 2, **deep)], [])

    def named(**made) -> str:
        return prior.predict(planted_examples(1, seed=5, **made)[0][0]).algorithm

    assert named(**small) == named(**small, family="count") == "sort"
    assert named(**deep) == "count"
    assert named(size=(2, 4)) == "count"
    prior.fit(planted_examples(3, seed=0), [])
    assert named(**small) == NONE_OF_THESE


def test_opponents_that_learn_algorithms_answer_them_and_others_as_the_prior_does(planted_examples):
    train, validation = (with_algorithms(planted_examples, n, seed) for n, seed in ((15, 0), (6, 1)))
    prior = Prior()
    prior.fit(train, validation)
    test = [(seen, truth) for seen, truth in with_algorithms(planted_examples, 12, 2) if truth.algorithm]
    usual = prior.predict(test[0][0]).algorithm
    for reader in (nearest(), logistic(), boosted_trees()):
        reader.fit(train, validation)
        hits = [reader.predict(seen).algorithm == truth.algorithm for seen, truth in test]
        assert np.mean(hits) > 0.7, reader.name
    reader = token_space()
    reader.fit(train, validation)
    assert {reader.predict(seen).algorithm for seen, _ in test} == {usual}


def test_the_meta_model_stands_behind_the_same_interface(fitted, planted_examples):
    seen = planted_examples(1, seed=0)[0][0]
    prior = fitted["prior", False]
    wrapped = MetaModel(prior.predict)
    wrapped.fit([], [])
    assert wrapped.name == "meta-model"
    assert torch.equal(wrapped.predict(seen).node_member, prior.predict(seen).node_member)
