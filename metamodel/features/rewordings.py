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

from metamodel.config.edits import PAIR
from metamodel.features.observed import Observed, Told, in_own_order, read_at
from metamodel.subjects.forward import unembed

MOST_PERMUTED = 4
"""Places of which all orders are tried; of more, only two tokens change places at a time."""
MOST_ORDERS = 32
"""Orders that are tried at most, spread evenly over all."""
MOST_TRIED = 2
"""Times as many inputs as there are examples that a subject is asked at most."""
LEAST_TRIED, MOST_FIRST = 8, 16
"""Inputs of an order of which fewer say nothing of it, and of which no more are asked before it is judged."""
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
    """Of one subject of a batch. None where inputs differ in length, for no places then correspond.

    A few inputs of every order are asked first, then others of those that reword, pairs before the rest.
    """
    real = in_own_order(told, which)
    tokens, at = told.tokens[which, real], told.position[which, real]
    places = (tokens != tokens[:1]).any(0)[: int(at[0]) + 1].nonzero()[:, 0]
    most = MOST_TRIED * len(real)
    if bool((at != at[0]).any()) or len(places) < 2 or most < LEAST_TRIED:
        return None
    orders = _orders(len(places), most // LEAST_TRIED).to(places.device)
    made = tokens.repeat(len(orders), 1, 1)
    made[:, :, places] = tokens[:, places[orders]].movedim(1, 0)
    known = set(map(tuple, tokens.tolist()))
    every = [tuple(row) for row in made.flatten(0, 1).tolist()]
    new = [row for row in dict.fromkeys(every) if row not in known]
    if not new:
        return None
    index = {row: i for i, row in enumerate(new)}
    # [order, example]: which of the new inputs an order makes of an example
    makes = torch.tensor([index.get(row, -1) for row in every], device=tokens.device).view(len(orders), -1)
    old, run = seen.old[which, real], _Run(told, seen, which, tokens.new_tensor(new), at[0])
    run.ask(_first(makes, most))
    often = _alike(old, *run.said(makes)).any(1)
    pair = told.role[which, real] == PAIR
    run.ask(_others(makes[often], pair, run.asked, most))
    source: dict[int, int] = {}
    for order, example in _alike(old, *run.said(makes)).nonzero().tolist():
        source.setdefault(int(makes[order, example]), int(real[example]))
    if not source:
        return None
    chosen = torch.tensor(list(source), device=tokens.device)
    return Rewordings(
        tokens=run.inputs[chosen],
        source=torch.tensor(list(source.values()), device=tokens.device),
        hidden=run.hidden[chosen],
        stream=run.stream[chosen],
    )


class _Run:
    """What one subject says to new inputs, of those that it was asked."""

    def __init__(
        self, told: Told, seen: Observed, which: int, inputs: Int[Tensor, "reworded pos"], at: Int[Tensor, ""]
    ):
        self.inputs, self._told, self._which, self._at = inputs, told, which, at
        self._weights = {key: w[which : which + 1] for key, w in told.weights.items()}
        self.asked = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        self.hidden, self.stream = (x.new_zeros(len(inputs), x.shape[2]) for x in (seen.hidden, seen.stream))

    def ask(self, new: Int[Tensor, " input"]) -> None:
        if len(new):
            at = self._at.expand(1, len(new))
            hidden, stream = read_at(self._told.config, self._weights, self.inputs[None, new], at)
            self.asked[new], self.hidden[new], self.stream[new] = True, hidden[0], stream[0]

    def said(
        self, makes: Int[Tensor, "order example"]
    ) -> tuple[Float[Tensor, "order example answer"], Bool[Tensor, "order example"]]:
        """As distributions over answers, and what was asked."""
        answers = self._told.answers[self._which]
        logits = unembed(self._weights, self._told.config, self.stream[None])[0][:, answers]
        logits = logits.masked_fill(~self._told.answer_mask[self._which], -torch.inf)
        return logits.softmax(-1)[makes], self.asked[makes] & (makes >= 0)


def _first(makes: Int[Tensor, "order example"], most: int) -> Int[Tensor, " input"]:
    """New inputs by which orders are judged, spread evenly over the examples, `most` in all."""
    each = min(MOST_FIRST, most // len(makes))
    return torch.cat([_evenly(row[row >= 0], each) for row in makes]).unique()


def _others(
    makes: Int[Tensor, "order example"],
    pair: Bool[Tensor, " example"],
    asked: Bool[Tensor, " reworded"],
    most: int,
) -> Int[Tensor, " input"]:
    """What is left of these orders: of pairs, and then of all others evenly, until `most` were asked."""
    left = (makes >= 0) & ~asked[makes]
    first, then = makes[left & pair].unique(), makes[left & ~pair].unique()
    first = _evenly(first, most - int(asked.sum()))
    then = then[~torch.isin(then, first)]
    return torch.cat([first, _evenly(then, most - int(asked.sum()) - len(first))])


def _evenly(x: Int[Tensor, " input"], most: int) -> Int[Tensor, " chosen"]:
    n = min(len(x), most)
    return x[torch.arange(n, device=x.device) * len(x) // max(n, 1)]


def _alike(
    old: Float[Tensor, "example answer"],
    said: Float[Tensor, "order example answer"],
    asked: Bool[Tensor, "order example"],
) -> Bool[Tensor, "order example"]:
    """Whether an input is answered as what it rewords, and as surely, under an order that does so often."""
    p, answer = old.max(-1)
    sure = said.gather(2, answer.expand_as(asked)[..., None])[..., 0] >= SURE * p
    alike = asked & (said.argmax(-1) == answer) & sure
    n, share = asked.sum(1), alike.sum(1) / asked.sum(1).clamp_min(1)
    chance = float((torch.bincount(answer).double() / len(answer)).square().sum())
    if chance == 1:  # whatever is asked, the answer is the same
        return torch.zeros_like(alike)
    return alike & ((n >= LEAST_TRIED) & (share >= chance + LEAST_ALIKE * (1 - chance)))[:, None]


def _orders(n: int, most: int) -> Int[Tensor, "order place"]:
    """In which tokens are put, but for the one in which they stand; `most` of them."""
    if n <= MOST_PERMUTED:
        orders = torch.tensor(list(permutations(range(n)))[1:]).view(-1, n)
        return orders[_evenly(torch.arange(len(orders)), most)]
    swaps = list(combinations(range(n), 2))
    orders = torch.arange(n).repeat(len(swaps), 1)
    for i, (a, b) in enumerate(swaps):
        orders[i, a], orders[i, b] = b, a
    return orders[_evenly(torch.arange(len(orders)), min(most, MOST_ORDERS))]
