"""Scores of edits against what is counted by hand, and the card of an editor."""

import math
from dataclasses import replace

import edit_ranks
import torch

from metamodel.baselines.editing.aims import truth
from metamodel.baselines.editing.suffix import suffix
from metamodel.config.edits import FAR, IN_SCOPE, KEEP, NEAR, PAIR
from metamodel.evaluation.bootstrap import interval, resampled_weights
from metamodel.evaluation.editing.card import METHODS, METRICS, SPLITS
from metamodel.evaluation.editing.controls import shuffled
from metamodel.evaluation.editing.measures import equivalent
from metamodel.evaluation.editing.scores import EditScores, logits_of, scores
from metamodel.evaluation.metrics import auroc
from metamodel.evaluation.report import EDIT_REFERENCES


def test_no_change_keeps_everything_and_reaches_nothing(taught, specified):
    episode = specified(taught, 4)
    few = episode.examples.role != KEEP
    examples = replace(
        episode.examples,
        **{name: getattr(episode.examples, name)[few] for name in ("tokens", "position", "role", "wanted")},
    )
    found = scores(replace(episode, examples=examples, inputs=episode.inputs[few]), {})
    assert found.efficacy == found.generalisation == 0
    assert found.locality_near == found.locality_far == 1
    assert found.kl == 0
    assert math.isnan(found.two_hop)
    assert found.harmonic_mean < 0.01
    assert math.isnan(scores(episode, {}).locality_far)  # all that stays was shown


def test_shares_are_those_that_are_counted_one_by_one(taught, specified):
    episode = specified(taught, 4)
    change = {"unembed.b_U": torch.zeros(12)}
    change["unembed.b_U"][2] = 100.0  # whatever is asked, 2 is answered
    found = scores(episode, change)
    subject, edit = taught.subject, taught.edits[0]
    old = logits_of(subject.config, subject.weights, taught.tokens).argmax(-1)
    pairs = set(episode.inputs[episode.examples.role == PAIR].tolist())
    kept = set(episode.inputs[(episode.examples.role != PAIR)].tolist()) - pairs
    hits = [int(edit.wanted[i]) == 2 for i in pairs]
    assert found.efficacy == sum(hits) / len(hits)
    rest = [i for i in range(len(old)) if edit.scope[i] == IN_SCOPE and i not in pairs]
    assert abs(found.generalisation - sum(int(edit.wanted[i]) == 2 for i in rest) / len(rest)) < 1e-6
    assert kept
    assert math.isnan(found.unseen)
    hidden = edit.wanted == 2
    assert scores(replace(episode, editable=replace(taught, unseen=hidden)), change).unseen == 1
    assert scores(replace(episode, editable=replace(taught, unseen=~hidden)), change).unseen == 0
    assert found.kl > 1
    assert {FAR, NEAR} <= set(edit.scope.tolist())


def test_the_harmonic_mean_is_of_what_applies():
    nan = math.nan
    one = EditScores(
        efficacy=1.0,
        in_scope=0.6,
        generalisation=0.5,
        unseen=0.0,
        locality_near=nan,
        locality_far=1.0,
        two_hop=0.0,
        kl=0.0,
    )
    assert abs(one.harmonic_mean - 3 / (1 + 2 + 1)) < 1e-9


def test_a_shuffled_specification_shows_the_same_inputs_with_other_answers(taught, specified):
    episode = specified(taught, 8)
    other = shuffled(episode)
    pair = episode.examples.role == PAIR
    assert torch.equal(other.examples.tokens, episode.examples.tokens)
    assert not torch.equal(other.examples.wanted[pair], episode.examples.wanted[pair])
    assert torch.equal(other.examples.wanted[~pair], episode.examples.wanted[~pair])
    assert torch.isin(other.examples.wanted[pair], episode.examples.answers).all()


def test_the_area_under_the_curve_counts_pairs_and_ties_half():
    import numpy as np

    said, good = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    measure = auroc(good, said, np.arange(4))
    assert interval(measure, resampled_weights(4, seed=0)).value == (2 + 1.5) / 4
    assert math.isnan(interval(auroc(good | True, said, np.arange(4)), resampled_weights(4, seed=0)).value)


def test_steps_of_fine_tuning_are_the_fewest_that_reach_as_much():
    curve = {1: 0.1, 10: 0.4, 100: 0.6}
    assert [equivalent(curve, s) for s in (0.05, 0.3, 0.6, 0.7)] == [1, 10, 100, 200]


def test_every_method_metric_and_split_of_an_editor_is_put_in_words():
    assert set(METHODS) >= EDIT_REFERENCES
    assert {"edit", "seed", "size", "task", "kind"} == set(SPLITS)
    assert {"harmonic_mean", "normalised_gain", "forecast_auroc"} <= set(METRICS)


def test_the_least_rank_of_a_rule_at_the_last_writer_is_found_and_a_lesser_one_fails(taught, specified):
    episode = specified(taught, 4)
    rank = edit_ranks.least(episode, edit_ranks.WRITER)
    assert rank in edit_ranks.RANKS[1:]  # five answers move: one direction does not carry them
    aims = truth(episode)
    end = suffix(taught.subject, aims.tokens, aims.position)
    one = scores(episode, edit_ranks.trained(end, aims, edit_ranks.WRITER, 1)).harmonic_mean
    enough = scores(episode, edit_ranks.trained(end, aims, edit_ranks.WRITER, rank)).harmonic_mean
    assert one < 0.9 <= enough
    assert edit_ranks.median([1, None, 4]) == 4
    assert edit_ranks.median([None, None, 4]) is None
    assert "| over 16 | 2 |" in edit_ranks.table({"x": {"a": None, "b": 2.0}})
