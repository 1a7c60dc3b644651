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

from metamodel.config.edits import PADDING
from metamodel.features.observed import Observed, Told, read_at
from metamodel.subjects.forward import forward

MOST_PERMUTED = 4
"""Places of which all orders are tried; of more, only two tokens change places at a time."""
SURE = 0.9
"""A rewording is answered at least so many times as surely as what it rewords."""
MOST = 2
"""Times as many rewordings as there are examples, at most."""


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
    found = [_of_one(told, seen, i) for i in range(len(told.role))]
    longest = max(len(source) for _, source in found)
    if not longest:
        return None
    tokens = told.tokens.new_zeros(len(found), longest, told.tokens.shape[2])
    source, mask = tokens.new_zeros(tokens.shape[:2]), torch.zeros_like(tokens[..., 0], dtype=torch.bool)
    for i, (made, of) in enumerate(found):
        tokens[i, : len(of)], source[i, : len(of)], mask[i, : len(of)] = made, of, True
    hidden, stream = read_at(told.config, told.weights, tokens, told.position.gather(1, source))
    return Reworded(source=source, mask=mask, hidden=hidden, stream=stream)


def _of_one(
    told: Told, seen: Observed, which: int
) -> tuple[Int[Tensor, "reworded pos"], Int[Tensor, " reworded"]]:
    """Tokens, and what each rewords, in an order that does not hang on that of the examples."""
    real = (told.role[which] != PADDING).nonzero()[:, 0]
    rows = told.tokens[which, real].tolist()
    real = real[sorted(range(len(rows)), key=rows.__getitem__)]
    tokens, at = told.tokens[which, real], told.position[which, real]
    empty = tokens[:0], real[:0]
    places = (tokens != tokens[:1]).any(0)[: int(at[0]) + 1].nonzero()[:, 0]
    # of inputs that differ in length no places correspond
    if bool((at != at[0]).any()) or len(places) < 2:
        return empty
    orders = _orders(len(places)).to(places.device)
    made = tokens.repeat(len(orders), 1, 1)
    made[:, :, places] = tokens[:, places[orders]].movedim(1, 0)
    p, answer = seen.old[which, real].max(-1)
    said = _said(told, which, made.flatten(0, 1), int(at[0])).unflatten(0, made.shape[:2])
    right = (said.argmax(-1) == answer) & (
        said.gather(2, answer.expand(len(made), -1)[..., None])[..., 0] >= SURE * p
    )
    known = set(map(tuple, tokens.tolist()))
    found: dict[tuple[int, ...], int] = {}
    for move, example in right.nonzero().tolist():
        row = tuple(made[move, example].tolist())
        if row not in known:
            found.setdefault(row, int(real[example]))
    if not found:
        return empty
    step = max(1.0, len(found) / (MOST * len(real)))
    chosen = [list(found.items())[int(i * step)] for i in range(min(len(found), MOST * len(real)))]
    return tokens.new_tensor([row for row, _ in chosen]), real.new_tensor([of for _, of in chosen])


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
