"""What each item does for the others: needed together, alternatives, backups, or nothing.

Read off the minimal sets (`metamodel.circuits.minimal_sets`). A family of minimal sufficient sets is a
formula of ANDs and ORs; where each item occurs in it once (read-once), the formula is found by splitting the
graph of items that stand in one set: parts that never meet are alternatives, parts that meet in all
combinations are needed together (Golumbic, Mintz and Rotics 2006). What cannot be split is an OR over its
sets.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from metamodel.circuits.minimal_sets import MinimalSets
from metamodel.config.errors import require

Family = Collection[frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """An item, an AND or an OR of formulas."""

    kind: Literal["item", "and", "or"]
    item: str = ""
    parts: tuple["Formula", ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """Items from left to right, each once."""
        if self.kind == "item":
            return (self.item,)
        return tuple(dict.fromkeys(item for part in self.parts for item in part.items))

    @property
    def arms(self) -> tuple[tuple[str, ...], ...]:
        """The items of each part."""
        return tuple(part.items for part in self.parts)

    @property
    def read_once(self) -> bool:
        """Whether no item occurs twice."""
        if self.kind == "item":
            return True
        n = sum(len(part.items) for part in self.parts)
        return n == len(self.items) and all(part.read_once for part in self.parts)

    @property
    def text(self) -> str:
        if self.kind == "item":
            return self.item
        return f" {self.kind.upper()} ".join(
            part.text if part.kind == "item" else f"({part.text})" for part in self.parts
        )

    def nodes(self, kind: Literal["and", "or"]) -> tuple["Formula", ...]:
        """All ANDs, or all ORs, outermost first."""
        own = (self,) if self.kind == kind else ()
        return (*own, *(node for part in self.parts for node in part.nodes(kind)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """An item whose ablation alone costs nothing, and breaks the behaviour once its primaries are gone."""

    item: str
    primaries: tuple[str, ...]
    """The rest of a minimal necessary set."""
    silent: bool | None
    """True if what it says while the primaries are there is not enough: it steps in when they are gone. False
    if it is an alternative that says the same all along. None where no denoising tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What each item does for the others."""

    formula: Formula
    """Which kept items suffice."""
    essential: tuple[str, ...]
    """Items whose ablation alone breaks the behaviour."""
    and_groups: tuple[Formula, ...]
    """ANDs of the formula: arms that are necessary together."""
    or_groups: tuple[Formula, ...]
    """ORs of the formula: arms of which one is enough."""
    backups: tuple[Backup, ...]
    redundant: tuple[str, ...]
    """Items that change the verdict in no company."""
    harmful: tuple[str, ...]
    """Items that break some set which works without them, so that the formula is not the whole truth."""

    def describe(self) -> str:
        """All of it in words."""
        lines = [f"works if {self.formula.text}"]
        lines += [f"essential: {', '.join(self.essential)}"] if self.essential else []
        lines += [f"{b.item} backs up {' + '.join(b.primaries)}" for b in self.backups if b.silent]
        unclear = dict.fromkeys(b.item for b in self.backups if b.silent is None)
        if unclear:
            lines.append(
                f"cost nothing alone: {', '.join(unclear)} (denoising tells backup from alternative)"
            )
        lines += [f"hurt in some company: {', '.join(self.harmful)}"] if self.harmful else []
        lines += [f"never matter: {', '.join(self.redundant)}"] if self.redundant else []
        return "\n".join(lines)


def roles(found: MinimalSets, *, restored: MinimalSets | None = None, costs_nothing: float = 0.05) -> Roles:
    """Roles of the items.

    Args:
        found: from an oracle of noising, zero or mean ablation, where kept items compute.
        restored: the same items under denoising, where kept items say what they said on clean prompts. A
            backup that was silent there suffices in no set; an alternative does. Without it the two are one.
        costs_nothing: share of the gap that the ablation of a backup alone may cost.

    Raises: InputError if `restored` has other items.
    """
    require(
        restored is None or set(restored.names) == set(found.names),
        "restored",
        expected="the items of the other minimal sets",
        got="others",
        do="Make both oracles of the same items.",
    )
    family = [frozenset(one) for one in found.sufficient]
    formula = _formula(family, found.names)
    lost = dict(zip(found.names, found.lost_alone.tolist(), strict=True))
    heard = None if restored is None else {item for one in restored.sufficient for item in one}
    backups = [
        Backup(
            item=item,
            primaries=tuple(other for other in one if other != item),
            silent=None if heard is None else item not in heard,
        )
        for one in found.necessary
        for item in one
        if len(one) > 1 and lost[item] <= costs_nothing
    ]
    return Roles(
        formula=formula,
        essential=tuple(one[0] for one in found.necessary if len(one) == 1),
        and_groups=formula.nodes("and"),
        or_groups=formula.nodes("or"),
        backups=tuple(backups),
        redundant=found.idle,
        harmful=found.harmful,
    )


def _formula(family: Family, order: Sequence[str]) -> Formula:
    """The formula of a family of minimal sets; `order` sorts its items."""
    items = [name for name in order if any(name in one for one in family)]
    if len(items) == 1:
        return Formula(kind="item", item=items[0])
    together = {frozenset(pair) for one in family for pair in itertools.combinations(one, 2)}
    groups = _connected(items, together)
    if len(groups) > 1:
        parts = [_formula([one for one in family if one <= group], order) for group in groups]
        return Formula(kind="or", parts=tuple(parts))
    apart = {frozenset(pair) for pair in itertools.combinations(items, 2)} - together
    groups = _connected(items, apart)
    parts = [{one & group for one in family} for group in groups]
    if len(groups) > 1 and set(family) == {frozenset().union(*c) for c in itertools.product(*parts)}:
        return Formula(kind="and", parts=tuple(_formula(part, order) for part in parts))
    return Formula(kind="or", parts=tuple(_conjunction(one, order) for one in family))


def _conjunction(one: Iterable[str], order: Sequence[str]) -> Formula:
    chosen = set(one)
    parts = tuple(Formula(kind="item", item=name) for name in order if name in chosen)
    return parts[0] if len(parts) == 1 else Formula(kind="and", parts=parts)


def _connected(items: Sequence[str], pairs: Collection[frozenset[str]]) -> list[frozenset[str]]:
    """Connected components, in the order of their first items."""
    left, found = list(items), []
    while left:
        group, new = set(), {left[0]}
        while new:
            group |= new
            new = {i for i in left if i not in group and any(frozenset((i, j)) in pairs for j in new)}
        found.append(frozenset(group))
        left = [i for i in left if i not in group]
    return found
