"""What an editor may have beside its writer: sites, gates, corrections, a price of changes."""

import dataclasses

import pytest
import torch

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import observed
from metamodel.losses.editing import norm_loss
from metamodel.networks.editing.answers import one_hot, over_vocabulary
from metamodel.networks.editing.components import fits, mixed, n_components
from metamodel.networks.editing.descent import Aim, _At, descended, divergence
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.gates import Gates
from metamodel.networks.editing.told import told_batch
from metamodel.subjects import Subject, SubjectConfig, initial_weights, unstack
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.forward import forward
from metamodel.triples.edits import Examples

SMALL = {"width": 16, "map_width": 8, "map_layers": 1, "n_steps": 8}
SHAPE = SubjectConfig(n_layers=2, n_heads=3, d_model=16, d_head=4, d_mlp=20, d_vocab=12, n_ctx=4)


def said_of(subject: Subject, tokens: torch.Tensor) -> torch.Tensor:
    return forward(subject.stacked, subject.config, tokens).logits[0, :, -1]


@pytest.fixture(scope="module")
def damaged() -> tuple[Subject, Examples, torch.Tensor]:
    """A subject one of whose heads was removed, a specification that repairs it, and the right answers."""
    generator = torch.Generator().manual_seed(1)
    whole = Subject(
        config=SHAPE, weights=unstack(initial_weights(SHAPE, [generator], init_std=0.6), 0), name="whole"
    ).double()
    tokens = torch.randint(12, (160, 4), generator=generator)
    right = said_of(whole, tokens).argmax(-1)
    name = "blocks.0.attn.W_O"
    weight = whole.weights[name].clone()
    weight[2] = 0
    hurt = whole.with_weights({**whole.weights, name: weight})
    wrong = said_of(hurt, tokens).argmax(-1) != right
    pairs, keeps = wrong.nonzero()[:12, 0], (~wrong).nonzero()[:50, 0]
    order = torch.cat([pairs, keeps])
    rest = torch.ones(160, dtype=torch.bool)
    rest[order] = False
    order = torch.cat([order, rest.nonzero()[:, 0]])
    role = torch.full((160,), UNLABELLED)
    role[: len(pairs)], role[len(pairs) : len(pairs) + len(keeps)] = PAIR, KEEP
    told = Examples(
        tokens=tokens[order],
        position=torch.full((160,), 3),
        role=role,
        wanted=right[order],
        answers=torch.arange(12),
    )
    return hurt, told, right[order]


def fitted(subject: Subject, examples: Examples):
    told = told_batch([editing_form(subject)], [examples])
    seen = observed(told)
    wanted = torch.where((told.role == PAIR)[..., None], seen.wanted, one_hot(seen.old))
    known = (told.role != UNLABELLED).double()
    n = told.n_known
    return told, fits(told, over_vocabulary(told, wanted)[:, :n], known[:, :n], seen.old)


def test_the_head_that_was_removed_is_found_and_what_was_not_shown_comes_right_too(damaged):
    subject, examples, right = damaged
    told, found = fitted(subject, examples)
    assert found.loss.shape == (1, n_components(SHAPE))
    assert int(found.loss[0, : SHAPE.n_heads].argmin()) == 2  # an MLP has five times as much to fit with
    other = told.role[0] == UNLABELLED
    before = (said_of(subject, examples.tokens).argmax(-1) == right)[other].double().mean()
    after = [(one.argmax(-1) == right)[other].double().mean() for one in found.said[0]]
    assert after[2] > before + 0.1
    assert after[2] > max(after[:2] + after[3:]) + 0.05
    # where something else is asked, the same head cannot do it
    muddled = fitted(subject, dataclasses.replace(examples, wanted=(examples.wanted + 1) % 12))[1]
    assert (muddled.said[0, 2].argmax(-1) == right)[other].double().mean() < after[2] - 0.1
    assert muddled.loss[0, 2] > found.loss[0, 2]


def test_what_a_fit_says_is_what_the_subject_says_with_its_change(damaged):
    subject, examples, _ = damaged
    told, found = fitted(subject, examples)
    form = editing_form(subject)
    for site in range(n_components(SHAPE)):
        share = torch.eye(n_components(SHAPE), dtype=torch.float64)[site][None]
        changes = mixed(found, share, SHAPE)
        whole = form.with_weights(
            {k: w + changes[k][0] if k in changes else w for k, w in form.weights.items()}
        )
        now = said_of(whole, told.tokens[0]).softmax(-1)
        torch.testing.assert_close(found.said[0, site], now, rtol=0, atol=1e-9)


def test_the_descent_reaches_what_is_wanted_and_a_price_keeps_the_change_small():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, 6, 5, generator=generator, dtype=torch.float64)
    wanted = torch.randn(1, 6, 4, generator=generator, dtype=torch.float64).softmax(-1)
    base = torch.randn(1, 6, 4, generator=generator, dtype=torch.float64)

    def said(change):
        return (base + (u @ change[:, 0]).tanh() * 8)[:, None]

    start = torch.zeros(1, 1, 5, 4, dtype=torch.float64)
    found = {}
    for decay in (0.0, 1.0):
        aim = Aim(
            wanted=wanted,
            weight=torch.full((1, 6), 1 / 6, dtype=torch.float64),
            decay=decay,
            scale=torch.ones(1, dtype=torch.float64),
        )
        found[decay] = descended(said, lambda gradient: gradient, start, aim, 40)
    before = float(divergence(said(start), wanted).mean())
    assert float(divergence(found[0.0][1], wanted).mean()) < 0.2 * before
    assert found[1.0][0].norm() < 0.5 * found[0.0][0].norm()
    at, direction = (
        _At.of(said, start + 0.1),
        torch.randn(start.shape, generator=generator, dtype=torch.float64),
    )
    step = 1e-6
    numeric = (said(start + 0.1 + step * direction) - said(start + 0.1 - step * direction)) / (2 * step)
    torch.testing.assert_close(at.along(direction), numeric, rtol=1e-5, atol=1e-6)


class _PrefersHeads(torch.nn.Module):
    def forward(self, looks):
        return 100 * looks[..., 5:6]


def plain_and_full(**parts) -> tuple[Editor, Editor]:
    torch.manual_seed(0)
    plain, full = Editor(**SMALL), Editor(**SMALL, **parts)
    shared = {k: v for k, v in plain.state_dict().items() if not k.startswith(("judge.0", "looks_"))}
    full.load_state_dict({**full.state_dict(), **shared})
    return plain.double().eval(), full.double().eval()


def test_before_training_an_editor_with_sites_and_gates_edits_like_one_without(damaged):
    subject, examples, _ = damaged
    told = told_batch([editing_form(subject)], [examples])
    plain, full = plain_and_full(sites=True, gates=True)
    with torch.no_grad():
        old, new = plain(told).changes, full(told).changes
    for name, change in new.items():
        torch.testing.assert_close(change, old.get(name, torch.zeros_like(change)), rtol=0, atol=1e-9)
    assert len(new) == 4
    # and where it blames a component it does not
    torch.nn.init.constant_(full.sites.decide[-1].bias, 4.0)
    # of the looks, the sixth says that a component is a head
    full.sites.weigh = _PrefersHeads().double()
    with torch.no_grad():
        edited = full(told)
    assert edited.changes["blocks.0.attn.W_O"][0, 2].norm() > 0.1
    assert edited.changes["blocks.0.attn.W_O"][0, :2].norm() == 0
    assert float(edited.blamed.share[0, 2]) == 1


def test_one_proposal_is_the_present_editor_and_a_second_corrects_it(damaged):
    subject, examples, _ = damaged
    told = told_batch([editing_form(subject)], [examples])
    plain, twice = plain_and_full(recurrent=2)
    _, once = plain_and_full(recurrent=1)
    with torch.no_grad():
        (old,), (same,), (new,) = (e(told).changes.values() for e in (plain, once, twice))
    assert torch.equal(old, same)
    assert (new - old).norm() > 1e-3 * old.norm()
    torch.nn.init.constant_(twice.correct.control[-1].bias, -50.0)  # no gain: nothing is corrected
    with torch.no_grad():
        (none,) = twice(told).changes.values()
    torch.testing.assert_close(none, old, rtol=0, atol=1e-9)


def test_gates_are_one_before_training_and_scale_what_heads_and_neurons_say_after(damaged):
    subject, examples, _ = damaged
    form = editing_form(subject)
    told = told_batch([form], [examples])
    torch.manual_seed(0)
    gates = Gates(8).double()
    seen = observed(told)
    with torch.no_grad():
        assert all(float(change.abs().max()) == 0 for change in gates(told, seen).values())
        gates.decide[-1].weight.normal_()
        changes = gates(told, seen)
    heads = 1 + changes["blocks.1.attn.W_O"][0, :, 0, 0] / form.weights["blocks.1.attn.W_O"][:, 0, 0]
    neurons = 1 + changes["blocks.0.mlp.W_out"][0, :, 0] / form.weights["blocks.0.mlp.W_out"][:, 0]
    assert heads.std() > 0.01
    assert (torch.cat([heads, neurons]) - 1).abs().max() <= 1
    for name in changes:
        changes[name] = changes[name][0]
    only = {k: v for k, v in changes.items() if k in ("blocks.1.attn.W_O", "blocks.0.mlp.W_out")}
    edited = form.with_weights({k: w + only[k] if k in only else w for k, w in form.weights.items()})
    scaled = forward(
        form.stacked,
        SHAPE,
        examples.tokens,
        replace={
            "blocks.1.attn.hook_z": lambda z: z * heads[:, None],
            "blocks.0.mlp.hook_post": lambda post: post * neurons,
        },
    ).logits[0, :, -1]
    torch.testing.assert_close(said_of(edited, examples.tokens), scaled, rtol=0, atol=1e-9)


def test_a_price_makes_a_change_smaller(damaged):
    subject, examples, _ = damaged
    told = told_batch([editing_form(subject)], [examples])
    torch.manual_seed(0)
    editor = Editor(**SMALL, decay=True).double().eval()
    found = []
    for price in (-30.0, 0.0):
        with torch.no_grad():
            editor.write.control[-1].bias[-1] = price
            (change,) = editor(told).changes.values()
        found.append(float(change.norm()))
    assert found[1] < 0.7 * found[0]


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 0.0), (4.0, 1.9218)])
def test_only_a_norm_beyond_that_of_the_matrix_costs_the_loss_of_the_norm(damaged, scale, expected):
    subject, examples, _ = damaged
    told = told_batch([editing_form(subject)], [examples])
    changes = {"blocks.1.mlp.W_out": scale * told.weights["blocks.1.mlp.W_out"]}
    assert float(norm_loss(changes, told)[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("part", ["preconditioning", "map", "scope", "unlabelled"])
def test_a_part_that_is_left_out_is_missed(damaged, part):
    subject, examples, _ = damaged
    told = told_batch([editing_form(subject)], [examples])
    torch.manual_seed(0)
    plain = Editor(**SMALL).double().eval()
    for network in (plain.read.scope.decide, plain.read.map.out):
        torch.nn.init.normal_(network[-1].weight)
    without = Editor(**SMALL, without=(part,)).double().eval()
    without.load_state_dict(plain.state_dict())
    with torch.no_grad():
        (old,), (new,) = plain(told).changes.values(), without(told).changes.values()
    assert (old - new).norm() > 1e-3 * old.norm()
