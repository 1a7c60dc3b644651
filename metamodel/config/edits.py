"""The words of edits: kinds, where inputs stand, roles of examples. Imports no torch."""

from typing import Literal, get_args

EditKind = Literal["rewrite", "rule", "flip", "disable", "repair", "backdoor", "transplant", "infeasible"]
EDIT_KINDS: tuple[EditKind, ...] = get_args(EditKind)
KIND_FAMILIES: dict[EditKind, str] = {
    "rewrite": "facts",
    "rule": "rules",
    "flip": "rules",
    "disable": "removal",
    "backdoor": "removal",
    "repair": "repair",
    "transplant": "transplant",
}
"""Families of kinds, for each of which opponents are tuned by itself; an infeasible edit belongs to none."""

FAR, NEAR, IN_SCOPE, DERIVED = range(4)
"""Where an input stands: nothing to do with the edit; easily hit by it; to be changed; to be changed because
something else is, as the answer of two hops through a rewritten fact."""
CHANCE = -1
"""Wanted where a behavior is removed: no answer more likely than another."""

CHANCE_FACTOR = 2.0
"""A removed behavior may leave its old answer at most so many times as likely as chance."""
GOOD = 0.9
"""S (the harmonic mean of what is reached and what is kept) from which on an edit is a success."""

PADDING, PAIR, KEEP, UNLABELLED = range(4)
"""Roles of an example of a specification."""
