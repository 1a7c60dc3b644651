"""Inputs of the subject's own making: rewordings of what was shown that it answers alike.

A specification shows some wordings, and an edit is to hold, or to stay away, in others too. Which others ask
the same, a subject's own answers tell: where the tokens of a shown input, put in another order, are
answered alike and as surely, under an order that does so often, the new input is taken for a rewording, and
what is wanted of the one is wanted of the other. ROME likewise writes a fact behind prefixes that the model
itself made (Meng et al. 2022).
"""

from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.observed import Observed, Told, in_own_order, read_at
from metamodel.subjects.forward import unembed

MOST_PERMUTED = 4
"""Places of which all orders are tried; of more, only two tokens change places at a time."""
MOST_ORDERS = 32
"""Orders that are tried at most, spread evenly over all."""
MOST_TRIED = 2
"""Times as many inputs as there are examples that a subject is asked at most."""
LEAST_TRIED = 8
"""Inputs of an order of which fewer say nothing of it."""
SURE = 0.9
"""A rewording is answered at least so many times as surely as what it rewords."""
LEAST_ALIKE = 0.15
"""Share of the inputs that must be reworded by one order, of those that chance does not answer alike."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reworded:
    """Rewordings of a batch of specifications, padded."""

    source: Int[Tensor, "subject reworded"]
    """Which example each rewords."""
    mask: Bool[Tensor, "subject reworded"]
    hidden: Float[Tensor, "subject reworded unit"]
    """As of examples in `Observed`."""
    stream: Float[Tensor, "subject reworded d_model"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewordings:
    """Those of one subject, without padding."""

    tokens: Int[Tensor, "reworded pos"]
    source: Int[Tensor, " reworded"]
    hidden: Float[Tensor, "reworded unit"]
    stream: Float[Tensor, "reworded d_model"]


@torch.no_grad()
def reworded(told: Told, seen: Observed) -> Reworded | None:
    """None of them stands among the examples. Returns: None where there are none."""
    found = [rewordings(told, seen, i) for i in range(len(told.role))]
    if all(one is None for one in found):
        return None
    shape = len(found), max(0 if one is None else len(one.source) for one in found)
    source, mask = (
        told.tokens.new_zeros(shape),
        torch.zeros(shape, dtype=torch.bool, device=told.tokens.device),
    )
    hidden, stream = (x.new_zeros(*shape, x.shape[2]) for x in (seen.hidden, seen.stream))
    for i, one in enumerate(found):
        if one is not None:
            n = len(one.source)
            source[i, :n], mask[i, :n], hidden[i, :n], stream[i, :n] = (
                one.source,
                True,
                one.hidden,
                one.stream,
            )
    return Reworded(source=source, mask=mask, hidden=hidden, stream=stream)


def rewordings(told: Told, seen: Observed, which: int) -> Rewordings | None:
    """Of one subject of a batch. None where inputs differ in length, for no places then correspond."""
    real = in_own_order(told, which)
    tokens, at = told.tokens[which, real], told.position[which, real]
    places = (tokens != tokens[:1]).any(0)[: int(at[0]) + 1].nonzero()[:, 0]
    if bool((at != at[0]).any()) or len(places) < 2:
        return None
    orders = _orders(len(places)).to(places.device)
    made = tokens.repeat(len(orders), 1, 1)
    made[:, :, places] = tokens[:, places[orders]].movedim(1, 0)
    known = set(map(tuple, tokens.tolist()))
    every = [tuple(row) for row in made.flatten(0, 1).tolist()]
    new = [row for row in dict.fromkeys(every) if row not in known]
    if not new:
        return None
    most = min(len(new), MOST_TRIED * len(real))
    new = [new[i * len(new) // most] for i in range(most)]
    index = {row: i for i, row in enumerate(new)}
    # [order, example]: which of the new inputs an order makes of an example
    tried = torch.tensor([index.get(row, -1) for row in every], device=tokens.device).view(len(orders), -1)
    asked = tokens.new_tensor(new)
    weights = {key: w[which : which + 1] for key, w in told.weights.items()}
    hidden, stream = read_at(told.config, weights, asked[None], at[:1].expand(1, len(asked)))
    alike = _alike(seen.old[which, real], _said(told, which, stream)[tried], tried >= 0)
    source: dict[int, int] = {}
    for order, example in alike.nonzero().tolist():
        source.setdefault(int(tried[order, example]), int(real[example]))
    if not source:
        return None
    chosen = torch.tensor(list(source), device=tokens.device)
    return Rewordings(
        tokens=asked[chosen],
        source=torch.tensor(list(source.values()), device=tokens.device),
        hidden=hidden[0, chosen],
        stream=stream[0, chosen],
    )


def _alike(
    old: Float[Tensor, "example answer"],
    said: Float[Tensor, "order example answer"],
    new: Bool[Tensor, "order example"],
) -> Bool[Tensor, "order example"]:
    """Whether an input is answered as what it rewords, and as surely, under an order that does so often."""
    p, answer = old.max(-1)
    sure = said.gather(2, answer.expand_as(new)[..., None])[..., 0] >= SURE * p
    alike = new & (said.argmax(-1) == answer) & sure
    n, share = new.sum(1), alike.sum(1) / new.sum(1).clamp_min(1)
    chance = float((torch.bincount(answer).double() / len(answer)).square().sum())
    if chance == 1:  # whatever is asked, the answer is the same
        return torch.zeros_like(alike)
    return alike & ((n >= LEAST_TRIED) & (share >= chance + LEAST_ALIKE * (1 - chance)))[:, None]


def _orders(n: int) -> Int[Tensor, "order place"]:
    """In which tokens are put, but for the one in which they stand."""
    if n <= MOST_PERMUTED:
        return torch.tensor(list(permutations(range(n)))[1:])
    swaps = list(combinations(range(n), 2))
    most = min(len(swaps), MOST_ORDERS)
    swaps = [swaps[i * len(swaps) // most] for i in range(most)]
    orders = torch.arange(n).repeat(most, 1)
    for i, (a, b) in enumerate(swaps):
        orders[i, a], orders[i, b] = b, a
    return orders


def _said(told: Told, which: int, stream: Float[Tensor, "1 input d_model"]) -> Float[Tensor, "input answer"]:
    """What one subject says behind its last block, as a distribution over answers."""
    weights = {key: w[which : which + 1] for key, w in told.weights.items()}
    logits = unembed(weights, told.config, stream)[0][:, told.answers[which]]
    return logits.masked_fill(~told.answer_mask[which], -torch.inf).softmax(-1)
