"""What follows from answers that are sums: of values that tokens have, modulo the number of answers.

A subject that computes a + b has no proportions to read off once what adds is gone. But every answer that is
known still says that a coefficient times one token's value, one times another's and a constant make the
answer's value: a linear equation modulo a prime. Which coefficients hold under which operator shows in the
rank: of all there are, the right ones alone leave a solution beyond constants, if the two places share their
tokens. Values are drawn from nowhere else, so no gauge moves them, and neither does the order of examples,
tokens or answers. What equations leave open is settled by what a subject says, right or not, where that tells
one solution from the others; of very many, only some are followed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.features.proportions import LEAST_ANSWERS, LEAST_FIRST, UNKNOWN

MOST_GUESSES = 2**14
"""Coefficients that are tried; more are passed over."""
LEAST_AGREED = 4
"""Different equations that must hold beyond those that fix values and coefficients, if what a subject says is
not to bear them out: as many powers of the modulus are against chance."""
MOST_TIED = 32
"""Coefficients that may hold equally well."""
DEVIATIONS = 3.0
"""Standard deviations by which what a subject says must speak for a solution, and against another."""
BEAM = 256
"""Solutions, of the same coefficients, that are followed: those that agree best with what a subject says."""
MOST_ENTRIES = 2**22
"""Of systems that are solved together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """What solves the equations that known answers make."""

    follows: Int[Tensor, " example"]
    """The answer that every solution gives to an example without a known one; UNKNOWN where they differ, or
    where chance could solve the equations, and of those that are known."""
    spaces: tuple["Space", ...]
    """Solutions, for each choice of coefficients that may hold."""
    asked: Bool[Tensor, " example"]
    """Examples without a known answer."""
    modulus: int

    @torch.no_grad()
    def settled(self, said: Int[Tensor, " example"]) -> Int[Tensor, " example"]:
        """What follows if solutions that contradict too much of what a subject says are left out.

        Args:
            said: index of the answer that it gives to each example, right or not.
        """
        said = torch.where(self.asked, said, UNKNOWN - 1)
        written = torch.cat([space.written(self.modulus, said) for space in self.spaces])
        if not len(written):
            return self.follows
        hits = written == said
        counts = hits.sum(1)
        best, by_chance = int(counts.argmax()), float(self.asked.sum()) / self.modulus
        # of so many, the best one agrees by chance with more
        n_tried = sum(self.modulus ** (space.total.shape[1] - 1) for space in self.spaces)
        least = DEVIATIONS + (2 * math.log(n_tried)) ** 0.5
        if counts[best] - by_chance <= least * max(by_chance, 1.0) ** 0.5:
            return self.follows
        apart = (hits != hits[best]).sum(1).double().sqrt()
        rivals = written[counts[best] - counts <= DEVIATIONS * apart]
        agreed = (rivals == written[best]).all(0) & self.asked
        return torch.where(agreed, written[best], self.follows)


@torch.no_grad()
def sums(tokens: Int[Tensor, "example pos"], said: Int[Tensor, " example"], n_answers: int) -> Sums | None:
    """None where answers are no sums, or too few are known to tell.

    Args:
        said: index of the known answers, each of which is right; UNKNOWN of the others.
    """
    prime = n_answers >= LEAST_ANSWERS and all(n_answers % k for k in range(2, n_answers))
    if not (prime and (said != UNKNOWN).any()):
        return None
    found = (system.solved() for system in _systems(tokens, said, n_answers))
    return next((one for one in found if one is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _System:
    """Linear equations for the values of tokens, of a constant under each operator, and of answers."""

    first: Int[Tensor, " example"]
    """Number of the token in the one place, of `n_tokens`."""
    second: Int[Tensor, " example"]
    operator: Int[Tensor, " example"]
    """Number of what stands in all other places, of `n_operators`."""
    said: Int[Tensor, " example"]
    n_tokens: int
    n_operators: int
    modulus: int

    @property
    def first_answer(self) -> int:
        """Where the values of answers begin."""
        return self.n_tokens + self.n_operators

    def solved(self) -> Sums | None:
        known = (self.said != UNKNOWN).nonzero()[:, 0]
        # coefficients but the first, which is 1
        n_guessed = 2 * self.n_operators - 1
        every = torch.arange(1, self.modulus, device=known.device)
        guesses = torch.cartesian_prod(*[every] * n_guessed).view(-1, n_guessed)
        guesses = torch.cat([torch.ones_like(guesses[:, :1]), guesses], dim=1).unflatten(1, (-1, 2))
        n_entries = len(known) * (self.first_answer + self.modulus)
        parts = guesses.split(max(1, MOST_ENTRIES // n_entries))
        equations = (self._equations(part, known) for part in parts)
        ranks = torch.cat([reduced(rows, self.modulus)[1] for rows in equations])
        tied = guesses[ranks == ranks.min()]
        if len(tied) > min(MOST_TIED, len(guesses) - 1):
            return None
        found = [self._space(one[None], known) for one in tied]
        spaces = tuple(space for space in found if space is not None)
        if not spaces:
            return None
        # an equation may be there twice, as where a + b is b + a
        n_different = len(self._equations(tied[:1], known)[0].unique(dim=0))
        sure = len(spaces) == 1 and n_different - int(ranks.min()) - n_guessed >= LEAST_AGREED
        follows, asked = torch.full_like(self.said, UNKNOWN), self.said == UNKNOWN
        if sure:
            follows = torch.where(asked, spaces[0].follows(self.modulus), follows)
        return Sums(follows=follows, spaces=spaces, asked=asked, modulus=self.modulus)

    def _equations(
        self, coefficients: Int[Tensor, "guess operator summand"], known: Int[Tensor, " equation"]
    ) -> Int[Tensor, "guess equation value"]:
        rows = self._sums(coefficients, known)
        rows[:, torch.arange(len(known)), self.first_answer + self.said[known]] = -1
        return rows

    def _sums(
        self, coefficients: Int[Tensor, "guess operator summand"], among: Int[Tensor, " example"]
    ) -> Int[Tensor, "guess example value"]:
        """What the value of each answer is, in those of tokens and constants."""
        operator, row = self.operator[among], torch.arange(len(among), device=among.device)
        rows = coefficients.new_zeros(len(coefficients), len(among), self.first_answer + self.modulus)
        for place, token in enumerate((self.first, self.second)):
            rows[:, row, token[among]] += coefficients[:, operator, place]
        rows[:, row, self.n_tokens + operator] = 1
        return rows

    def _space(
        self, coefficients: Int[Tensor, "one operator summand"], known: Int[Tensor, " equation"]
    ) -> "Space | None":
        """All solutions in which one token and one answer, of those that are known best, have the value 0
        and one answer 1; None where there is none."""
        said = self.said[known]
        tokens = torch.cat([self.first[known], self.second[known]]).bincount(minlength=self.n_tokens)
        answers = said.bincount(minlength=self.modulus)
        if (answers > 0).sum() < 2:
            return None
        zero, one = answers.topk(2).indices.tolist()
        n = self.first_answer + self.modulus
        # the last value is that of 1
        rows = torch.nn.functional.pad(self._equations(coefficients, known)[0], (0, 1, 0, 3))
        rows[-3, tokens.argmax()] = 1
        rows[-2, self.first_answer + zero] = 1
        rows[-1, self.first_answer + one], rows[-1, n] = 1, -1
        solved, _, pivots = reduced(rows[None], self.modulus)
        free = ~pivots[0]
        if not free[-1]:
            return None
        space = torch.zeros(n + 1, int(free.sum()), dtype=torch.long, device=rows.device)
        space[free] = torch.eye(space.shape[1], dtype=torch.long, device=rows.device)
        space[~free] = -solved[0][: int((~free).sum())][:, free]
        space = space[:n] % self.modulus
        everything = torch.arange(len(self.said), device=rows.device)
        # in whole numbers, but a product of those there is not on every device
        space = space.double()
        total = self._sums(coefficients, everything)[0].double() @ space % self.modulus
        places = [token.unique() for token in (self.first, self.second)]
        # in one place different tokens have different values, as far as there are as many
        different = (space[self.first_answer :], *(space[one] for one in places if len(one) <= self.modulus))
        return Space(total=total, different=different)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Space:
    """Values as they depend on those that are free, the last of which is 1; whole numbers."""

    total: Float[Tensor, "example free"]
    different: tuple[Float[Tensor, "value free"], ...]
    """Values that are all different: those of answers first, then those of the tokens in each place."""

    def follows(self, modulus: int) -> Int[Tensor, " example"]:
        """The answer that every solution gives, or UNKNOWN."""
        nothing = torch.full((len(self.total),), UNKNOWN, device=self.total.device)
        written, whole = self._followed(modulus, None)
        if whole and not len(written):
            return nothing
        if whole:
            return torch.where((written == written[0]).all(0), written[0], nothing)
        same = (self.total[:, None] == self.different[0]).all(2)
        return torch.where(same.any(1), same.int().argmax(1), nothing)

    def written(self, modulus: int, said: Int[Tensor, " example"]) -> Int[Tensor, "solution example"]:
        """The answers that solutions give which agree best with what is said."""
        return self._followed(modulus, said)[0]

    def _followed(
        self, modulus: int, said: Int[Tensor, " example"] | None
    ) -> tuple[Int[Tensor, "solution example"], bool]:
        """The answers that solutions give, and whether these are all.

        A beam search: values are chosen one after the other, those first on which most depends.

        Args:
            said: what solutions must agree with to be followed; if nothing, it ends where there are too many.
        """
        n_free = self.total.shape[1] - 1
        order = (self.total[:, :n_free] != 0).sum(0).argsort(descending=True, stable=True).tolist()
        every = torch.arange(modulus, device=self.total.device, dtype=self.total.dtype)
        chosen = torch.nn.functional.pad(self.total.new_zeros(1, n_free), (0, 1), value=1)
        open_, whole = torch.ones(n_free + 1, dtype=torch.bool, device=self.total.device), True
        open_[-1] = False
        written, proper = self._read(modulus, chosen, open_)
        chosen, written = chosen[proper], written[proper]
        for at in order:
            chosen = chosen.repeat_interleave(modulus, dim=0)
            chosen[:, at] = every.repeat(len(chosen) // modulus)
            open_[at] = False
            written, proper = self._read(modulus, chosen, open_)
            chosen, written = chosen[proper], written[proper]
            if len(chosen) > BEAM:
                whole = False
                if said is None:
                    break
                best = (written == said).sum(1).topk(BEAM).indices
                chosen, written = chosen[best], written[best]
        return written, whole

    def _read(
        self, modulus: int, chosen: Float[Tensor, "solution free"], open_: Bool[Tensor, " free"]
    ) -> tuple[Int[Tensor, "solution example"], Bool[Tensor, " solution"]]:
        """The answers as far as they do not depend on what is open, and whether different values are."""
        proper, names = torch.ones(len(chosen), dtype=torch.bool, device=chosen.device), []
        for different in self.different:
            settled = ~(different != 0)[:, open_].any(1)
            values = (chosen @ different[settled].T % modulus).long()
            name = torch.full((len(chosen), modulus), UNKNOWN, device=chosen.device)
            name.scatter_(1, values, settled.nonzero()[:, 0].expand_as(values))
            proper &= (name != UNKNOWN).sum(1) == settled.sum()
            names.append(name)
        told = ~(self.total != 0)[:, open_].any(1)
        written = names[0].gather(1, (chosen @ self.total.T % modulus).long())
        return torch.where(told, written, UNKNOWN), proper


def _systems(
    tokens: Int[Tensor, "example pos"], said: Int[Tensor, " example"], modulus: int
) -> Iterator[_System]:
    """One for each pair of places in which inputs differ."""
    varied = [at for at in range(tokens.shape[1]) if len(tokens[:, at].unique()) >= LEAST_FIRST]
    for first, second in combinations(varied, 2):
        rest = tokens.clone()
        rest[:, [first, second]] = UNKNOWN
        operator = rest.unique(dim=0, return_inverse=True)[1]
        values, number = tokens[:, [first, second]].unique(return_inverse=True)
        n_operators = int(operator.max()) + 1
        if (modulus - 1) ** (2 * n_operators - 1) > MOST_GUESSES:
            continue
        yield _System(
            first=number[:, 0],
            second=number[:, 1],
            operator=operator,
            said=said,
            n_tokens=len(values),
            n_operators=n_operators,
            modulus=modulus,
        )


def reduced(
    rows: Int[Tensor, "system equation value"], modulus: int
) -> tuple[Int[Tensor, "system equation value"], Int[Tensor, " system"], Bool[Tensor, "system value"]]:
    """Reduced row echelon form of each system, its rank, and which values stand in a pivot.

    Args:
        modulus: a prime.
    """
    rows = rows % modulus
    inverse = torch.tensor([0] + [pow(k, -1, modulus) for k in range(1, modulus)], device=rows.device)
    rank = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    system, equation = (torch.arange(n, device=rows.device) for n in rows.shape[:2])
    pivots = torch.zeros(len(rows), rows.shape[2], dtype=torch.bool, device=rows.device)
    for at in range(rows.shape[2]):
        below = (rows[:, :, at] != 0) & (equation >= rank[:, None])
        has = below.any(1)
        chosen = below.int().argmax(1)
        to = torch.where(has, rank, chosen)
        pivot = rows[system, chosen]
        rows[system, chosen] = rows[system, to]
        pivot = pivot * inverse[pivot[:, at]][:, None] % modulus
        factor = rows[:, :, at] * has[:, None]
        rows = (rows - factor[..., None] * pivot[:, None]) % modulus
        rows[system, to] = torch.where(has[:, None], pivot, rows[system, to])
        pivots[:, at] = has
        rank += has
    return rows, rank, pivots
