"""Opponents that are told what follows where answers are sums."""

import functools
from dataclasses import replace

import pytest
import torch
from planted_sums import planted
from trained_subject import said_of, taught

from metamodel.baselines.editing import Episode
from metamodel.baselines.editing.base import Opponent
from metamodel.baselines.editing.given_sums import GivenSums, following, with_sums
from metamodel.config.edits import CHANCE, IN_SCOPE, KEEP, NEAR, PAIR, UNLABELLED
from metamodel.features.proportions import UNKNOWN
from metamodel.subjects import Subject, SubjectConfig
from metamodel.triples.edits import Edit, Editable, Examples

P = 7
TOKENS, RIGHT = planted(P)
TABLE = torch.randint(P, RIGHT.shape, generator=torch.Generator().manual_seed(0))
SHAPE = SubjectConfig(
    n_layers=1, n_heads=2, d_model=32, d_head=16, d_mlp=128, d_vocab=20, n_ctx=4, normalization_type="none"
)


@functools.cache
def damaged(left: float = 0.4) -> Subject:
    """A subject that adds, of a head of which so much is left."""
    whole = taught(SHAPE, TOKENS, RIGHT, seed=0, steps=300, weight_decay=0.0)
    name, factor = "blocks.0.attn.W_O", torch.tensor([1.0, left])
    return whole.with_weights({**whole.weights, name: whole.weights[name] * factor[:, None, None]})


def examples_of(subject: Subject, right: torch.Tensor, n_pairs: int = 4, n_keeps: int = 20) -> Examples:
    wrong = said_of(subject, TOKENS).argmax(-1) != right
    drawn = torch.randperm(len(right), generator=torch.Generator().manual_seed(1))
    role = torch.full_like(right, UNLABELLED)
    role[drawn[wrong[drawn]][:n_pairs]], role[drawn[~wrong[drawn]][:n_keeps]] = PAIR, KEEP
    assert (role == PAIR).sum() == n_pairs
    assert (role == KEEP).sum() == n_keeps
    wanted = torch.where(role == PAIR, right, 0)
    position = torch.full_like(right, 3)
    return Examples(tokens=TOKENS, position=position, role=role, wanted=wanted, answers=torch.arange(P))


def repair(subject: Subject, kind: str = "repair") -> Episode:
    wrong = said_of(subject, TOKENS).argmax(-1) != RIGHT
    scope = torch.where(wrong, IN_SCOPE, NEAR)
    edit = Edit(kind=kind, rule="", wanted=RIGHT, scope=scope, pool=wrong, n_pairs=0)
    editable = Editable(
        subject=subject,
        family="adder",
        lineage="0",
        departs="none",
        tokens=TOKENS,
        answer=RIGHT,
        answers=torch.arange(P),
        unseen=torch.zeros_like(wrong),
        edits=(edit,),
        quality={},
    )
    examples = examples_of(subject, RIGHT)
    return Episode(editable=editable, edit=edit, examples=examples, inputs=torch.arange(len(RIGHT)))


def test_what_follows_is_told_as_pairs_where_the_subject_errs_and_as_inputs_to_keep_elsewhere():
    subject = damaged()
    shown = examples_of(subject, RIGHT)
    told, says = with_sums(subject, shown), said_of(subject, TOKENS).argmax(-1)
    before = shown.role != UNLABELLED
    assert torch.equal(told.role[before], shown.role[before])
    new = ~before & (told.role != UNLABELLED)
    assert new.double().mean() > 0.4
    assert torch.equal(told.role[new] == KEEP, (says == RIGHT)[new])
    assert torch.equal(told.wanted[told.role == PAIR], RIGHT[told.role == PAIR])


def test_what_equations_leave_open_is_settled_by_what_a_subject_says_that_is_to_be_repaired():
    """Two tokens that nothing shows could have either value."""
    subject = damaged(0.8)
    hidden = ((TOKENS[:, 1:3] == 10) | (TOKENS[:, 1:3] == 11)).any(1)
    right = said_of(subject, TOKENS).argmax(-1) == RIGHT
    shown = replace(examples_of(damaged(), RIGHT), role=torch.where(right & ~hidden, KEEP, UNLABELLED))
    strict, settled = (following(subject, shown, kind)[1] for kind in ("rule", "repair"))
    assert (strict[hidden] == UNKNOWN).all()
    assert (settled[hidden] == RIGHT[hidden]).double().mean() > 0.9


def test_tables_and_removals_are_told_nothing_more():
    subject = damaged()
    shown = examples_of(subject, TABLE, n_pairs=30, n_keeps=6)
    assert (following(subject, shown)[1] == UNKNOWN).all()
    assert torch.equal(with_sums(subject, shown).role, shown.role)
    shown = examples_of(damaged(), RIGHT)
    # read as the first answer, what is removed would be right
    role = shown.role.masked_fill(shown.role == PAIR, UNLABELLED)
    role[(RIGHT == 0) & (role == UNLABELLED)] = PAIR
    removal = replace(shown, role=role, wanted=torch.where(role == PAIR, CHANCE, 0))
    assert (role == PAIR).sum() > 4
    assert torch.equal(with_sums(damaged(), removal).role, role)


class Counting(Opponent):
    """Proposes how many pairs it was told, and how many at most in tuning."""

    def __init__(self, judge):
        self.judge, self.most = judge, 0

    @property
    def name(self) -> str:
        return "counting"

    def tune(self, episodes):
        self.most = max(int((e.examples.role == PAIR).sum()) for e in episodes)
        assert all(self.judge(e, {}) == -1 for e in episodes)

    def propose(self, subject, examples, kind=""):
        return {"told": (examples.role == PAIR).sum(), "tuned": torch.tensor(self.most)}


@pytest.mark.parametrize("helps", [True, False])
def test_a_family_is_told_more_where_that_helped_in_tuning(helps):
    one = repair(damaged())

    def judge(episode, changes):
        # of what is shown, whatever it is told beside
        assert (episode.examples.role == PAIR).sum() == 4
        return (1 if helps else -1) * float(changes["told"]) if changes else -1

    opponent = GivenSums(judge, Counting)
    assert opponent.name == "counting_sums"
    opponent.tune([one])
    assert opponent.helped == {"": helps, "repair": helps}
    found = opponent.propose(one.editable.subject, one.examples, "repair")
    assert (found["told"] > 4) == (found["tuned"] > 4) == helps
    # of another family nothing was seen: what is best over all
    assert (opponent.propose(one.editable.subject, one.examples, "rewrite")["told"] > 4) == helps
    before = GivenSums(judge, Counting).propose(one.editable.subject, one.examples, "repair")
    assert before["told"] == 4
