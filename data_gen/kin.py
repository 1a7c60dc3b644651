"""Families that ask for the same thing by another name: a program, and the family that it is the rule of.

Whoever has trained on one has trained on the other, so a held-out task has no kin in training, and two
subjects of kin are no example of unrelated ones. Imports no torch.
"""

KIN = (
    {"repeated", "rasp-induction"},
    {"ioi", "rasp-ioi"},
    {"histogram", "rasp-histogram", "rasp-seen-before"},
    {"sorting", "rasp-sort"},
    {"brackets", "dyck", "rasp-pair-balance", "rasp-shuffle-dyck"},
    {"copying", "rasp-reverse"},
    {"selecting", "rasp-first"},
)


def kin(family: str) -> frozenset[str]:
    """A family with those that ask for the same thing; just itself where there are none."""
    return frozenset({family}.union(*(group for group in KIN if family in group)))
