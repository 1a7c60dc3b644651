"""What an editor may have beside its writer: gates, corrections, a price of changes."""

import pytest
import torch

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import observed
from metamodel.losses.editing import norm_loss
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


def plain_and_full(**parts) -> tuple[Editor, Editor]:
    torch.manual_seed(0)
    plain, full = Editor(**SMALL), Editor(**SMALL, **parts)
    shared = {k: v for k, v in plain.state_dict().items() if not k.startswith("judge")}
    full.load_state_dict({**full.state_dict(), **shared})
    return plain.double().eval(), full.double().eval()


def test_before_training_an_editor_with_gates_edits_like_one_without(damaged):
    subject, examples, _ = damaged
    told = told_batch([editing_form(subject)], [examples])
    plain, full = plain_and_full(gates=True)
    with torch.no_grad():
        old, new = plain(told).changes, full(told).changes
    for name, change in new.items():
        torch.testing.assert_close(change, old.get(name, torch.zeros_like(change)), rtol=0, atol=1e-9)
    assert len(new) == 4


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
