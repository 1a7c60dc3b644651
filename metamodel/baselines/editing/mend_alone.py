"""MEND as it was published (Mitchell et al. 2022): an editor of one network, trained on edits of it.

It is a `Mend` of a single subject: it sees that subject's own training edits, several specifications of
each, and is then judged on the subject's test edits. A subject that has none to train on cannot have one.
"""

import hashlib
from collections.abc import Sequence

import torch

from metamodel.baselines.editing.base import Episode
from metamodel.baselines.editing.mend import Mend
from metamodel.baselines.editing.tuning import Judge
from metamodel.triples.edits import Editable
from metamodel.triples.specify import PAIRS, specify


def own_episodes(one: Editable, draws: int) -> list[Episode]:
    """Specifications of a subject's edits that may be trained on, `draws` of each edit.

    Infeasible edits teach nothing.
    """
    found = []
    for number, edit in enumerate(one.edits):
        if edit.test or edit.kind == "infeasible":
            continue
        for draw in range(draws):
            name = f"own {one.subject.name} {number} {draw}"
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
            n_pairs = PAIRS[(number + draw) % len(PAIRS)]
            examples, inputs = specify(one, edit, n_pairs, torch.Generator().manual_seed(seed))
            found.append(Episode(editable=one, edit=edit, examples=examples, inputs=inputs))
    return found


def mend_alone(judge: Judge, episodes: Sequence[Episode], *, steps: int) -> Mend:
    """The editor of one subject, trained on episodes of it alone; its scale is tuned on the same."""
    assert len({e.editable.subject.name for e in episodes}) == 1, "episodes of one subject"
    editor = Mend(judge, steps=steps)
    editor.tune(episodes)
    return editor
