"""What is to c as b is to a: proportions of answers that a subject's own behavior shows.

Where two tokens stand in one place of an input and another place runs through its values, answers under the
one are carried to answers under the other: a substitution is a map of answers. Substitutions that carry a to
b and agree on where they carry c say that b is to a as d is to c (analogical proportion; Lepage 1998,
Gentner 1983). A subject that adds has every proportion; one that looks up unrelated facts has none beyond
those that hold of any answers. The same substitutions say what a subject should answer to an input if it
answered it as it answers others. Only answers are looked at, so no gauge moves a proportion, and neither does
the order of examples or answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNKNOWN = -1
LEAST_ANSWERS = 5
"""Fewer answers agree too often by chance."""
IDLE = 0.95
"""Share of inputs answered alike whatever stands in a place, from which on it is passed over: a paraphrase
is no second witness."""
LEAST_FIRST = 3
"""Answers that a substitution must carry to say anything of a fourth."""
LEAST_ONE_TO_ONE = 0.6
"""How nearly it must be a one-to-one map, of 1."""
LEAST_WITNESSES = 3
"""Substitutions that must agree on a proportion, and proportions on the answer that is expected."""
LEAST_SHARE = 0.5
"""Share of those that say anything, more than which must agree."""
LEAST_KNOWN = 0.5
"""Share of all proportions that a subject must have for an answer to be expected of it."""
LEAST_FILLED = 0.25
"""Share of a table's inputs that must be among the examples; in an emptier one few lines can be compared."""
MOST_ENTRIES = 2**22
"""Quadruples of inputs that a table of two places may hold; larger ones are passed over."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proportions:
    """Of a batch of subjects; UNKNOWN where a subject's behavior does not say."""

    fourth: Int[Tensor, "subject answer answer2 answer3"]
    """`[a, b, c]`: the answer that is to c as b is to a."""
    expected: Int[Tensor, "subject example"]
    """The answer to each example that follows from those to others; not always what the subject says."""

    def corrected(
        self, old: Float[Tensor, "subject example answer"]
    ) -> Float[Tensor, "subject example answer"]:
        """What the subject says, or what it should say by its own answers to others where that is known."""
        right = torch.nn.functional.one_hot(self.expected.clamp_min(0), old.shape[-1]).to(old.dtype)
        return torch.where((self.expected != UNKNOWN)[..., None], right, old)

    def share(self, answer_mask: Bool[Tensor, "subject answer"]) -> Float[Tensor, " subject"]:
        """How many of all proportions each subject has."""
        each = zip(self.fourth, answer_mask.sum(1).tolist(), strict=True)
        return torch.stack([known_share(fourth[:n, :n, :n]) for fourth, n in each])

    def hidden(self) -> "Proportions":
        """As if nothing were known, to see what this adds."""
        return Proportions(
            fourth=torch.full_like(self.fourth, UNKNOWN), expected=torch.full_like(self.expected, UNKNOWN)
        )


@torch.no_grad()
def proportions(
    tokens: Int[Tensor, "subject example pos"],
    shown: Bool[Tensor, "subject example"],
    said: Int[Tensor, "subject example"],
    answer_mask: Bool[Tensor, "subject answer"],
) -> Proportions:
    """Reads them off what the subjects say.

    Args:
        shown: examples that are none of the padding.
        said: index of the subject's answer to each example.
    """
    size = answer_mask.shape[1]
    fourth = torch.full((len(tokens), size, size, size), UNKNOWN, device=tokens.device)
    expected = torch.full_like(said, UNKNOWN)
    for i, n in enumerate(answer_mask.sum(1).tolist()):
        here = shown[i]
        if n < LEAST_ANSWERS or not bool(here.any()):
            continue
        tables = list(_tables(*_without_idle(tokens[i][here], said[i][here], n)))
        own = _fourth([table.said for table in tables], n, tokens.device)
        # once more, with the tables filled and put right by what is known so far
        own = _fourth([_put_right(table.said, own) for table in tables], n, tokens.device)
        fourth[i, :n, :n, :n] = own
        if known_share(own) < LEAST_KNOWN:
            continue
        votes = torch.zeros(int(here.sum()), n, device=tokens.device)
        for table in tables:
            votes += _votes(table.said, own)[table.cell]
        expected[i, here] = _voted(votes)
    return Proportions(fourth=fourth, expected=expected)


def known_share(fourth: Int[Tensor, "answer answer2 answer3"]) -> Float[Tensor, ""]:
    """Share of the proportions that are known, of those that do not hold of any answers."""
    every = torch.arange(len(fourth), device=fourth.device)
    a, b, c = every[:, None, None], every[None, :, None], every[None, None]
    asked = (a != b) & (a != c)
    return ((fourth != UNKNOWN) & asked).float().sum() / asked.float().sum().clamp_min(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Answers to all inputs that agree in all places but two, for each way of filling the others."""

    said: Int[Tensor, "rest first second"]
    """UNKNOWN where no example stands."""
    cell: tuple[Tensor, Tensor, Tensor]
    """Where each example stands in it."""


def _without_idle(
    tokens: Int[Tensor, "example pos"], said: Int[Tensor, " example"], n_answers: int
) -> tuple[Tensor, Tensor]:
    """The same examples with one token in every place that changes no answer.

    Inputs that are then the same have the answer of most of them, or UNKNOWN.
    """
    tokens, said = tokens.clone(), said.clone()
    for at in range(tokens.shape[1]):
        group = _groups(tokens, [at])
        counts = torch.nn.functional.one_hot(said + 1, n_answers + 1)[:, 1:].float()
        counts = torch.zeros(int(group.max()) + 1, n_answers, device=said.device).index_add_(0, group, counts)
        several = counts.sum(1) > 1
        if not bool(several.any()):
            continue
        most, best = counts.max(1)
        if most[several].sum() >= IDLE * counts[several].sum():
            tokens[:, at] = UNKNOWN
            said = torch.where(2 * most > counts.sum(1), best, UNKNOWN)[group]
    return tokens, said


def _groups(tokens: Int[Tensor, "example pos"], but: Sequence[int]) -> Int[Tensor, " example"]:
    """A number for each example, the same for those that agree in all places but some."""
    rest = tokens.clone()
    rest[:, list(but)] = UNKNOWN
    return rest.unique(dim=0, return_inverse=True)[1]


def _tables(tokens: Int[Tensor, "example pos"], said: Int[Tensor, " example"]) -> Iterator[_Table]:
    """A table for each pair of places in which inputs differ."""
    codes = [tokens[:, at].unique(return_inverse=True)[1] for at in range(tokens.shape[1])]
    sizes = [int(code.max()) + 1 for code in codes]
    for first, second in combinations([at for at, size in enumerate(sizes) if size > 1], 2):
        if max(sizes[first], sizes[second]) < LEAST_FIRST:
            continue
        group = _groups(tokens, [first, second])
        n_rest = int(group.max()) + 1
        cells = n_rest * sizes[first] * sizes[second]
        if len(tokens) < LEAST_FILLED * cells or cells * sizes[first] * sizes[second] > MOST_ENTRIES:
            continue
        table = torch.full((n_rest, sizes[first], sizes[second]), UNKNOWN, device=tokens.device)
        cell = (group, codes[first], codes[second])
        table[cell] = said
        yield _Table(said=table, cell=cell)


def _fourth(
    tables: Sequence[Tensor], n_answers: int, device: torch.device
) -> Int[Tensor, "answer answer2 answer3"]:
    """By vote of all substitutions that are nearly one-to-one.

    Args:
        tables: of answers, `[rest, first, second]`.
    """
    votes = torch.zeros(n_answers**2, n_answers**2, device=device)
    for table in tables:
        for said in (table, table.mT):
            carried = _substitutions(said, n_answers).flatten(1)
            if len(carried):
                votes += carried.mT @ carried
    # [a, b, c, d]: substitutions that carry a to b and c to d
    found = _voted(votes.view((n_answers,) * 4))
    # what holds of any answers: b is to a as b is to a, and a is to a as c is to c
    every = torch.arange(n_answers, device=device)
    found[every, :, every] = every
    found[every, every, :] = every
    return found


def _substitutions(
    said: Int[Tensor, "rest token other"], n_answers: int
) -> Float[Tensor, "substitution answer answer2"]:
    """Which answers each substitution of one token for another carries to which, 0 or 1."""
    rows = torch.nn.functional.one_hot(said + 1, n_answers + 1)[..., 1:].float()
    varied = rows.amax(2).sum(-1) >= LEAST_FIRST
    found = []
    for row, among in zip(rows, varied, strict=True):
        kept = row[among]
        carried = torch.einsum("tua,vub->tvab", kept, kept)
        other = ~torch.eye(len(kept), dtype=torch.bool, device=said.device)
        found.append(carried[other])
    carried = torch.cat(found)
    total = carried.sum((1, 2)).clamp_min(1)
    forth, back = carried.amax(2).sum(1) / total, carried.amax(1).sum(1) / total
    enough = (carried.amax(2) > 0).sum(1) >= LEAST_FIRST
    return (carried[enough & (forth * back >= LEAST_ONE_TO_ONE)] > 0).float()


def _votes(
    said: Int[Tensor, "rest first second"], fourth: Int[Tensor, "answer answer2 answer3"]
) -> Float[Tensor, "rest first second answer"]:
    """For the answer in each cell: it is to the one beside it as two others in the same lines are."""
    n, known = len(fourth), said != UNKNOWN
    # [rest, t, u, t2, u2]: what is to said[t2, u] as said[t, u2] is to said[t2, u2]
    (a, b, c), there = (
        (x[:, None, None], x[:, :, None, None], x.mT[:, None, :, :, None]) for x in (said.clamp_min(0), known)
    )
    found = fourth[a, b, c]
    first, second = (torch.eye(size, dtype=torch.bool, device=said.device) for size in said.shape[1:])
    # what holds of any answers is no witness: it only says which are common
    holds = there[0] & there[1] & there[2] & (found != UNKNOWN) & (a != b) & (a != c)
    holds = holds & ~first[:, None, :, None] & ~second[:, None]
    cell, place = holds.flatten(0, 2).flatten(1).nonzero().T
    votes = torch.zeros(said.numel(), n, device=said.device)
    which = found.flatten(0, 2).flatten(1)[cell, place]
    votes.index_put_((cell, which), votes.new_ones(()), accumulate=True)
    return votes.view(*said.shape, n)


def _put_right(said: Int[Tensor, "rest first second"], fourth: Tensor) -> Int[Tensor, "rest first second"]:
    expected = _voted(_votes(said, fourth))
    return torch.where(expected != UNKNOWN, expected, said)


def _voted(votes: Float[Tensor, "*cell answer"]) -> Int[Tensor, "*cell"]:
    """The answer that most agree on; UNKNOWN where too few do."""
    most, best = votes.max(-1)
    agreed = (most >= LEAST_WITNESSES) & (most > LEAST_SHARE * votes.sum(-1))
    return torch.where(agreed, best, UNKNOWN)
