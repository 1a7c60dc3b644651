"""Components transplanted together: a copy does all of the work along the growth, a stranger breaks it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from metamodel.analogy.cumulative import Together, cumulative_transplant
from metamodel.analogy.graph import circuit_graph
from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE
from metamodel.analogy.transplant import transplant
from metamodel.behaving import Behaving, Places, check_subjects, transplanted
from metamodel.circuits.exact import edge_scores
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import InputError
from metamodel.mapping import Mapping
from metamodel.subjects.config import components
from metamodel.subjects.gauge import gauge_element


def tokens(seed: int, n: int) -> torch.Tensor:
    return torch.randint(9, (n, 7), generator=torch.Generator().manual_seed(seed))


PROMPTS, SOURCES, PROBES = tokens(1, 200), tokens(2, 200), tokens(3, 100)
POSITION = torch.full((200,), 6)


def inner(subject) -> list[int]:
    return [i for i, node in enumerate(components(subject.config)) if node.kind in ("head", "mlp")]


def together(first, second, pairs, **more) -> tuple[Together, ...]:
    return cumulative_transplant(
        first, second, torch.tensor(pairs), PROMPTS, SOURCES, POSITION, probes=PROBES, **more
    )


def copy_of(subject, seed: int = 4):
    """In another gauge, and where each component went."""
    moved = gauge_element(subject, torch.Generator().manual_seed(seed))
    return moved.subject, {old: new for new, old in enumerate(moved.node_order.tolist())}


def test_a_copy_in_another_gauge_does_all_of_the_work_all_along_and_a_stranger_breaks_it(make_subject):
    subject = make_subject(3, n_heads=4)
    copy, there = copy_of(subject)
    names = components(subject.config)
    true = [[i, there[i]] for i in sorted(inner(subject), key=lambda i: (names[i].kind != "mlp", i))]
    found = together(subject, copy, true)
    assert [one.n_pairs for one in found] == list(range(1, len(true) + 1))
    known = [one.ratio for one in found if one.ratio == one.ratio]
    assert len(known) >= len(true) // 2
    assert min(known) > 0.97
    assert found[-1].within == 1
    # the last head gets L0H0 for a stranger: all before it is as it was, and then it breaks
    wrong = [*true[:-1], [2, true[-1][1]]]
    broken = together(subject, copy, wrong)
    assert [one.match for one in broken[:-1]] == pytest.approx([one.match for one in found[:-1]], nan_ok=True)
    assert broken[-1].ratio < found[-1].ratio - 0.05


def test_heads_of_one_layer_that_change_places_write_the_same_sum(make_subject):
    """A limit of the measure: from where both are transplanted, nothing tells that they are exchanged."""
    subject = make_subject(3, n_heads=4)
    a, b = (i for i, node in enumerate(components(subject.config)) if node.name in ("L1H0", "L1H1"))
    first, both = together(subject, subject, [[a, b], [b, a]])
    assert first.match < 0.95
    assert both.match == 1


def test_one_pair_alone_is_the_single_transplant_and_the_null_is_of_other_components(make_subject):
    subject = make_subject(3, n_heads=4)
    other = make_subject(5, n_heads=4)
    for i in inner(subject)[:6]:
        (one,) = together(subject, other, [[i, i]])
        (single,) = transplant(
            subject, other, torch.tensor([[i, i]]), PROMPTS, SOURCES, POSITION, probes=PROBES
        )
        assert one.n_places == single.n_places
        assert (one.match, one.within) == pytest.approx((single.match, single.within), nan_ok=True)
    (first,) = together(subject, subject, [[2, 2]])
    assert first.null < first.match
    assert together(subject, subject, [[2, 2]], seed=1)[0].match == first.match


def test_too_few_places_and_no_room_say_nothing():
    nan = float("nan")
    assert Together(n_pairs=1, n_places=9, match=0.8, null=0.2, within=1.0).ratio == pytest.approx(0.75)
    assert math.isnan(Together(n_pairs=1, n_places=9, match=0.8, null=0.99, within=1.0).ratio)
    assert math.isnan(Together(n_pairs=1, n_places=2, match=nan, null=nan, within=nan).ratio)


def test_pairs_of_other_kinds_are_refused(make_subject):
    subject = make_subject(1)
    with pytest.raises(InputError, match="pairs: expected two heads, or two MLPs, got L0H0 and MLP0"):
        together(subject, subject, [[2, 4]])


def behaving(subject) -> Behaving:
    prompts = Prompts(
        clean=tokens(6, 120),
        corrupt=tokens(7, 120),
        position=torch.full((120,), 6),
        answer=torch.zeros(120, dtype=torch.long),
        corrupt_answer=torch.ones(120, dtype=torch.long),
        slice=torch.zeros(120, dtype=torch.long),
        slice_names=("all",),
    )
    return Behaving(subject=subject, prompts=prompts)


def mapped(first, second, counterpart: dict[int, int]) -> Mapping:
    """A mapping that a matcher might have given: every component with its counterpart."""
    graphs = [
        circuit_graph(side.subject.config, edge_scores(side.subject, side.prompts, "noising").margin.float())[
            0
        ]
        for side in (first, second)
    ]
    ours, theirs = ([node.name for node in components(side.subject.config)] for side in (first, second))
    pairs = torch.full((len(graphs[0]),), NONE)
    for i, j in counterpart.items():
        if ours[i] in graphs[0].names and theirs[j] in graphs[1].names:
            pairs[graphs[0].names.index(ours[i])] = graphs[1].names.index(theirs[j])
    p = torch.zeros(len(graphs[0]), len(graphs[1]))
    return Mapping.of(
        graphs[0], graphs[1], Match(p=p, pairs=pairs, score=0.0), null_share=float("nan"), keep_above=0.5
    )


def test_a_mapping_says_how_the_analogy_holds_as_it_grows(make_subject):
    subject = make_subject(3, n_heads=4)
    copy, there = copy_of(subject)
    first, second = behaving(subject), behaving(copy)
    mapping = mapped(first, second, there)
    assert mapping.transplants is None
    assert "transplant" not in mapping.to_pandas().columns
    assert json.loads(mapping.to_json())["transplants"] is None
    assert len(mapping.plot().axes) == 1
    found = transplanted(mapping, first, second)
    assert len(found) == len(mapping.pairs)
    assert len(found) > 3
    assert min(one for one in found if not math.isnan(one)) > 0.9
    told = replace(mapping, transplants=(float("nan"), *found[1:]))
    assert told.to_pandas()["transplant"].tolist()[1] == found[1]
    held = json.loads(told.to_json())["transplants"]
    assert held[0] is None
    assert held[1:] == list(found[1:])
    assert len(told.plot().axes) == 2
    empty = mapped(first, second, {})
    assert transplanted(empty, first, second) == ()


def test_a_circuit_without_its_subject_cannot_be_transplanted(make_subject):
    side = behaving(make_subject(1))
    graph = mapped(side, side, {}).first
    check_subjects(side, side)
    with pytest.raises(InputError, match="second: expected a subject with prompts or a triple"):
        check_subjects(side, graph)


def test_half_of_the_prompts_fit_the_map_and_the_other_half_are_counted(make_subject):
    side = behaving(make_subject(1))
    places = Places.of(side)
    assert torch.equal(places.probes, side.prompts.clean[:60])
    assert torch.equal(places.prompts, side.prompts.clean[60:])
    assert torch.equal(places.sources, side.prompts.corrupt[60:])
    few = Behaving(subject=side.subject, prompts=side.prompts.where(torch.tensor([0])))
    with pytest.raises(InputError, match="prompts: expected two or more"):
        Places.of(few)
