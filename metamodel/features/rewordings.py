"""Inputs of the subject's own making: rewordings of what was shown that it answers alike.

A specification shows some wordings, and an edit is to hold, or to stay away, in others too. Which others ask
the same, the subject itself says: where the tokens of a shown input, put in another order, are answered alike
and as surely, the new input is a rewording, and what is wanted of the one is wanted of the other. ROME
likewise writes a fact behind prefixes that the model itself made (Meng et al. 2022).
"""

from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.observed import Observed, Told, in_own_order, read_at
from metamodel.subjects.forward import forward

MOST_PERMUTED = 4
"""Places of which all orders are tried; of more, only two tokens change places at a time."""
MOST_TRIED = 2
"""Times as many inputs as there are examples that a subject is asked at most."""
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


@torch.no_grad()
def reworded(told: Told, seen: Observed) -> Reworded | None:
    """None of them stands among the examples. Returns: None where there are none."""
    found = [rewordings(told, seen, i) for i in range(len(told.role))]
    longest = max(len(source) for _, source in found)
    if not longest:
        return None
    tokens = told.tokens.new_zeros(len(found), longest, told.tokens.shape[2])
    source, mask = tokens.new_zeros(tokens.shape[:2]), torch.zeros_like(tokens[..., 0], dtype=torch.bool)
    for i, (made, of) in enumerate(found):
        tokens[i, : len(of)], source[i, : len(of)], mask[i, : len(of)] = made, of, True
    hidden, stream = read_at(told.config, told.weights, tokens, told.position.gather(1, source))
    return Reworded(source=source, mask=mask, hidden=hidden, stream=stream)


def rewordings(
    told: Told, seen: Observed, which: int
) -> tuple[Int[Tensor, "reworded pos"], Int[Tensor, " reworded"]]:
    """Of one subject of a batch: tokens, and the example that each rewords. None where inputs differ in
    length, for no places then correspond."""
    real = in_own_order(told, which)
    tokens, at = told.tokens[which, real], told.position[which, real]
    places = (tokens != tokens[:1]).any(0)[: int(at[0]) + 1].nonzero()[:, 0]
    none = tokens[:0], real[:0]
    if bool((at != at[0]).any()) or len(places) < 2:
        return none
    orders = _orders(len(places)).to(places.device)
    made = tokens.repeat(len(orders), 1, 1)
    made[:, :, places] = tokens[:, places[orders]].movedim(1, 0)
    known = set(map(tuple, tokens.tolist()))
    every = [tuple(row) for row in made.flatten(0, 1).tolist()]
    new = [row for row in dict.fromkeys(every) if row not in known]
    if not new:
        return none
    most = min(len(new), MOST_TRIED * len(real))
    new = [new[i * len(new) // most] for i in range(most)]
    index = {row: i for i, row in enumerate(new)}
    tried = torch.tensor([index.get(row, -1) for row in every], device=tokens.device).view(len(orders), -1)
    said = _said(told, which, tokens.new_tensor(new), int(at[0]))[tried]
    p, answer = seen.old[which, real].max(-1)
    alike = (said.argmax(-1) == answer) & (tried >= 0)
    alike &= said.gather(2, answer.expand_as(tried)[..., None])[..., 0] >= SURE * p
    share = alike.sum(1) / (tried >= 0).sum(1).clamp_min(1)
    chance = float((torch.bincount(answer).double() / len(answer)).square().sum())
    alike &= (share >= chance + LEAST_ALIKE * (1 - chance))[:, None]
    source: dict[int, int] = {}
    for order, example in alike.nonzero().tolist():
        source.setdefault(int(tried[order, example]), int(real[example]))
    return tokens.new_tensor([new[i] for i in source]).view(-1, tokens.shape[1]), real.new_tensor(
        list(source.values())
    )


def _orders(n: int) -> Int[Tensor, "order place"]:
    """In which tokens are put, but for the one in which they stand."""
    if n <= MOST_PERMUTED:
        return torch.tensor(list(permutations(range(n)))[1:])
    orders = torch.arange(n).repeat(n * (n - 1) // 2, 1)
    for i, (a, b) in enumerate(combinations(range(n), 2)):
        orders[i, a], orders[i, b] = b, a
    return orders


def _said(told: Told, which: int, tokens: Int[Tensor, "input pos"], at: int) -> Float[Tensor, "input answer"]:
    """What one subject says of inputs at one position, as a distribution over answers."""
    weights = {key: w[which : which + 1] for key, w in told.weights.items()}
    logits = forward(weights, told.config, tokens[None]).logits[0, :, at]
    return logits[:, told.answers[which]].masked_fill(~told.answer_mask[which], -torch.inf).softmax(-1)
