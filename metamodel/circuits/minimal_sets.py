"""All minimal sets of items that suffice for a behaviour, and all that are necessary for it.

A set of items *works* if, with only it kept and all other items ablated, at least a stated share of the gap
between nothing ablated and everything ablated is left. It is sufficient if it works, and minimal if no proper
subset of it works. A set is necessary if its ablation alone breaks what works, and minimal likewise: of a
monotone verdict (more items never hurt) these are the minimal sets that meet every sufficient one.

    enumeration   runs all 2^n sets, at most 16 items. Exact whatever the verdict; tells whether it is
                  monotone.
    monotone      runs a few dozen sets (`metamodel.circuits.lattice.both_families`). Exact if the verdict is
                  monotone, which is put to the test on neighbours of the sets found and on random ones; a
                  counterexample leads to enumeration, or to a refusal above 16 items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.lattice import Table, both_families, members, minimal, transversals
from metamodel.circuits.sets import SetOracle
from metamodel.config.errors import InputError, require, suggestion

if TYPE_CHECKING:
    import pandas

Method = Literal["enumeration", "monotone"]
MOST_ENUMERATED = 16
"""Items of an enumeration: 65536 runs."""
MOST_MONOTONE = 64
_ROUNDING = 1e-6
"""Of the gap: by so much a share may miss its bound in float32."""
_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MinimalSets:
    """Both families, smallest sets first, items in the oracle's order."""

    names: tuple[str, ...]
    at_least: float
    """Share of the gap at which a set works; a set breaks if less is left."""
    sufficient: tuple[tuple[str, ...], ...]
    necessary: tuple[tuple[str, ...], ...]
    left_by_sufficient: Float[Tensor, " sufficient"]
    """Share of the gap that each sufficient set keeps."""
    left_by_necessary: Float[Tensor, " necessary"]
    """Share of the gap that is left when each necessary set is ablated."""
    lost_alone: Float[Tensor, " item"]
    """Share of the gap that the ablation of each item alone costs."""
    idle: tuple[str, ...]
    """Items that change the verdict in no company, and so stand in no minimal set."""
    harmful: tuple[str, ...]
    """Items that break some set which works without them; none if the verdict is monotone."""
    method: Method
    """How they were found; enumeration also where a monotone search met a counterexample."""
    monotone: bool | None
    """Whether more items never hurt: known after an enumeration, None where it was taken for granted and no
    counterexample met."""
    evaluations: int

    @property
    def dual(self) -> bool:
        """Whether the necessary sets are exactly the minimal sets that meet each sufficient one.

        So it is if and only if the verdict is monotone, as long as both families are complete.
        """
        index = {name: i for i, name in enumerate(self.names)}
        working, breaking = (
            [sum(1 << index[name] for name in one) for one in family]
            for family in (self.sufficient, self.necessary)
        )
        return transversals(working) == minimal(breaking)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a set: kind (sufficient or necessary), items, size, share of the gap that is left."""
        import pandas

        rows = [
            {"kind": kind, "items": " + ".join(one), "size": len(one), "left": float(left)}
            for kind, family, shares in (
                ("sufficient", self.sufficient, self.left_by_sufficient),
                ("necessary", self.necessary, self.left_by_necessary),
            )
            for one, left in zip(family, shares, strict=True)
        ]
        return pandas.DataFrame(rows)

    def describe(self) -> str:
        """Both families in words."""
        how = {
            True: "the verdict is monotone",
            False: "the verdict is not monotone",
            None: "monotone assumed",
        }
        lines = [
            f"{len(self.names)} items, {self.evaluations} evaluations ({self.method}; {how[self.monotone]})",
            f"enough to keep {self.at_least:.0%} of the gap:",
        ]
        shares = zip(self.sufficient, self.left_by_sufficient.tolist(), strict=True)
        lines += [f"  {' + '.join(one)}: {left:.0%} kept" for one, left in shares]
        lines.append("enough to lose it when ablated:")
        shares = zip(self.necessary, self.left_by_necessary.tolist(), strict=True)
        lines += [f"  {' + '.join(one)}: {left:.0%} left" for one, left in shares]
        lines += [f"never matter: {', '.join(self.idle)}"] if self.idle else []
        lines += [f"hurt in some company: {', '.join(self.harmful)}"] if self.harmful else []
        return "\n".join(lines)


def minimal_sets(
    oracle: SetOracle,
    *,
    at_least: float = 0.5,
    method: Method = "enumeration",
    checks: int = 64,
    seed: int = 0,
) -> MinimalSets:
    """All minimal sufficient and all minimal necessary sets of an oracle's items.

    Args:
        at_least: share of the gap, in (0, 1], at which behaviour counts as kept; below it, as broken.
        method: see the module; `monotone` for more than 16 items, or costly runs.
        checks: random sets on which a monotone search is put to the test.
        seed: of those sets.

    Raises: InputError for too many items, a share out of range, an ablation of everything that changes
        nothing, or a verdict that is not monotone and has too many items to enumerate.
    """
    n, before = len(oracle), oracle.evaluations
    require(
        0 < at_least <= 1, "at_least", expected="a share in (0, 1]", got=at_least, do="0.5 is half the gap."
    )
    if method not in get_args(Method):
        do = f"Choose one of them.{suggestion(method, get_args(Method))}"
        raise InputError("method", expected="enumeration or monotone", got=repr(method), do=do)
    most = MOST_ENUMERATED if method == "enumeration" else MOST_MONOTONE
    advice = "Find those that matter with group_search first, or group them"
    require(
        n <= most,
        "minimal_sets",
        expected=f"at most {most} items for method {method}",
        got=n,
        do=f"{advice}; method='monotone' takes {MOST_MONOTONE}." if n <= MOST_MONOTONE else f"{advice}.",
    )
    verdict = _Verdict(oracle, at_least)
    if method == "monotone":
        working, breaking = both_families(verdict.works, n)
        witness = verdict.counterexample(working, checks, seed)
        if witness is None:
            used = _members_of(working)
            idle = tuple(name for i, name in enumerate(oracle.names) if i not in used)
            return _result(verdict, working, breaking, method, None, idle, (), before)
        require(
            n <= MOST_ENUMERATED,
            "minimal_sets",
            expected="a monotone verdict, where more items never hurt",
            got=f"{' + '.join(oracle.names[i] for i in members(witness))}, which is an exception",
            do=f"Name at most {MOST_ENUMERATED} items, which are enumerated.",
        )
    table = Table(n=n, works=torch.tensor(verdict.works(range(1 << n))))
    working, breaking = table.smallest(), table.breaking().smallest()
    harmful = tuple(name for i, name in enumerate(oracle.names) if table.harming(i))
    idle = tuple(name for i, name in enumerate(oracle.names) if not table.harming(i) and not table.helping(i))
    return _result(verdict, working, breaking, "enumeration", not harmful, idle, harmful, before)


def _members_of(family: Sequence[int]) -> set[int]:
    return {i for one in family for i in members(one)}


class _Verdict:
    """Whether sets of kept items work; every set is run once."""

    def __init__(self, oracle: SetOracle, at_least: float):
        self.oracle, self.at_least, self.gap = oracle, at_least, oracle.gap()
        self.known = {0: 0.0, (1 << len(oracle)) - 1: 1.0}
        """Share of the gap that is left by what is kept."""

    def left(self, kept: Sequence[int]) -> list[float]:
        new = sorted({one for one in kept if one not in self.known})
        for first in range(0, len(new), _BATCH):
            part = torch.tensor(new[first : first + _BATCH], dtype=torch.int64)
            bits = part.unsqueeze(1) >> torch.arange(len(self.oracle)) & 1
            shares = self.gap.kept(self.oracle(bits == 0))
            self.known |= dict(zip(part.tolist(), shares.tolist(), strict=True))
        return [self.known[one] for one in kept]

    def works(self, kept: Sequence[int]) -> list[bool]:
        return [left >= self.at_least - _ROUNDING for left in self.left(kept)]

    def counterexample(self, working: Sequence[int], checks: int, seed: int) -> int | None:
        """A set of kept items on which the working sets, taken as monotone, foretell a wrong verdict.

        Tried are the ablation of each item alone, every set that one item divides from a minimal one of
        either family, and random sets: half of them a working one and more, the others with no working one
        whole.
        """
        n, generator = len(self.oracle), torch.Generator().manual_seed(seed)
        drawn = torch.rand(checks, n + 1, generator=generator)
        density = torch.rand(checks, 1, generator=generator)
        breaking = transversals(working)
        whole = (1 << n) - 1
        tried = [whole & ~(1 << i) for i in range(n)]
        tried += [core & ~(1 << i) for core in working for i in members(core)]
        tried += [whole & ~core | 1 << i for core in breaking for i in members(core)]
        for i, row in enumerate(drawn[:, :n] < density):
            one = sum(1 << place for place in row.nonzero().squeeze(1).tolist())
            family = working if i % 2 == 0 else breaking
            core = family[int(drawn[i, n] * len(family))]
            tried.append(one | core if i % 2 == 0 else one & ~core)
        found = [*tried, *self.known]
        foretold = [any(one & core == core for core in working) for one in found]
        wrong = [one for one, a, b in zip(found, foretold, self.works(found), strict=True) if a != b]
        return wrong[0] if wrong else None


def _result(
    verdict: _Verdict,
    working: Sequence[int],
    breaking: Sequence[int],
    method: Method,
    monotone: bool | None,
    idle: tuple[str, ...],
    harmful: tuple[str, ...],
    before: int,
) -> MinimalSets:
    names, whole = verdict.oracle.names, (1 << len(verdict.oracle)) - 1

    def left(kept: list[int]) -> Float[Tensor, " set"]:
        return torch.tensor(verdict.left(kept), dtype=torch.float64)

    shares = [
        left(list(working)),
        left([whole & ~one for one in breaking]),
        1 - left([whole & ~(1 << i) for i in range(len(names))]),
    ]
    return MinimalSets(
        names=names,
        at_least=verdict.at_least,
        sufficient=tuple(tuple(names[i] for i in members(one)) for one in working),
        necessary=tuple(tuple(names[i] for i in members(one)) for one in breaking),
        left_by_sufficient=shares[0],
        left_by_necessary=shares[1],
        lost_alone=shares[2],
        idle=idle,
        harmful=harmful,
        method=method,
        monotone=monotone,
        evaluations=verdict.oracle.evaluations - before,
    )
