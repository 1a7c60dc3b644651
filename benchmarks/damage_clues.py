"""What speaks for damage, weighed: by a logistic regression on subjects of training, and as it is in use.

    python benchmarks/damage_clues.py CHECKPOINT [--zoo FOLDER] [--subjects 24] [--sequences 8]

A component is put right wherever a change of one explains what is told, whatever speaks against it: in
subjects damaged by noise in every way of `benchmarks/damage.py`, shown 1, 2, 4 or 16 pairs in turn, and in
sound ones at each of ten edits in sequence. Positive is a repair that scores more than what the editor
proposes without it. Components that were removed show at once and are left out, and so are changes that
leave a subject so much less sure that they are never taken for repairs. Prints the coefficients of the
regression and its AUROC over lineages that were left out, beside that of the weights in
`metamodel/networks/editing/clues.py`; what S each gains by the repairs it accepts, the regression at log odds
of `--odds`; and how many edits in sequence it takes for repairs. What the proportions of a subject that adds
call an edit is left out before, and what they call lost is taken in use whatever the weights say. Changes of
S by less than 0.03 say nothing and are left out. The weights in use were chosen on some of these subjects, so
their AUROC is not of subjects left out. The last line of stdout is one JSON object.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from damage import DAMAGES, damaged
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.editing.sequences import LENGTH, EditSequence, after_all, sequences_of
from metamodel.features.observed import observed
from metamodel.networks.editing.clues import LEFT, Clues, most_left
from metamodel.networks.editing.components import Mended, mended
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.mapped_back import mapped_back
from metamodel.subjects.subject import Subject
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Editable, Examples

PAIRS = (1, 2, 4, 16)
LEAST_GAIN = 0.03
"""Repairs that change S by less say nothing."""
LEAST_LEFT = 1e-9
"""Times the entropy; less is none."""


class Seen(NamedTuple):
    """A repair, tried whatever speaks against it."""

    lineage: str
    sequence: bool
    left: float
    """Logarithm of how many times the entropy it leaves."""
    clues: Clues
    gain: float
    """In S; of an edit of a sequence, -1: no component is damaged."""


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.damage_clues", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="", help="folder of its zoo; by default as it says")
    parser.add_argument("--subjects", type=int, default=24, help="subjects that are damaged, in every way")
    parser.add_argument("--sequences", type=int, default=8, help="subjects that are edited ten times")
    parser.add_argument("--odds", type=float, default=1.0, help="log odds at which a repair is taken for one")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    editor = SubjectEditor.from_pretrained(given.checkpoint)
    zoo = EditZoo.open(Path(given.zoo or editor.checkpoint.zoo["folder"]))
    ids = {*editor.splits.train, *editor.splits.validation}
    subjects = [one for one in zoo.subjects if one.subject.name in ids]
    sound = [one for one in subjects if not any(edit.kind == "repair" for edit in one.edits)]
    hurt = sound[:: max(1, len(sound) // given.subjects)][: given.subjects]
    sequences = sequences_of(sound, given.sequences)
    seen = [*of_damage(editor, hurt), *of_sequences(editor, sequences)]
    found = {"edits in sequence": LENGTH * len(sequences)} | weighed(seen, given.odds)
    for name, value in found.items():
        sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write(json.dumps(found) + "\n")


def of_damage(editor: SubjectEditor, subjects: list[Editable]) -> Iterator[Seen]:
    """What repairs of damaged subjects gain."""
    ways = [way for name, way in DAMAGES.items() if "removed" not in name]
    for i, one in enumerate(subjects):
        for j, way in enumerate(ways):
            e = damaged(one, way, PAIRS[(i + j) % len(PAIRS)])
            best = None if e is None else tried(editor, e.editable.subject, e.examples)
            if e is None or best is None:
                continue
            subject = e.editable.subject
            change = mapped_back(subject, {best.name: best.change}, form=editing_form(subject))
            plain = editor.propose_for(subject, e.examples, repair=False).changes
            gain = scores(e, change).harmonic_mean - scores(e, plain).harmonic_mean
            if abs(gain) >= LEAST_GAIN:
                yield Seen(one.lineage, False, math.log(max(best.left, LEAST_LEFT)), best.clues, gain)
        sys.stderr.write(f"{one.subject.name}: damaged\n")


def of_sequences(editor: SubjectEditor, sequences: list[EditSequence]) -> Iterator[Seen]:
    """What could be taken for repairs of sound subjects."""
    for sequence in sequences:
        found: list[Mended | None] = []

        def propose(subject: Subject, examples: Examples, found: list[Mended | None] = found):
            found.append(tried(editor, subject, examples))
            return editor.propose_for(subject, examples, repair=False).changes

        score = after_all(sequence, propose)
        one = sequence.editable
        sys.stderr.write(f"{one.subject.name}: {score:.3f} after ten edits\n")
        for best in found:
            if best is not None:
                yield Seen(one.lineage, True, math.log(max(best.left, LEAST_LEFT)), best.clues, -1.0)


@torch.no_grad()
def tried(editor: SubjectEditor, subject: Subject, examples: Examples) -> Mended | None:
    """The change of one component that explains best what is told, whatever speaks against it."""
    told = told_batch([editing_form(subject)], [examples])
    return mended(told, observed(told), 0, editor.checkpoint.sizes.component_steps, left=lambda _: math.inf)


def weighed(seen: list[Seen], odds: float) -> dict[str, float]:
    """Coefficients of the clues, and how well they and the weights in use tell repairs."""
    seen = [one for one in seen if one.left <= math.log(LEFT)]
    rows = np.array([(one.left, *one.clues) for one in seen])
    right = np.array([one.gain > 0 for one in seen])
    sequence = np.array([one.sequence for one in seen])
    gain = np.array([one.gain for one in seen])
    model = LogisticRegression(max_iter=1000)
    lineages = [one.lineage for one in seen]
    folds = GroupKFold(min(5, len(set(lineages)))).split(rows, right, lineages)
    regression = np.asarray(cross_val_predict(model, rows, right, cv=list(folds), method="decision_function"))
    model.fit(rows, right)
    in_use = np.array([math.log(most_left(one.clues)) - one.left for one in seen])
    found = {
        "changes": len(seen),
        "of them in sequences": int(sequence.sum()),
        "repairs": float(right.mean()),
        "gain to be had": float(gain[right].sum()),
        "intercept": float(np.ravel(model.intercept_)[0]),
        **{name: float(w) for name, w in zip(("left", *Clues._fields), np.ravel(model.coef_), strict=True)},
    }
    for name, score, least in (("regression", regression, odds), ("in use", in_use, 0.0)):
        taken = score >= least
        found[f"AUROC, {name}"] = float(roc_auc_score(right, score))
        found[f"gain, {name}"] = float(gain[taken & ~sequence].sum())
        found[f"edits in sequence taken, {name}"] = int(taken[sequence].sum())
    return found


if __name__ == "__main__":
    run_command(main)
