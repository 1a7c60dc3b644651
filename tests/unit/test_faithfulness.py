"""Circuits run alone, and what is said of them: curves, dangling edges, redundancy, stability."""

import dataclasses

import pytest
import torch

from metamodel.circuits import component_edges
from metamodel.circuits.base_run import base_run
from metamodel.circuits.exact import Exact
from metamodel.circuits.faithfulness import CircuitRunner, Curve, curve_sizes, first_edges
from metamodel.circuits.masked import masked_logits
from metamodel.circuits.pruning import without_dangling
from metamodel.circuits.quality import SMALLEST_USE, damage, redundant, selectivity, stability
from metamodel.config import InputError
from tests.reference.hand import hand_prompts, hand_subject
from tests.reference.slow import random_prompts, random_subject


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_curve(sizes: tuple[int, ...], recovered: list[float]) -> Curve:
    value = torch.tensor(recovered)
    return Curve(
        sizes=sizes, recovered=value, complement=value, kl_median=value, kl_high=value, full=1.0, empty=0.0
    )


def test_sizes_grow_as_fibonacci_numbers_and_leave_out_the_empty_circuit():
    assert curve_sizes(137) == (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 137)
    assert curve_sizes(8) == (1, 2, 3, 5, 8)
    assert curve_sizes(1) == (1,)


def test_areas_are_mean_heights_on_both_axes():
    perfect = flat_curve((1, 2, 4), [1.0, 1.0, 1.0])
    assert (perfect.cpr, perfect.cmd, perfect.cpr_log, perfect.cmd_log) == (1.0, 0.0, 1.0, 0.0)
    late = flat_curve((1, 2, 4), [0.0, 0.0, 1.0])
    # Linear axis: a triangle over 2 of 3 steps; logarithmic: over one of two equal ones.
    assert late.cpr == pytest.approx(1 / 3)
    assert late.cpr_log == pytest.approx(1 / 4)
    assert late.cmd == pytest.approx(2 / 3)
    over = flat_curve((1, 2, 4), [2.0, 2.0, 2.0])
    assert (over.cpr, over.cmd) == (2.0, 1.0), "more than all is no better than less, in CMD"


def test_the_circuit_done_by_hand_recovers_all_and_its_complement_nothing():
    # Of the hand subject only token->v and head->logits carry what differs: edges 4 and 8.
    runner = CircuitRunner.of(hand_subject(), hand_prompts())
    kept = torch.zeros(9, dtype=torch.bool)
    kept[[4, 8]] = True
    one_less = kept.clone()
    one_less[4] = False
    found = runner.recovered(torch.stack([kept, ~kept, one_less]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert (runner.full, runner.empty) == (pytest.approx(-0.5), pytest.approx(-1.25))
    assert damage(runner, kept) == pytest.approx(1.0)
    assert runner.divergence(kept[None]).abs().max() < 1e-12
    assert runner.divergence(one_less[None]).min() > 0.1
    found = redundant(runner, kept, generator=generator())
    assert not found.edge.any()
    assert found.bar == pytest.approx(SMALLEST_USE * 0.75), "of the gap; nothing flows along other edges"
    with_idle = kept.clone()
    with_idle[0] = True
    assert redundant(runner, with_idle, generator=generator()).edge.nonzero().flatten().tolist() == [0]


def test_the_bar_of_redundancy_is_set_by_edges_that_anything_flows_along():
    subject = random_subject(30).double()
    runner = CircuitRunner.of(subject, random_prompts(31, subject.config, n=8))
    kept = without_dangling(runner.edges, first_edges(torch.arange(61).flip(0), 25))
    found = redundant(runner, kept, generator=generator())
    effects = []
    for i in range(61):
        other = kept.clone()
        other[i] = ~other[i]
        change = float((runner.values(other[None]) - runner.values(kept[None])).mean().abs())
        if kept[i]:
            assert bool(found.edge[i]) == (change <= found.bar)
        elif without_dangling(runner.edges, other)[i]:
            effects.append(change)
    assert len(effects) > 2
    null = float(torch.tensor(effects, dtype=torch.float64).quantile(0.95))
    assert found.bar == pytest.approx(max(null, 0.01 * abs(runner.full - runner.empty)))
    assert 0 < found.edge.sum() < kept.sum()


def test_a_curve_ends_at_the_whole_subject_and_counts_edges_from_the_top():
    subject = random_subject(1).double()
    prompts = random_prompts(2, subject.config, n=40)
    scores = Exact().score(subject, prompts)
    runner = CircuitRunner.of(subject, prompts)
    curve = runner.curve(scores.ranking())
    assert curve.sizes[-1] == len(scores)
    assert curve.recovered[-1] == pytest.approx(1.0)
    assert curve.complement[-1] == pytest.approx(0.0)
    assert curve.kl_high[-1] < 1e-12 < curve.kl_high[0]
    assert (curve.kl_high >= curve.kl_median).all()
    half = first_edges(scores.ranking(), 34)
    assert float(curve.complement[7]) == pytest.approx(float(runner.recovered(~half[None])[0]))
    assert abs(float(curve.complement[7] + curve.recovered[7]) - 1) > 0.01, "no complement by subtraction"
    assert float(curve.kl_high[7]) == pytest.approx(float(runner.divergence(half[None])[0].quantile(0.95)))
    three = first_edges(scores.ranking(), 3)
    value = runner.values(three[None]).mean()
    assert float(curve.recovered[2]) == pytest.approx(
        float((value - curve.empty) / (curve.full - curve.empty))
    )
    by_hand = runner.divergence(three[None])[0]
    assert float(curve.kl_median[2]) == pytest.approx(float(by_hand.quantile(0.5)))


@pytest.mark.parametrize("shape", [{}, {"d_mlp": 0, "n_layers": 3}, {"attention_dir": "bidirectional"}])
def test_edges_from_nowhere_or_to_nowhere_change_no_logit_under_noising(shape):
    subject = random_subject(3, **shape).double()
    run = base_run(subject, random_prompts(4, subject.config), "noising")
    edges = component_edges(subject.config)
    kept = torch.rand(20, len(edges), generator=generator(5)) < 0.15
    pruned = torch.stack([without_dangling(edges, one) for one in kept])
    assert (pruned & ~kept).sum() == 0
    assert pruned.sum() < kept.sum()
    torch.testing.assert_close(masked_logits(run, pruned), masked_logits(run, kept), atol=1e-12, rtol=0)
    # And what is left matters: taking any edge on a path away moves the logits.
    one = pruned[pruned.sum(1).argmax()]
    without = one.expand(int(one.sum()), -1).clone()
    without[torch.arange(len(without)), one.nonzero().flatten()] = False
    moved = (masked_logits(run, without) - masked_logits(run, one[None])).abs().amax((1, 2))
    assert len(moved) > 3
    assert bool((moved > 1e-9).all())


def test_chains_that_end_in_nothing_or_start_in_positions_are_dropped_whole():
    edges = component_edges(random_subject(32, n_layers=3, d_mlp=0).config)
    index = {edge.name: i for i, edge in enumerate(edges.edges)}
    kept = torch.zeros(len(edges), dtype=torch.bool)
    live = ["token_embedding->L0H0.v", "L0H0->L1H1.k", "L1H1->unembedding"]
    dead_end = ["L0H0->L1H0.v", "L1H0->L2H0.q"]
    from_positions = ["position_embedding->L0H1.q", "L0H1->L1H1.v"]
    for name in (*live, *dead_end, *from_positions):
        kept[index[name]] = True
    found = [edges.edges[i].name for i in without_dangling(edges, kept).nonzero().flatten().tolist()]
    assert sorted(found) == sorted(live)


def test_patches_that_help_the_answer_are_said_to_run_backwards():
    subject, prompts = hand_subject(), hand_prompts()
    assert not CircuitRunner.of(subject, prompts).backwards
    assert not CircuitRunner.of(subject, prompts, "kl").backwards
    turned = dataclasses.replace(prompts, answer=prompts.corrupt_answer, corrupt_answer=prompts.answer)
    assert CircuitRunner.of(subject, turned).backwards
    assert not CircuitRunner.of(subject, turned, "kl").backwards


def test_circuits_after_denoising_run_like_those_after_noising():
    subject = random_subject(33).double()
    prompts = random_prompts(34, subject.config, n=8)
    noised, restored = (CircuitRunner.of(subject, prompts, "margin", how) for how in ("noising", "denoising"))
    assert (noised.full, noised.empty) == (restored.full, restored.empty)
    zero = CircuitRunner.of(subject, prompts, "margin", "zero")
    assert zero.full == pytest.approx(noised.full)
    assert zero.empty != pytest.approx(noised.empty)


def test_selectivity_is_damage_to_ones_own_task_beyond_that_to_another():
    subject = random_subject(6).double()
    own = CircuitRunner.of(subject, random_prompts(7, subject.config, n=8))
    other = CircuitRunner.of(subject, random_prompts(8, subject.config, n=8))
    kept = torch.rand(len(own.edges), generator=generator(9)) < 0.3
    assert selectivity(own, own, kept) == 0.0
    assert selectivity(own, other, kept) == pytest.approx(damage(own, kept) - damage(other, kept))
    assert damage(own, kept) == pytest.approx(1 - float(own.recovered(~kept[None])[0]))
    small = random_subject(10, n_heads=1)
    with pytest.raises(InputError, match="selectivity: expected one subject on two tasks"):
        selectivity(own, CircuitRunner.of(small, random_prompts(11, small.config)), kept)


def test_stability_is_one_for_equal_prompts_and_falls_with_noise():
    steady = torch.arange(12.0).unsqueeze(1).expand(12, 30)
    assert stability(steady, 4, generator=generator()) == 1.0
    noise = torch.randn(12, 30, generator=generator(1))
    loose = stability(noise, 4, generator=generator())
    mixed = stability(steady + 20 * noise, 4, generator=generator())
    assert loose < mixed < 1.0
    assert stability(noise, 12, generator=generator()) == 1.0, "all edges are always the same ones"
    with pytest.raises(InputError, match=r"k: expected 1 to 12 edges, got 13\. Take a smaller circuit\."):
        stability(noise, 13, generator=generator())


def test_stability_equals_jaccard_overlaps_counted_one_by_one():
    scores = torch.randn(6, 9, generator=generator(2))
    found = stability(scores, 2, n=5, generator=generator(3))
    rows = torch.randint(9, (5, 9), generator=generator(3))
    sets = [set(scores[:, row].mean(1).abs().topk(2).indices.tolist()) for row in rows]
    overlaps = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i]]
    assert found == pytest.approx(sum(overlaps) / len(overlaps))


def test_stability_compares_circuits_without_their_dangling_edges():
    edges = component_edges(random_subject(35).config)
    scores = torch.randn(len(edges), 9, generator=generator(36))
    found = stability(scores, 20, n=4, generator=generator(37), pruned=edges)
    rows = torch.randint(9, (4, 9), generator=generator(37))
    sets = []
    for row in rows:
        kept = torch.zeros(len(edges), dtype=torch.bool)
        kept[scores[:, row].mean(1).abs().topk(20).indices] = True
        sets.append(set(without_dangling(edges, kept).nonzero().flatten().tolist()))
    overlaps = [len(a & b) / max(1, len(a | b)) for i, a in enumerate(sets) for b in sets[:i]]
    assert found == pytest.approx(sum(overlaps) / len(overlaps))
    assert found != pytest.approx(stability(scores, 20, n=4, generator=generator(37)))


def test_prompts_on_which_patching_changes_nothing_have_no_circuit():
    subject = random_subject(12)
    prompts = random_prompts(13, subject.config)
    same = dataclasses.replace(prompts, corrupt=prompts.clean)
    with pytest.raises(
        InputError, match="prompts: expected a margin that changes when all edges are patched"
    ):
        CircuitRunner.of(subject, same)
