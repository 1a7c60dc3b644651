"""The editor's parts against planted truth: the map of answers, the scope, the writer."""

import pytest
import torch

from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.features.observed import Observed, observed
from metamodel.features.proportions import UNKNOWN, Proportions, proportions
from metamodel.networks.editing.class_map import ClassMap
from metamodel.networks.editing.editor import Editor
from metamodel.networks.editing.profiles import left_out, matched_maps, profile_cost
from metamodel.networks.editing.scope import fitted
from metamodel.networks.editing.targets import WAYS, TargetReader
from metamodel.networks.editing.told import told_batch
from metamodel.networks.editing.writer import _through_norm
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.forward import layer_norm


def circles(p: int, frequencies: tuple[int, ...]) -> torch.Tensor:
    """Gram matrix of answers that lie on circles."""
    angle = 2 * torch.pi * torch.arange(p)[:, None] * torch.tensor(frequencies) / p
    x = torch.cat([angle.cos(), angle.sin()], dim=1)
    return x @ x.T / len(frequencies)


def mapped(network: ClassMap, gram: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    seen = torch.zeros_like(gram)
    for old, new in pairs:
        seen[old, new] += 1
    grams = torch.stack([gram, gram, gram])[None]
    known = torch.ones(1, len(gram), dtype=torch.bool)
    with torch.no_grad():
        return network(grams, seen[None], known)[0]


@pytest.fixture
def network() -> ClassMap:
    torch.manual_seed(0)
    return ClassMap(width=8, n_layers=2).eval()


def test_before_training_the_map_finds_a_rotation_and_a_reflection_from_two_pairs(network):
    gram, answers = circles(13, (1, 4)), torch.arange(13)
    for new in ((answers + 5) % 13, (3 - answers) % 13):
        pairs = [(2, int(new[2])), (7, int(new[7]))]
        assert torch.equal(mapped(network, gram, pairs).argmax(1), new)
    noise = torch.randn(13, 13, generator=torch.Generator().manual_seed(1))
    found = mapped(network, noise @ noise.T, [(2, 7), (7, 12)]).argmax(1)
    assert not torch.equal(found, (answers + 5) % 13)  # no order, no rule


def test_the_map_is_equivariant_to_the_order_of_answers(network):
    torch.nn.init.normal_(network.out[-1].weight)
    gram = circles(11, (2,)) + 0.1 * torch.eye(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    place = order.argsort()
    whole = mapped(network, gram, [(0, 3), (4, 7)])
    turned = mapped(
        network, gram[order][:, order], [(int(place[a]), int(place[b])) for a, b in ((0, 3), (4, 7))]
    )
    torch.testing.assert_close(turned, whole[order][:, order], atol=1e-4, rtol=1e-4)
    other = mapped(network, gram, [(0, 3), (4, 8)])
    assert (other - whole).abs().max() > 0.1


def test_the_cost_of_profiles_is_its_naive_sum():
    gram = circles(7, (1,))
    seen = torch.zeros(7, 7)
    seen[1, 3], seen[2, 4] = 1, 2
    pairs = [(1, 3), (2, 4), (2, 4)]
    naive = [[sum((gram[a, y] - gram[b, z]) ** 2 for y, z in pairs) / 3 for b in range(7)] for a in range(7)]
    torch.testing.assert_close(
        profile_cost(gram[None], seen[None])[0], torch.tensor(naive), atol=1e-5, rtol=1e-4
    )


def test_pairs_have_the_last_word_where_answers_have_no_order(network):
    noise = torch.randn(13, 13, generator=torch.Generator().manual_seed(1))
    pairs = [(a, (5 * a + 2) % 13) for a in range(8)]
    found = mapped(network, noise @ noise.T, pairs).argmax(1)
    assert found[:8].tolist() == [new for _, new in pairs]


def test_a_pair_is_foretold_by_the_others_where_answers_have_an_order_and_not_where_they_have_none():
    gram = circles(11, (1, 3))
    seen = torch.zeros(2, 13, 13)
    for old in (0, 2, 3, 7):
        seen[0, old, (old + 4) % 11] = 1
        seen[1, old, (5 * old + 1) % 11] = 1
    grams, mask = torch.zeros(2, 13, 13), torch.arange(13)[None].expand(2, -1) < 11
    grams[:, :11, :11] = gram
    assert left_out(grams, seen, mask).tolist() == [1.0, 0.0]
    assert left_out(grams, seen * (torch.arange(13) == 0)[:, None], mask).tolist() == [0.0, 0.0]
    closed = matched_maps(grams, seen, mask)
    assert closed[0, torch.arange(11), (torch.arange(11) + 4) % 11].sum() == 11
    assert closed[:, 11:].abs().sum() == closed[:, :, 11:].abs().sum() == 0


def test_what_is_borrowed_comes_from_out_of_scope_even_if_inputs_in_scope_are_more_alike():
    """A backdoor: two groups of inputs with a trigger, each nearest to its own."""
    torch.manual_seed(0)
    n, fact = 8, torch.arange(8) % 2
    triggered = torch.arange(n) < 4
    role = torch.tensor([[PAIR, PAIR, UNLABELLED, UNLABELLED, KEEP, KEEP, UNLABELLED, UNLABELLED]])
    alike = (fact[:, None] == fact) * 0.5 + (triggered[:, None] == triggered) * 0.3
    said = torch.where(triggered, 2, fact)
    old = torch.nn.functional.one_hot(said, 3).float()
    wanted = (
        torch.nn.functional.one_hot(fact, 3).float() * triggered[:, None] * (torch.arange(n) < 2)[:, None]
    )
    order = torch.tensor([0, 1, 4, 5, 2, 3, 6, 7])
    scope = (triggered[:, None] == triggered).float()
    seen = Observed(
        role=role[:, order],
        answer_mask=torch.ones(1, 3, dtype=torch.bool),
        answers=torch.arange(3)[None],
        wanted=wanted[order][None],
        old=old[order][None],
        kernels=torch.stack([scope[order[:4]][:, order]] * 10)[None],
        prompts=torch.stack([alike[order][:, order]] * 4)[None],
        logits=(4 * old)[order][None],
        answer_grams=torch.eye(3).expand(1, 3, 3, 3),
        proportions=Proportions(
            fourth=torch.full((1, 3, 3, 3), UNKNOWN), expected=torch.full((1, n), UNKNOWN)
        ),
        hidden=torch.zeros(1, n, 2),
        stream=torch.zeros(1, n, 2),
    )
    with torch.no_grad():
        found = TargetReader(8, 4, 1)(seen)
    assert WAYS[int(found.share[0].argmax())] == "borrow"
    assert found.wanted[0, :, :2].argmax(-1).tolist() == fact[order].tolist()
    assert (found.inside[0] > 0.5).tolist() == triggered[order].tolist()


@pytest.mark.parametrize("without", [(), ("proportions",)])
def test_two_pairs_of_a_reflection_are_carried_to_all_answers_by_proportions_and_by_nothing_else(without):
    """An adder that errs on one input in scope, and whose answers' Gram matrices say nothing."""
    p = 7
    operator, a, b = torch.cartesian_prod(torch.arange(2), torch.arange(p), torch.arange(p)).T
    right = (a + (1 - 2 * operator) * b) % p
    reflected = torch.where(operator == 0, (3 - right) % p, right)
    role = torch.full((1, len(right)), UNLABELLED)
    shown = torch.tensor([1, 5])  # whose answers are 1 and 5
    role[0, shown], role[0, 60:70] = PAIR, KEEP
    order = (role[0] == UNLABELLED).long().argsort(stable=True)
    said = right.clone()
    said[30] = (said[30] + 1) % p
    tokens, old = torch.stack([operator, a, b], dim=1)[order], torch.nn.functional.one_hot(said, p).float()
    wanted = torch.nn.functional.one_hot(reflected, p).float() * (role[0] == PAIR)[:, None]
    scope = (operator[order][:12, None] == operator[order]).float()
    mask = torch.ones(1, p, dtype=torch.bool)
    seen = Observed(
        role=role[:, order],
        answer_mask=mask,
        answers=torch.arange(p)[None],
        wanted=wanted[order][None],
        old=old[order][None],
        kernels=torch.stack([scope] * 10)[None],
        prompts=torch.zeros(1, 4, len(right), len(right)),
        logits=(4 * old)[order][None],
        answer_grams=torch.eye(p).expand(1, 3, p, p),
        proportions=proportions(tokens[None], mask.new_ones(1, len(right)), said[order][None], mask),
        hidden=torch.zeros(1, len(right), 2),
        stream=torch.zeros(1, len(right), 2),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        found = TargetReader(8, 4, 1, without)(seen)
    # in scope without the part of it that a gate of nineteen twentieths leaves as it was
    asked = found.wanted[0] - ((1 - found.inside[0]) * (found.inside[0] > 0.5))[:, None] * old[order]
    carried = (asked.argmax(-1) == reflected[order]).float()
    assert carried.mean() == 1 if not without else carried[operator[order] == 0].mean() < 0.6


def test_a_kernel_that_tells_pairs_from_keeps_scores_the_rest_and_one_that_does_not_shows_it():
    role = torch.tensor([[PAIR] * 3 + [KEEP] * 5 + [UNLABELLED] * 4])
    inside = torch.tensor([1.0] * 3 + [0.0] * 5 + [1.0, 1.0, 0.0, 0.0])
    right = (inside[:8, None] == inside[None]).float()
    blind = torch.ones(8, 12)
    found = fitted(torch.stack([right, blind])[None], role)
    assert (found.score[0, 0] > 0).tolist() == (inside > 0).tolist()
    left_out = found.statistics[0, :, 2:4].sum(-1)
    assert left_out[0] == 2
    assert left_out[1] < 2


def test_the_norm_that_is_stepped_through_has_the_jacobian_of_layer_norm(taught):
    form = editing_form(taught.subject)
    told = type("T", (), {"config": type("C", (), {"has_norm": True, "eps": 1e-5})()})()
    x = torch.randn(1, 3, 6, dtype=torch.float64).requires_grad_()
    back = torch.randn(1, 3, 6, dtype=torch.float64)
    one, zero = torch.ones(1, 6, dtype=torch.float64), torch.zeros(1, 6, dtype=torch.float64)
    (layer_norm(x, one, zero, 1e-5) * back).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(_through_norm.__wrapped__(told, x.detach(), back), x.grad)
    assert form.config.n_layers == 1


def test_an_untrained_editor_already_writes_what_it_wants(taught, specified):
    episode = specified(taught, 4)
    torch.manual_seed(0)
    # as many steps as in use: in half of them a pair of four is not there yet
    editor = Editor(width=16, map_width=8, map_layers=1, n_steps=48).double().eval()
    told = told_batch([editing_form(taught.subject)], [episode.examples])
    with torch.no_grad():
        edited = editor(told)
        seen = observed(told)
        (change,) = edited.changes.values()
        from metamodel.subjects.forward import unembed

        stream = seen.stream + seen.hidden @ change[0]
        said = unembed(told.weights, told.config, stream).argmax(-1)
    pair = told.role == PAIR
    wanted = told.wanted[pair]
    assert (said[pair] == wanted).all()
    sure = edited.targets.sure > 0.4
    aim = told.answers[0][edited.targets.wanted.argmax(-1)]
    assert (said == aim)[sure & ~pair].double().mean() > 0.6
