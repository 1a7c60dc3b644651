"""Boolean formulas over items, and the truth about their minimal sets by trying every subset.

The truth never asks a subject, nor the code that is measured with it: it evaluates the formula.
"""

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An item, or a gate over others."""

    op: Literal["item", "and", "or", "backup", "unless"]
    parts: tuple["Node", ...] = ()
    item: str = ""
    """Of an item, and of the backup of a `backup`."""

    def items(self) -> tuple[str, ...]:
        own = (self.item,) if self.item else ()
        return tuple(dict.fromkeys([*own, *(i for part in self.parts for i in part.items())]))


def item(name: str) -> Node:
    return Node(op="item", item=name)


def both(*parts: "Node | str") -> Node:
    return Node(op="and", parts=_nodes(parts))


def either(*parts: "Node | str") -> Node:
    return Node(op="or", parts=_nodes(parts))


def backed(primary: "Node | str", by: str) -> Node:
    """`by` fires where the primary does not, and then stands in for it."""
    return Node(op="backup", parts=_nodes([primary]), item=by)


def unless(arm: "Node | str", suppressor: "Node | str", rescuer: "Node | str") -> Node:
    """The arm, but for a suppressor that kills it where no rescuer stops the suppressor: not monotone."""
    return Node(op="unless", parts=_nodes([arm, suppressor, rescuer]))


def _nodes(parts: Iterable["Node | str"]) -> tuple[Node, ...]:
    return tuple(item(part) if isinstance(part, str) else part for part in parts)


def holds(node: Node, kept: Collection[str], *, restored: bool = False) -> bool:
    """Whether the formula is true with these items kept.

    Args:
        restored: under denoising, where a kept backup says what it said on the clean prompt, nothing.
    """
    parts = [holds(part, kept, restored=restored) for part in node.parts]
    match node.op:
        case "item":
            return node.item in kept
        case "and":
            return all(parts)
        case "or":
            return any(parts)
        case "backup":
            return parts[0] or (not restored and node.item in kept)
        case "unless":
            return parts[0] and (not parts[1] or parts[2])


Families = tuple[frozenset[frozenset[str]], frozenset[frozenset[str]]]


def true_families(items: Collection[str], works: Callable[[frozenset[str]], bool]) -> Families:
    """Minimal sets that work when kept, and minimal ones that break when ablated, by trying every subset."""
    everything = frozenset(items)

    def smallest(good: Callable[[frozenset[str]], bool]) -> frozenset[frozenset[str]]:
        found: list[frozenset[str]] = []
        for size in range(len(everything) + 1):
            for one in map(frozenset, itertools.combinations(sorted(everything), size)):
                if good(one) and not any(known < one for known in found):
                    found.append(one)
        return frozenset(found)

    return smallest(works), smallest(lambda gone: not works(everything - gone))


FORMULAS: dict[str, Node] = {
    "and of 2": both("a", "b"),
    "and of 5": both(*"abcde"),
    "or of 2": either("a", "b"),
    "or of 4": either(*"abcd"),
    "backup": backed("a", "b"),
    "backup beside an and": both(backed("a", "b"), "c", "d"),
    "backup of an and": backed(both("a", "b"), "c"),
    "backup of an and's arm": both(backed(both("a", "b"), "c"), "d"),
    "backup of a backup": backed(backed("a", "b"), "c"),
    "or of ands": either(both("a", "b"), both("c", "d", "e")),
    "and of ors": both(either("a", "b"), either("c", "d", "e")),
    "nested": both("a", either("b", both("c", either("d", "e")))),
    "two of three": either(both("a", "b"), both("b", "c"), both("a", "c")),
    "not read-once": either(both("a", "b"), both("b", "c"), both("c", "d")),
    "suppressor": unless("a", "b", "c"),
    "suppressor and others": both("d", unless(either("a", "e"), "b", "c")),
    "12 items": both(
        either(both("a", "b"), both("c", "d")),
        backed(both("e", "f"), "g"),
        either("h", "i", both("j", "k"), "l"),
    ),
}
"""Circuits of 2 to 12 items."""
