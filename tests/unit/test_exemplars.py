"""Naming functions from exemplars: what is drawn, and that comparing is learned."""

import torch

from metamodel.networks.exemplars import ExemplarReadout, drawn_exemplars, made_up_functions
from metamodel.objectives.exemplars import exemplar_loss

NAN = float("nan")


def test_exemplars_are_half_positive_of_the_candidates_and_nothing_else():
    positive = torch.tensor([[1.0, NAN], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [NAN, 1.0], [1.0, 0.0]])
    candidates = torch.tensor([True, True, True, True, True, False])
    for seed in range(20):
        chosen, holds = drawn_exemplars(positive, candidates, 4, torch.Generator().manual_seed(seed))
        assert chosen.shape == holds.shape == (2, 4)
        for label in range(2):
            drawn = chosen[label][~holds[label].isnan()]
            assert set(drawn.tolist()) <= {0, 1, 2, 3, 4}
            assert len(set(drawn.tolist())) == len(drawn)
            assert positive[drawn, label].tolist() == holds[label][~holds[label].isnan()].tolist()
        assert (holds[0] == 1).sum() == 2
        assert (holds[1] == 1).sum() == 2
    rare = torch.tensor([[1.0], [0.0], [0.0]])
    _, holds = drawn_exemplars(rare, torch.ones(3, dtype=torch.bool), 4, torch.Generator().manual_seed(0))
    assert holds[0, :2].isnan().sum() == 1, "one positive only"
    none, _ = drawn_exemplars(rare, torch.ones(3, dtype=torch.bool), 0, None)
    assert none.shape == (1, 0)


def test_without_exemplars_every_function_is_answered_alike():
    torch.manual_seed(0)
    readout = ExemplarReadout(8, 5, 0.0)
    places = torch.randn(6, 8)
    logits = readout(places, torch.zeros(3, 0, 8), torch.zeros(3, 0))
    assert torch.equal(logits[:, 0], logits[:, 1])
    assert logits[:, 0].std() > 0
    one_sided = torch.full((3, 2), 1.0)
    assert torch.equal(readout(places, torch.randn(3, 2, 8), one_sided), logits), "nothing to tell it from"


def test_made_up_functions_hold_for_a_few_of_the_known():
    torch.manual_seed(0)
    known = torch.arange(200) < 150
    holds = made_up_functions(torch.randn(200, 30), known, 6)
    assert holds[~known].isnan().all()
    assert ((holds[known].mean(0) - 0.15).abs() < 0.03).all()
    assert len({tuple(column.tolist()) for column in holds[known].T}) == 6


def test_comparing_is_learned_and_carries_over_to_a_function_never_asked():
    torch.manual_seed(0)
    readout = ExemplarReadout(8, 12, 0.0)
    optimizer = torch.optim.Adam(readout.parameters(), lr=3e-3)

    def subjects(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.randn(n, 9, 12)
        return features, torch.zeros(n, 9, 8)

    heads = torch.ones(16, 9, dtype=torch.bool)
    for _ in range(300):
        features, x = subjects(16)
        asked = (features[..., :3] > 0.8).float()
        loss = exemplar_loss(readout, readout.places(x, features), asked, features, heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, x = subjects(40)
    flat = readout.places(x, features).flatten(0, 1)
    unseen = (features[..., 7] > 0.8).float().flatten()[:, None]
    accuracy = {}
    for k in (0, 16):
        chosen, holds = drawn_exemplars(
            unseen, torch.ones(len(unseen), dtype=torch.bool), k, torch.Generator().manual_seed(0)
        )
        logits = readout(flat, flat[chosen], holds)[:, 0]
        above, below = logits[unseen[:, 0] == 1], logits[unseen[:, 0] == 0]
        accuracy[k] = float((above[:, None] > below).float().mean())
    assert accuracy[16] > 0.65
    assert accuracy[0] < 0.58
