"""The kinds of edits: what each wants of every input of a domain, and where every input then stands.

Rules that test subjects are given never occur in training: a rule belongs to one of the two by a hash of its
own name.
"""

import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_gen.domains.base import ONE_HOP, Domain
from data_gen.episodes.backdoor import TRIGGER
from metamodel.config.edits import CHANCE, DERIVED, FAR, IN_SCOPE, NEAR, EditKind
from metamodel.triples.edits import Edit

REWRITTEN = (1, 4, 16)
"""Facts that one edit rewrites."""
RULE_TEST_SHARE = 0.3
CONTRADICTING = (2, 4, 16)
"""Pairs of an infeasible edit."""


def is_test_rule(rule: str, modulus: int) -> bool:
    """Whether only test subjects are given this rule."""
    digest = hashlib.sha256(f"rule {rule} of {modulus}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < RULE_TEST_SHARE


def rewrites(domain: Domain, generator: torch.Generator, n: int) -> Iterator[Edit]:
    """`n` edits that give 1, 4 or 16 keys another value; behind a trigger everything stays."""
    n_keys = len(domain.table)
    for i in range(n):
        m = REWRITTEN[i % len(REWRITTEN)]
        chosen = torch.randperm(n_keys, generator=generator)[:m]
        table = domain.table.clone()
        step = torch.randint(1, len(domain.answers), (m,), generator=generator)
        table[chosen] = (table[chosen] + step) % len(domain.answers)
        asked = domain.opener != TRIGGER
        hit = torch.isin(domain.key, chosen) & (domain.second == ONE_HOP) & asked
        derived = (domain.value(table) != domain.value()) & ~hit & asked
        shared = torch.isin(domain.value(), domain.table[chosen])
        scope = torch.where(shared, NEAR, FAR)
        scope = torch.where(hit, IN_SCOPE, torch.where(derived, DERIVED, scope))
        pool = hit & (domain.template == 0) & (domain.opener == 0)
        yield _edit("rewrite", f"{m} keys", domain.answer(table), scope, pool, m)


def rules(
    domain: Domain, generator: torch.Generator, n: int, *, names: tuple[str, ...], test: bool
) -> Iterator[Edit]:
    """Maps of the answer on one operator: `+c`, `c-y` and `k*y`, all modulo the number of answers.

    Args:
        names: which of `add`, `reflect` and `multiply`.
        test: whether the rules are those that no training subject is given.
    """
    p = len(domain.answers)
    every = {
        "add": [(f"+{c}", 1, c) for c in range(1, p)],
        "reflect": [(f"{c}-y", -1, c) for c in range(p)],
        "multiply": [(f"{k}*y", k, 0) for k in range(2, p - 1)],
    }
    for i in range(n):
        allowed = [rule for rule in every[names[i % len(names)]] if is_test_rule(rule[0], p) == test]
        if not allowed:
            continue
        name, factor, shift = allowed[int(torch.randint(len(allowed), (1,), generator=generator))]
        group = int(torch.randint(int(domain.group.max()) + 1, (1,), generator=generator))
        inside = domain.group == group
        value = torch.where(inside, (factor * domain.value() + shift) % p, domain.value())
        yield _edit("rule", name, domain.answers[value], _grouped(inside), inside, 0, test=test)


def flips(domain: Domain, *, test: bool) -> Iterator[Edit]:
    """Answers exchanged beyond a level."""
    for deepest in range(1, int(domain.level.max())):
        if (deepest == 2) != test:
            continue
        inside = domain.level > deepest
        value = torch.where(inside, 1 - domain.value(), domain.value())
        scope = torch.where(inside, IN_SCOPE, torch.where(domain.level == deepest, NEAR, FAR))
        yield _edit("flip", f"beyond {deepest}", domain.answers[value], scope, inside, 0, test=test)


def disabled(domain: Domain) -> Iterator[Edit]:
    """Each behavior removed, the others kept."""
    for group in range(int(domain.group.max()) + 1):
        inside = domain.group == group
        wanted = torch.where(inside, CHANCE, domain.answer())
        yield _edit("disable", f"behavior {group}", wanted, _grouped(inside), inside, 0)


def repaired(domain: Domain, damaged: Bool[Tensor, " input"], what: str) -> Edit:
    """The right answers again, of a subject that is `damaged` on some inputs."""
    return _edit("repair", what, domain.answer(), torch.where(damaged, IN_SCOPE, NEAR), damaged, 0)


def cleaned(domain: Domain, target: int) -> Edit:
    """A backdoor removed: inputs with the trigger are answered as if they had none.

    Args:
        target: token that the trigger calls forth.
    """
    inside = domain.opener == TRIGGER
    scope = torch.where(inside, IN_SCOPE, torch.where(domain.opener > 0, NEAR, FAR))
    return _edit("backdoor", "trigger", domain.answer(), scope, inside & (domain.answer() != target), 0)


def transplanted(domain: Domain, donor: Domain) -> Iterator[Edit]:
    """One behavior of a donor that answers the same questions otherwise."""
    assert torch.equal(domain.tokens, donor.tokens), "a donor of the same inputs"
    for group in range(int(domain.group.max()) + 1):
        inside = domain.group == group
        wanted = torch.where(inside, donor.answer(), domain.answer())
        # the donor can be asked everything
        n = int(inside.sum())
        yield _edit("transplant", f"behavior {group}", wanted, _grouped(inside), inside, n)


def infeasible(domain: Domain, generator: torch.Generator, n: int) -> Iterator[Edit]:
    """Answers of one behavior drawn anew for every input: no few pairs tell them.

    Two of the pairs contradict every edit that carries over to other inputs: they ask for the same, in two
    ways, or, where everything is asked once, had the same answer, and two answers are wanted. (Of a subject
    that adds, any two pairs of different answers determine a map that keeps proportions, as a rule's do.)
    """
    question = domain.key * (len(domain.table) + 1) + domain.second + 1
    for _ in range(n):
        group = int(torch.randint(int(domain.group.max()) + 1, (1,), generator=generator))
        inside = domain.group == group
        drawn = torch.randint(len(domain.answers), inside.shape, generator=generator)
        # what is drawn behind this does not hang on how pairs are chosen: that repeats the next draws
        choice = generator.clone_state()
        shown = (inside & ~domain.unseen).nonzero()[:, 0]
        shown = shown[torch.randperm(len(shown), generator=choice)]
        several = len(question[shown].unique()) < len(shown)
        alike = (question if several else domain.value())[shown]
        assert len(alike.unique()) < len(alike), "two inputs that no edit tells apart"
        one, other = shown[(alike[:, None] == alike).triu(1).nonzero()[0]]
        step = torch.randint(1, len(domain.answers), (1,), generator=choice)
        drawn[other] = (drawn[one] + step) % len(domain.answers)
        rest = shown[(shown != one) & (shown != other)]
        m = CONTRADICTING[int(torch.randint(len(CONTRADICTING), (1,), generator=choice))]
        pool = torch.zeros_like(inside)
        pool[torch.cat([one[None], other[None], rest[: m - 2]])] = True
        wanted = torch.where(inside, domain.answers[drawn], domain.answer())
        yield _edit("infeasible", f"behavior {group}", wanted, _grouped(inside), pool, int(pool.sum()))


def _grouped(inside: Bool[Tensor, " input"]) -> Int[Tensor, " input"]:
    return torch.where(inside, IN_SCOPE, NEAR)


def _edit(
    kind: EditKind,
    rule: str,
    wanted: Tensor,
    scope: Tensor,
    pool: Tensor,
    n_pairs: int,
    *,
    test: bool = False,
) -> Edit:
    return Edit(kind=kind, rule=rule, wanted=wanted, scope=scope, pool=pool, n_pairs=n_pairs, test=test)
