"""Rewordings of what is shown: of a subject that answers a table in four orders of words, one never shown."""

import dataclasses
import functools

import pytest
import torch
from trained_subject import said_of, taught

from metamodel.config.edits import KEEP, PADDING, PAIR, UNLABELLED
from metamodel.features import rewordings as module
from metamodel.features.observed import Observed, Told, last_writer, observed, read_at
from metamodel.features.rewordings import Reworded, reworded, rewordings
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.targets import WAYS, Targets
from metamodel.networks.editing.told import told_batch
from metamodel.subjects import Subject, SubjectConfig
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.gauge import random_gauge
from metamodel.triples.edits import Examples

KEYS, RELATIONS = 6, 2
WORD, QUERY = KEYS + RELATIONS, KEYS + RELATIONS + 1
ORDERS = ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1))
"""Of key, relation and word; the last is not shown."""
FACTS = torch.cartesian_prod(torch.arange(KEYS), torch.arange(KEYS, WORD), torch.tensor([WORD]))
TABLE = torch.randint(KEYS, (len(FACTS),), generator=torch.Generator().manual_seed(0))
ALL = torch.cat(
    [torch.cat([FACTS[:, list(order)], torch.full((len(FACTS), 1), QUERY)], 1) for order in ORDERS]
)
N_SHOWN = 3 * len(FACTS)
SHAPE = SubjectConfig(n_layers=1, n_heads=2, d_model=24, d_head=12, d_mlp=64, d_vocab=QUERY + 1, n_ctx=4)
UNSEEN = set(map(tuple, ALL[N_SHOWN:].tolist()))


@functools.cache
def subject() -> Subject:
    return taught(SHAPE, ALL, TABLE.repeat(4), seed=0, steps=400, weight_decay=0.0)


def examples(tokens: torch.Tensor = ALL[:N_SHOWN], n_pairs: int = 1) -> Examples:
    """The first facts become others; the next are to stay."""
    role = torch.full((len(tokens),), UNLABELLED)
    role[:n_pairs], role[n_pairs : n_pairs + 4] = PAIR, KEEP
    return Examples(
        tokens=tokens,
        position=torch.full((len(tokens),), tokens.shape[1] - 1),
        role=role,
        wanted=torch.where(role == PAIR, (TABLE.repeat(4)[: len(tokens)] + 1) % KEYS, 0),
        answers=torch.arange(KEYS),
    )


def asked(of: Subject, shown: Examples) -> tuple[Told, Observed]:
    told = told_batch([editing_form(of)], [shown])
    return told, observed(told)


def found(of: Subject, shown: Examples) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Rewordings, and the tokens of what each rewords."""
    told, seen = asked(of, shown)
    got = rewordings(told, seen, 0)
    if got is None:
        return {}
    of_each = told.tokens[0, got.source].tolist()
    return dict(zip(map(tuple, got.tokens.tolist()), map(tuple, of_each), strict=True))


def test_the_order_of_words_that_is_not_shown_is_found_and_asks_the_same():
    got = found(subject(), examples())
    assert set(got) >= UNSEEN
    assert not set(got) & set(map(tuple, ALL[:N_SHOWN].tolist()))
    for made, source in got.items():
        assert sorted(made) == sorted(source)
        assert made[-1] == QUERY
    said = [said_of(subject(), torch.tensor(list(rows))).argmax(-1) for rows in (got, got.values())]
    assert torch.equal(*said)


def test_what_is_answered_otherwise_or_less_surely_is_no_rewording(monkeypatch):
    told, seen = asked(subject(), examples())
    other = dataclasses.replace(seen, old=seen.old.roll(1, dims=2))
    assert rewordings(told, other, 0) is None
    monkeypatch.setattr(module, "SURE", 1.5)
    assert rewordings(told, seen, 0) is None


def test_an_order_under_which_few_answers_stay_rewords_nothing(monkeypatch):
    told, seen = asked(subject(), examples())
    monkeypatch.setattr(module, "LEAST_ALIKE", 1.1)
    assert rewordings(told, seen, 0) is None


def test_too_few_inputs_of_an_order_and_answers_that_are_all_the_same_prove_nothing(monkeypatch):
    told, seen = asked(subject(), examples())
    monkeypatch.setattr(module, "LEAST_TRIED", N_SHOWN + 1)
    assert rewordings(told, seen, 0) is None
    monkeypatch.undo()
    weights = {**subject().weights, "unembed.b_U": subject().weights["unembed.b_U"].clone()}
    weights["unembed.b_U"][0] += 100.0
    assert not found(subject().with_weights(weights), examples())
    assert found(subject(), examples())


def test_the_answer_must_be_the_likeliest_also_where_a_subject_is_unsure():
    old = torch.tensor([0.4, 0.35, 0.25]).repeat(9, 1)
    old[::3] = old[::3].roll(1, dims=1)
    said = torch.tensor([0.38, 0.42, 0.2]).repeat(9, 1)
    said[::3] = said[::3].roll(1, dims=1)
    new = torch.ones(1, 9, dtype=torch.bool)
    assert module._alike(old, old[None], new).all()
    assert not module._alike(old, said[None], new).any()


def test_of_many_places_only_some_exchanges_are_tried():
    assert len(module._orders(4, 100)) == 23
    assert len(module._orders(4, 7)) == 7
    orders = module._orders(12, 100)
    assert len(orders) == module.MOST_ORDERS
    assert ((orders != torch.arange(12)).sum(1) == 2).all()
    assert len(module._orders(6, 100)) == 15


def test_where_every_order_is_shown_or_no_places_correspond_there_are_none():
    assert found(subject(), examples(ALL)).keys().isdisjoint(UNSEEN)
    shorter = examples()
    shorter.position[-1] = 2
    assert not found(subject(), shorter)
    one = ALL[:KEYS].clone()
    one[:] = one[0]
    one[:, 0] = torch.arange(KEYS)
    told, seen = asked(subject(), examples(one))
    assert reworded(told, seen) is None


@pytest.fixture
def counted(monkeypatch) -> list[torch.Tensor]:
    """Inputs that a subject is asked, by run."""
    runs = []

    def counting(config, weights, tokens: torch.Tensor, position: torch.Tensor) -> tuple:
        runs.append(tokens[0])
        return read_at(config, weights, tokens, position)

    monkeypatch.setattr(module, "read_at", counting)
    return runs


@pytest.mark.parametrize("most", [1, 2])
def test_a_subject_is_asked_no_more_inputs_than_it_may_be(most, monkeypatch, counted):
    monkeypatch.setattr(module, "MOST_TRIED", most)
    monkeypatch.setattr(module, "MOST_FIRST", 4)
    monkeypatch.setattr(module, "LEAST_TRIED", 4)
    found(subject(), examples(ALL[:24]))
    asked = [tuple(row) for run in counted for row in run.tolist()]
    assert len(set(asked)) == len(asked) <= 24 * most


def test_of_orders_that_reword_what_pairs_ask_is_asked_first_and_of_others_no_more(monkeypatch, counted):
    monkeypatch.setattr(module, "MOST_FIRST", 4)
    monkeypatch.setattr(module, "LEAST_TRIED", 4)
    got, shown = found(subject(), examples(n_pairs=4)), {tuple(sorted(row)) for row in ALL[:4].tolist()}
    first, then = counted
    assert {made for made in UNSEEN if tuple(sorted(made)) in shown} <= set(got)
    asked_for_pairs = [tuple(sorted(row)) in shown for row in then.tolist()]
    assert asked_for_pairs == sorted(asked_for_pairs, reverse=True)
    assert True in asked_for_pairs
    assert False in asked_for_pairs
    counted.clear()
    monkeypatch.setattr(module, "LEAST_ALIKE", 1.1)
    found(subject(), examples(n_pairs=4))
    assert [run.tolist() for run in counted] == [first.tolist()]


def test_neither_a_gauge_nor_the_order_of_examples_changes_what_is_found():
    plain = found(subject(), examples())
    assert found(random_gauge(subject(), torch.Generator().manual_seed(0)), examples()) == plain
    order = torch.randperm(N_SHOWN, generator=torch.Generator().manual_seed(0))
    parts = {name: getattr(examples(), name)[order] for name in ("tokens", "position", "role", "wanted")}
    assert found(subject(), dataclasses.replace(examples(), **parts)) == plain


def test_padding_changes_nothing_and_is_never_reworded():
    few, many = examples(ALL[: len(FACTS)]), examples()
    form = editing_form(subject())
    both = told_batch([form, form], [few, many])
    batch = reworded(both, observed(both))
    assert batch is not None
    for i, one in enumerate((few, many)):
        alone = reworded(*asked(subject(), one))
        assert alone is not None
        n = len(alone.source[0])
        assert int(batch.mask[i].sum()) == n
        assert torch.equal(batch.source[i, :n], alone.source[0])
        torch.testing.assert_close(batch.hidden[i, :n], alone.hidden[0])
        torch.testing.assert_close(batch.stream[i, :n], alone.stream[0])
        assert (both.role[i, batch.source[i, batch.mask[i]]] != PADDING).all()


@functools.cache
def editor(*without: str) -> Editor:
    torch.manual_seed(0)
    sizes = {"width": 8, "map_width": 8, "map_layers": 1, "n_steps": 32}
    return Editor(**sizes, without=without).double().eval()


@torch.no_grad()
def answered(*without: str, deep: bool = True) -> torch.Tensor:
    """What the edited subject answers in the order that was not shown."""
    told, _ = asked(subject(), examples())
    edited = editor(*without)(told, deep=deep)
    form = editing_form(subject())
    changed = form.with_weights(
        {k: w + edited.changes[k][0] if k in edited.changes else w for k, w in form.weights.items()}
    )
    return said_of(changed, ALL[N_SHOWN:])


def test_rewordings_are_written_in_use_alone_and_can_be_left_out():
    assert torch.equal(answered(deep=False), answered("rewordings", deep=False))
    assert not torch.equal(answered(), answered("rewordings"))


@torch.no_grad()
def test_a_whole_last_mlp_is_written_on_rewordings_too_alone_and_beside_a_subject_that_has_none(monkeypatch):
    monkeypatch.setattr("metamodel.networks.editing.editor.WHOLE", -1.0)
    sizes = {"width": 8, "map_width": 8, "map_layers": 1, "n_steps": 4, "deep_steps": 3}
    torch.manual_seed(0)
    network = Editor(**sizes).double().eval()
    torch.manual_seed(0)
    without = Editor(**sizes, without=("rewordings",)).double().eval()
    form, few = editing_form(subject()), examples(ALL[:3])
    told, _ = asked(subject(), examples())
    assert reworded(*asked(subject(), few)) is None
    both = told_batch([form, form], [few, examples()])
    alone, batch = network(told, deep=True), network(both, deep=True)
    assert alone.looks.shape == without(told, deep=True).looks.shape
    for name, change in alone.changes.items():
        torch.testing.assert_close(batch.changes[name][1], change[0], rtol=0, atol=1e-6)
        assert not torch.allclose(change, without(told, deep=True).changes[name], atol=1e-3)


@torch.no_grad()
def test_what_is_wanted_of_an_example_is_written_into_its_rewordings():
    """Of targets that are the truth; what is not shown comes nearer to it."""
    told, seen = asked(subject(), examples(n_pairs=4))
    wanted = TABLE.clone()
    wanted[:4] = (wanted[:4] + 1) % KEYS
    of_each = {tuple(row[:3].sort().values.tolist()): int(to) for row, to in zip(ALL, wanted, strict=False)}
    truth = torch.tensor([of_each[tuple(sorted(row[:3]))] for row in told.tokens[0].tolist()])
    inside = (truth != seen.old[0].argmax(-1)).double()[None]
    targets = dataclasses.replace(
        editor().read(seen),
        inside=inside,
        sure=torch.ones_like(inside),
        wanted=torch.nn.functional.one_hot(truth, KEYS).double()[None],
    )
    name, form = last_writer(SHAPE), editing_form(subject())

    def way(*names: str) -> Targets:
        share = torch.tensor([[float(name in names) / len(names) for name in WAYS]], dtype=torch.float64)
        return dataclasses.replace(targets, share=share)

    def far(more: Reworded | None, targets: Targets) -> float:
        change = editor().write(told, seen, targets, targets.summary, more)[0]
        changed = form.with_weights({**form.weights, name: form.weights[name] + change})
        return float(torch.nn.functional.cross_entropy(said_of(changed, ALL[N_SHOWN:]), wanted))

    more, plain = reworded(told, seen), way("copy")
    assert far(more, plain) < 0.5 * far(None, plain)
    # one that is masked weighs nothing
    assert more is not None
    masked = dataclasses.replace(more, mask=torch.zeros_like(more.mask))
    assert far(masked, plain) == pytest.approx(far(None, plain))
    # nor does any where what is wanted is read off an input itself, and less where it half is
    for itself in ("borrow", "second"):
        assert far(more, way(itself)) == pytest.approx(far(None, plain))
        assert far(more, plain) < far(more, way(itself, "copy")) < far(None, plain)
