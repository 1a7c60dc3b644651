"""Judges an editor again, beside its opponents: `python -m metamodel.evaluate` for checkpoints of editors."""

import json
import sys
from pathlib import Path

from metamodel.config.editing import EditReportConfig
from metamodel.config.errors import require
from metamodel.config.evaluate import EvaluateOptions
from metamodel.config.record import record_from_json
from metamodel.editing import SubjectEditor
from metamodel.evaluation import report as reports
from metamodel.evaluation.report import Report
from metamodel.evaluation.terminal import report_console, show
from metamodel.train_editor import judged
from metamodel.triples.edit_store import EditZoo


def evaluate_editor(editor: SubjectEditor, options: EvaluateOptions, *, command: str) -> None:
    """Prints tables, or JSON, on the zoo that the editor was trained on.

    Raises: InputError on a zoo that lacks its subjects, or a split that there is not.
    """
    report = evaluated(editor, options, command=command)
    if options.json:
        sys.stdout.write(json.dumps(reports.as_json(report, report.scores), indent=1) + "\n")
    else:
        show(report, report_console())


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
    if zoo.fingerprint != checkpoint.zoo["fingerprint"]:
        sys.stderr.write(
            f"note: {zoo.folder} is not byte for byte the zoo of the checkpoint: numbers may differ\n"
        )
    config = record_from_json(
        EditReportConfig, checkpoint.training["report"], "training.report", do="Train the editor again."
    )
    return judged(
        editor,
        zoo,
        config,
        command=command,
        seed=int(checkpoint.training.get("bootstrap_seed", 0)),
        progress=lambda text: sys.stderr.write(f"{text}\n"),
        only=options.split,
    )
