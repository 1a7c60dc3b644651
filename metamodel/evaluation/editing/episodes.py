"""Which edits an editor is judged on: the same for every method, drawn from seeds of their own."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch

from metamodel.baselines.editing.base import Episode
from metamodel.config.edits import KIND_FAMILIES, PAIR
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Edit, Editable
from metamodel.triples.specify import PAIRS, specify
from metamodel.triples.splits import Splits

NEVER_TRAINED = "*"
"""In the name of a rule: a map of answers of a kind that no editor trains on."""
EDIT, KIND = "edit", "kind"
"""Splits beside those of subjects: new edits of training subjects, and kinds of edits never trained on."""


def episode(editable: Editable, edit: Edit, n_pairs: int, number: int) -> Episode:
    """The specification of one edit that all methods are given."""
    name = f"{editable.subject.name} {edit.kind} {edit.rule} {n_pairs} {number}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    examples, inputs = specify(editable, edit, n_pairs, torch.Generator().manual_seed(seed))
    return Episode(editable=editable, edit=edit, examples=examples, inputs=inputs)


def judged_episodes(zoo: EditZoo, splits: Splits, n_edits: int, most: int) -> dict[str, list[Episode]]:
    """Episodes of each split.

    Args:
        n_edits: edits of each kind, of each subject; rules are asked with every number of pairs.
        most: edits of a split that are kept, spread evenly.
    """
    by_name = {one.subject.name: one for one in zoo.subjects}
    found: dict[str, list[Episode]] = {}
    trained = [by_name[id] for id in splits.train]
    found[EDIT] = [e for one in trained for e in _of(one, n_edits, new=True)]
    for split, ids in splits.tests.items():
        found[split] = [e for id in ids for e in _of(by_name[id], n_edits, new=False)]
    found[KIND] = [
        episode(one, edit, n_pairs, 0)
        for id in (*splits.seed, *splits.train)
        for one in (by_name[id],)
        for edit in [e for e in one.edits if NEVER_TRAINED in e.rule][:n_edits]
        for n_pairs in PAIRS
    ]
    return {split: _spread(episodes, most) for split, episodes in found.items() if episodes}


def _spread(episodes: Sequence[Episode], most: int) -> list[Episode]:
    """At most so many, one of each lineage before a second of any; kinds mixed, and always the same."""

    def place(e: Episode) -> str:
        pairs = int((e.examples.role == PAIR).sum())
        name = f"{e.editable.subject.name} {e.edit.kind} {e.edit.rule} {pairs}"
        return hashlib.sha256(name.encode()).hexdigest()

    turn: Counter[str] = Counter()
    ranked = []
    for e in sorted(episodes, key=place):
        ranked.append((turn[e.editable.lineage], e))
        turn[e.editable.lineage] += 1
    return [e for _, e in sorted(ranked, key=lambda one: one[0])][:most]


def training_episodes(zoo: EditZoo, ids: Sequence[str], n: int) -> list[Episode]:
    """About `n` episodes of subjects, as many of each family of kinds, of edits that may be trained on.

    Within a family each kind and size gets its share, and subjects differ as far as there are others.
    """
    by_name = {one.subject.name: one for one in zoo.subjects}
    found: dict[str, dict[tuple[str, int], list[tuple[Editable, Edit]]]] = {}
    for id in ids:
        for edit in by_name[id].edits:
            if not edit.test and edit.kind in KIND_FAMILIES:
                size = edit.n_pairs if edit.kind == "rewrite" else 0
                of = found.setdefault(KIND_FAMILIES[edit.kind], {})
                of.setdefault((edit.kind, size), []).append((by_name[id], edit))
    share = max(1, n // max(1, len(found)))
    episodes = []
    for family in sorted(found):
        # one of each kind and size before a second of any
        ranked = [sorted(members, key=_place) for _, members in sorted(found[family].items())]
        turns = zip_longest(*map(_others_first, ranked))
        drawn = [member for turn in turns for member in turn if member is not None]
        for i, (one, edit) in enumerate(drawn[:share]):
            episodes.append(episode(one, edit, PAIRS[i % len(PAIRS)], 0))
    return episodes


def test_episodes(one: Editable) -> list[Episode]:
    """Episodes of a subject's edits that no editor trains on, one of each kind and number of pairs."""
    return _of(one, 1, new=True)


def _place(member: tuple[Editable, Edit]) -> str:
    one, edit = member
    return hashlib.sha256(f"{one.subject.name} {edit.kind} {edit.rule}".encode()).hexdigest()


def _others_first(members: Sequence[tuple[Editable, Edit]]) -> list[tuple[Editable, Edit]]:
    """In this order, but one of each lineage before a second of any."""
    turn: Counter[str] = Counter()
    ranked = []
    for member in members:
        ranked.append((turn[member[0].lineage], member))
        turn[member[0].lineage] += 1
    return [member for _, member in sorted(ranked, key=lambda one: one[0])]


def trainable_episodes(one: Editable) -> list[Episode]:
    """Episodes of a subject's edits that an editor may train on, one of each kind and number of pairs.

    Infeasible ones are among them.
    """
    return _of(replace(one, edits=tuple(edit for edit in one.edits if not edit.test)), 1, new=False)


def _of(one: Editable, n_edits: int, *, new: bool) -> list[Episode]:
    """Episodes of one subject.

    Args:
        new: only edits that are held out although their subject is trained on.
    """
    found = []
    for kind in sorted({edit.kind for edit in one.edits}):
        edits = [e for e in one.edits if e.kind == kind and NEVER_TRAINED not in e.rule]
        held = [e for e in edits if e.test]
        # where rules are held out, tests ask for none that training did; facts share nothing
        edits = held if new or (held and kind != "rewrite") else edits
        if kind == "rewrite":
            first: dict[int, Edit] = {}
            for edit in edits:
                first.setdefault(edit.n_pairs, edit)
            found += [episode(one, first[n], n, 0) for n in sorted(first)]
            continue
        # in no order of their making, where shifts come before reflections
        edits = sorted(edits, key=lambda edit: _place((one, edit)))
        for i, edit in enumerate(edits[:n_edits]):
            asked = PAIRS if kind == "rule" else (edit.n_pairs or PAIRS[1 + i % 3],)
            found += [episode(one, edit, n_pairs, i) for n_pairs in asked]
    return found
