"""Which few of many items matter: adaptive group tests, from coarse to fine, with a fallback for backups.

Items stand in a line, by default as given, better so that those which fire together are neighbours
(`metamodel.circuits.item_order`). A test ablates a group; it matters if it costs a stated share of the gap.

1. *rest*: ablate all that is not found yet. If that costs too little, this very run keeps only what was
   found, so that sufficiency needs no run of its own.
2. *bisect*: else the loss jumps somewhere along the prefixes of the line (Hwang 1972: halves, and where the
   first half does not matter the second must, which saves its test). Of halves that both matter the first is
   taken, but for one that costs less than half of the other: weak effects of many add up, a jump beats them.
   Halves are of equal prior weight, not size: half of it uniform, half near items that were found. What did
   not matter in earlier rounds is not asked again.
3. *single*: ablate the item at the jump alone. If that matters, it is found.
4. *joint*: else others must be gone besides, as for a backup, where the group matters but no half of it does.
   The item stays ablated, and the jump that is left gives the next one, until those ablated matter by
   themselves. ddmin (Zeller and Hildebrandt 2002) then takes out whatever a verdict that is not monotone let
   in.
5. *partner*: backups repair in part only. An item whose ablation costs less than everything is ablated
   together with the rest; where that costs clearly more than the item alone, its backup is found as in 2 to
   4.

Found items are kept in all later rounds but the last kind. Each found set has been ablated alone and
mattered; keeping only the found items has been run and suffices. That these are *all* sets that matter is not
promised: a second partner of a backup pair stays unseen while what was found suffices, and opposite effects
may cancel in all tests. `metamodel.circuits.minimal_sets` lists all sets of the few items that were found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from metamodel.circuits.ddmin import ddmin
from metamodel.circuits.sets import SetOracle
from metamodel.config.errors import require

Stage = Literal["ends", "rest", "bisect", "single", "joint", "ddmin", "partner"]
_UNIFORM = 0.5
"""Prior weight that does not follow what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTest:
    """One evaluation."""

    stage: Stage
    ablated: tuple[str, ...]
    lost: float
    """Share of the gap."""
    matters: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found, and all that it ran."""

    items: tuple[str, ...]
    """Every item of any set, in the oracle's order."""
    sets: tuple[tuple[str, ...], ...]
    """As found: a single item whose ablation matters, or several that matter together only; later
    perhaps such an item again with its backup, as they cost more than the item alone."""
    evaluations: int
    """Runs of the oracle, the two ends and all verification included."""
    log: tuple[GroupTest, ...]
    ddmin_needed: bool
    """Whether bisection met a group of which no single item matters, as with a full backup."""
    complete: bool
    """Whether keeping only the found items loses less than the share that matters. False if the budget ran
    out, or what is left is spread over items that each cost too little."""
    lost_when_kept: float
    """Share of the gap that is lost when only the found items are kept, in the last such run."""

    def describe(self) -> str:
        """Sets, cost and verification in words."""
        lines = [f"{len(self.items)} items in {self.evaluations} evaluations"]
        lines += [f"  {' + '.join(one)}" for one in self.sets]
        verdict = "suffices" if self.complete else "does not suffice: search not finished"
        lines.append(f"keeping only them {verdict} ({self.lost_when_kept:.0%} of the gap lost)")
        return "\n".join(lines)


class _BudgetSpent(Exception):
    """Raised inside a search when no run is left."""


def group_search(
    oracle: SetOracle,
    *,
    order: Sequence[int] | None = None,
    at_least: float = 0.1,
    budget: int = 500,
    largest: int = 8,
) -> Found:
    """Finds the items that matter, in about log₂(n) + 2 evaluations for each.

    Args:
        order: indices of all items, neighbours first tested together; by default as the oracle has them.
        at_least: share of the gap, in (0, 1), that a group must cost to matter.
        budget: evaluations at most.
        largest: items of a set that matter together only; above it an effect counts as spread, and the
            search ends without it.

    Raises: InputError for an order that is none, a share or a budget out of range, or an oracle whose whole
        ablation changes nothing.
    """
    n = len(oracle)
    line = list(range(n)) if order is None else list(order)
    require(
        sorted(line) == list(range(n)),
        "order",
        expected=f"each index from 0 to {n - 1} once",
        got=f"{len(line)} indices, {len(set(line))} of them different",
        do="Pass what correlated_order gives for the same items.",
    )
    require(0 < at_least < 1, "at_least", expected="a share in (0, 1)", got=at_least, do="0.1 is a tenth.")
    require(budget >= 2, "budget", expected="at least 2 evaluations", got=budget, do="The ends take 2.")
    search = _Search(oracle, line, at_least, budget, largest)
    try:
        complete = search.run()
    except _BudgetSpent:
        complete = False
    return search.result(complete)


class _Search:
    """The line, what was found on it, and every test."""

    def __init__(self, oracle: SetOracle, line: list[int], at_least: float, budget: int, largest: int):
        self.oracle, self.line, self.at_least = oracle, line, at_least
        self.budget, self.largest = budget, largest
        self.before, self.gap = oracle.evaluations, oracle.gap()
        self.sets: list[tuple[int, ...]] = []
        self.needed_joint = False
        self.known: dict[frozenset[int], float] = {frozenset(): 0.0, frozenset(line): 1.0}
        """Share of the gap that the ablation of a group costs."""
        self.lost_by_rest = 1.0
        self.log = [
            GroupTest(stage="ends", ablated=(), lost=0.0, matters=False),
            GroupTest(stage="ends", ablated=oracle.names, lost=1.0, matters=True),
        ]

    def run(self) -> bool:
        """Whether the search came to its end."""
        probed: set[tuple[int, ...]] = set()
        while True:
            if not self.singles():
                return False
            fresh = [one for one in self.sets if len(one) == 1 and one not in probed]
            probed.update(fresh)
            found = [self.partner(one) for one in fresh]
            if not any(found):
                return True

    def singles(self) -> bool:
        """Finds sets until the rest does not matter; False if what it does is spread over too many items."""
        low = -1
        while self.lost(self.open_line(), "rest") >= self.at_least:
            line = self.open_line()
            place, height, low = self.jump(low, (), "bisect", len(line) - 1)
            found: tuple[int, ...] | None = (line[place],)
            if self.lost(found, "single") < self.at_least:
                if height < self.at_least:
                    return False
                self.needed_joint = True
                found = self.joint(place, (), "joint")
            if found is None:
                return False
            self.sets.append(found)
            low -= sum(1 for item in found if line.index(item) <= low)
        return True

    def partner(self, one: tuple[int, ...]) -> bool:
        """Finds what stands in for an item whose ablation costs a part of the gap only."""
        line = self.open_line()
        if self.lost(one, "single") > 1 - self.at_least or not line:
            return False
        if self.lost([*one, *line], "partner") < self.lost(one, "single") + self.at_least:
            return False
        place, height, _ = self.jump(-1, one, "partner", len(line) - 1)
        found = self.joint(place, one, "partner") if height >= self.at_least else None
        if found is None:
            return False
        self.sets.append(found)
        return True

    def open_line(self) -> list[int]:
        """Items that were not found yet."""
        found = {i for one in self.sets for i in one}
        return [i for i in self.line if i not in found]

    def lost(self, ablated: Sequence[int], stage: Stage) -> float:
        """Share of the gap that the ablation of a group costs; a group is run once."""
        key = frozenset(ablated)
        if key not in self.known:
            if self.oracle.evaluations - self.before >= self.budget:
                raise _BudgetSpent
            row = torch.zeros(1, len(self.oracle), dtype=torch.bool)
            row[0, list(ablated)] = True
            lost = 1 - float(self.gap.kept(self.oracle(row))[0])
            self.known[key] = lost
            names = tuple(self.oracle.names[i] for i in sorted(ablated))
            self.log.append(GroupTest(stage=stage, ablated=names, lost=lost, matters=lost >= self.at_least))
        if stage == "rest":
            self.lost_by_rest = self.known[key]
        return self.known[key]

    def jump(self, low: int, besides: tuple[int, ...], stage: Stage, high: int) -> tuple[int, float, int]:
        """Place of an item where the loss along prefixes of the open line jumps, `besides` ablated too.

        The prefix that ends at `high` was run, the one that ends at `low` does not matter. Returns too how
        high the jump is, and the place up to which no prefix matters.
        """
        line = self.open_line()
        weight, clean, skipped = self._prior(line), low, False
        at_high = self.lost([*besides, *line[: high + 1]], stage)
        start = self.lost(besides, stage)
        at_low = self.known.get(frozenset([*besides, *line[: low + 1]]), start)
        while high - low > 1:
            inside = np.cumsum(weight[low + 1 : high + 1])
            # The last item is no cut: with it the prefix is known.
            middle = low + 1 + int(np.abs(inside[:-1] - inside[-1] / 2).argmin())
            lost = self.lost([*besides, *line[: middle + 1]], stage)
            if lost - at_low >= max(self.at_least, (at_high - lost) / 2):
                high, at_high = middle, lost
            else:
                skipped = skipped or lost - start >= self.at_least
                low, at_low = middle, lost
                clean = clean if skipped else low
        return high, at_high - at_low, clean

    def joint(self, place: int, base: tuple[int, ...], stage: Stage) -> tuple[int, ...] | None:
        """A set with `base` that costs clearly more than it; no part does. None if it were too large.

        The item at `place` of the open line is where the loss jumps with `base` ablated.
        """
        line, fixed, high = self.open_line(), base, place
        enough = self.lost(base, stage) + self.at_least
        while True:
            fixed, high = (*fixed, line[high]), high - 1
            if self.lost(fixed, stage) >= enough:
                new = fixed[len(base) :]
                return (*base, *ddmin(new, lambda part: self.lost([*base, *part], "ddmin") >= enough))
            if len(fixed) >= self.largest or high < 0:
                return None
            if self.lost([*fixed, *line[: high + 1]], stage) < enough:
                return None
            high, height, _ = self.jump(-1, fixed, stage, high)
            if height < self.at_least:
                return None

    def _prior(self, line: list[int]) -> np.ndarray:
        """Weights of items of the open line: half alike, half in windows around what was found."""
        place = {item: i for i, item in enumerate(self.line)}
        at, n = np.array([place[i] for i in line]), len(self.line)
        found = [place[i] for one in self.sets for i in one]
        weight = np.full(len(line), 1.0 / n)
        if not found:
            return weight
        widths = 2 ** np.arange(1, max(2, n.bit_length()))
        distance = np.abs(at[:, None] - np.array(found)[None])
        near = ((distance[..., None] <= widths) / (2 * widths)).mean((1, 2))
        return _UNIFORM * weight + (1 - _UNIFORM) * near

    def result(self, complete: bool) -> Found:
        names = self.oracle.names
        found = sorted({i for one in self.sets for i in one})
        return Found(
            items=tuple(names[i] for i in found),
            sets=tuple(tuple(names[i] for i in sorted(one)) for one in self.sets),
            evaluations=self.oracle.evaluations - self.before,
            log=tuple(self.log),
            ddmin_needed=self.needed_joint,
            complete=complete,
            lost_when_kept=self.lost_by_rest,
        )
