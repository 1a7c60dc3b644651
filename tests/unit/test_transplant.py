"""A copy in another basis does all of the work of the original, another component none of it."""

import pytest
import torch

from metamodel.analogy.exchange import fitted
from metamodel.analogy.transplant import Transplanted, pooled, transplant
from metamodel.config.errors import InputError
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import components
from metamodel.subjects.gauge import gauge_element


def tokens(seed: int, n: int, *, d_vocab: int = 9) -> torch.Tensor:
    return torch.randint(d_vocab, (n, 7), generator=torch.Generator().manual_seed(seed))


PROMPTS, SOURCES, PROBES = tokens(1, 200), tokens(2, 200), tokens(3, 100)
POSITION = torch.full((200,), 6)


def inner(subject) -> list[int]:
    return [i for i, node in enumerate(components(subject.config)) if node.kind in ("head", "mlp")]


def scores(first, second, pairs):
    return transplant(first, second, torch.tensor(pairs), PROMPTS, SOURCES, POSITION, probes=PROBES)


@pytest.mark.parametrize("shape", [{"n_heads": 4}, {"n_heads": 4, "normalization_type": "none"}])
def test_a_copy_in_another_gauge_does_all_of_the_work_and_others_none(make_subject, shape):
    subject = make_subject(3, **shape)
    moved = gauge_element(subject, torch.Generator().manual_seed(4))
    order = moved.node_order.tolist()
    there = {old: new for new, old in enumerate(order)}
    true = [[i, there[i]] for i in inner(subject)]
    found = scores(subject, moved.subject, true)
    assert all(one.match > 0.99 for one in found if one.n_places >= 4)
    assert pooled(found) > 0.98
    names = components(subject.config)
    heads = [i for i in inner(subject) if names[i].kind == "head"]
    wrong = [[i, there[j]] for i, j in zip(heads, heads[1:] + heads[:1], strict=True)]
    assert abs(pooled(scores(subject, moved.subject, wrong))) < 0.25


def test_a_copy_with_louder_writes_does_all_of_the_work(make_subject):
    """Under LayerNorm the size of the stream says nothing; what is carried must have that of its readers."""
    subject = make_subject(3, n_heads=4)
    writes = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")
    louder = subject.with_weights({k: 3 * v if k.endswith(writes) else v for k, v in subject.weights.items()})
    assert fitted(canonical(subject), canonical(louder), PROBES).scale == pytest.approx(3, rel=1e-3)
    found = scores(subject, louder, [[i, i] for i in inner(subject)])
    assert pooled(found) > 0.98


def test_a_real_change_moves_the_score_and_a_change_of_basis_does_not(make_subject):
    subject = make_subject(3, n_heads=4)
    pairs = [[i, i] for i in inner(subject)]
    other = subject.with_weights(
        {
            key: value + 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(7)).double()
            if "W_O" in key or "W_out" in key
            else value
            for key, value in subject.weights.items()
        }
    )
    whole, less = pooled(scores(subject, subject, pairs)), pooled(scores(subject, other, pairs))
    assert whole == pytest.approx(1)
    assert less < 0.95
    moved = gauge_element(other, torch.Generator().manual_seed(8))
    there = {old: new for new, old in enumerate(moved.node_order.tolist())}
    again = scores(subject, moved.subject, [[i, there[j]] for i, j in pairs])
    for one, two in zip(scores(subject, other, pairs), again, strict=True):
        assert two.n_places == one.n_places
        assert (two.match, two.null) == pytest.approx((one.match, one.null), abs=0.02)


def test_widths_may_differ(make_subject):
    narrow, wide = make_subject(1), make_subject(2, d_model=12, n_layers=3)
    up, down = (fitted(canonical(a), canonical(b), PROBES) for a, b in ((narrow, wide), (wide, narrow)))
    assert torch.allclose(up.rotation @ up.rotation.mT, torch.eye(8).double(), atol=1e-9)
    assert torch.allclose(down.rotation.mT @ down.rotation, torch.eye(8).double(), atol=1e-9)
    into_wide = scores(narrow, wide, [[2, 2], [4, 7]])
    into_narrow = scores(wide, narrow, [[2, 2], [7, 4]])
    assert all(one.within == 1 for one in into_narrow)
    assert min(one.within for one in into_wide) < 1


def test_ratio_and_pool_are_what_they_say():
    def one(match, null, within, n=10):
        return Transplanted(first="a", second="b", n_places=n, match=match, null=null, within=within)

    nan = float("nan")
    assert one(0.8, 0.2, 1.0).ratio == pytest.approx(0.75)
    assert one(0.8, 0.98, 1.0).ratio != one(0.8, 0.98, 1.0).ratio
    assert pooled([one(0.8, 0.2, 1.0, 30), one(0.2, 0.2, 1.0, 10), one(nan, nan, nan, 0)]) == pytest.approx(
        (30 * 0.6) / (30 * 0.8 + 10 * 0.8)
    )
    assert pooled([]) == 0


def test_pairs_of_other_kinds_are_refused(make_subject):
    subject = make_subject(1)
    with pytest.raises(InputError, match="pairs: expected two heads, or two MLPs, got L0H0 and MLP0"):
        scores(subject, subject, [[2, 4]])
    with pytest.raises(InputError, match="sources"):
        transplant(subject, subject, torch.tensor([[2, 2]]), PROMPTS, SOURCES + 5, POSITION, probes=PROBES)
