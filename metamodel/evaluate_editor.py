"""Judges an editor again, beside its opponents: `python -m metamodel.evaluate` for checkpoints of editors."""

import sys
from dataclasses import replace
from pathlib import Path

from metamodel.config.editing import EditReportConfig
from metamodel.config.errors import require
from metamodel.config.evaluate import EvaluateOptions
from metamodel.config.record import record_from_json
from metamodel.editing import SubjectEditor
from metamodel.evaluation.report import Report
from metamodel.evaluation.terminal import give, note_other_zoo
from metamodel.train_editor import judged
from metamodel.triples.edit_store import EditZoo


def evaluate_editor(editor: SubjectEditor, options: EvaluateOptions, *, command: str) -> None:
    """Prints tables, or JSON, on the zoo that the editor was trained on.

    Raises: InputError on a zoo that lacks its subjects, or a split that there is not.
    """
    give(evaluated(editor, options, command=command), as_json=options.json)


def evaluated(editor: SubjectEditor, options: EvaluateOptions, *, command: str) -> Report:
    """The report, with opponents tuned again; one split of it if one is named."""
    checkpoint = editor.checkpoint
    zoo = EditZoo.open(Path(options.zoo or checkpoint.zoo["folder"]))
    names = {one.subject.name for one in zoo.subjects}
    wanted = {id for ids in (checkpoint.splits.train, *checkpoint.splits.tests.values()) for id in ids}
    require(
        wanted <= names,
        str(zoo.folder),
        expected="the subjects that the editor was trained and is tested on",
        got=f"a zoo that lacks {len(wanted - names)} of them",
        do="Build the zoo that the checkpoint's card names.",
    )
    note_other_zoo(zoo.folder, zoo.fingerprint, checkpoint.zoo["fingerprint"])
    config = record_from_json(
        EditReportConfig, checkpoint.training["report"], "training.report", do="Train the editor again."
    )
    return judged(
        editor,
        zoo,
        replace(config, workers=None),  # as this machine has cores, not that of the training
        command=command,
        seed=int(checkpoint.training.get("bootstrap_seed", 0)),
        progress=lambda text: sys.stderr.write(f"{text}\n"),
        only=options.split,
    )
