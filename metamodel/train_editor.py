"""The main job of editing: trains an editor, judges it beside its opponents, and leaves a checkpoint."""

import sys
from collections.abc import Callable
from pathlib import Path

from metamodel.baselines.editing.base import Changes
from metamodel.config.editing import EditingConfig, EditReportConfig
from metamodel.config.parser import plain
from metamodel.editing import SubjectEditor
from metamodel.editing_forecast import fit_forecast
from metamodel.evaluation import report as reports
from metamodel.evaluation.editing.card import write_editing_card
from metamodel.evaluation.editing.evaluate import judge
from metamodel.evaluation.report import Report
from metamodel.evaluation.terminal import report_console, said, show
from metamodel.subjects.subject import Subject
from metamodel.training.editing_checkpoint import EditingCheckpoint, load_editing_checkpoint, save
from metamodel.training.fit_editing import fit_editor, sizes_of
from metamodel.training.run_folder import CHECKPOINT, claim_folder
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Examples
from metamodel.triples.splits import Splits, make_splits

REPORT = "report"
"""Folder within a run of what each method did, so that an interrupted report goes on."""


def train_editor(config: EditingConfig, zoo: EditZoo, *, command: str) -> Path:
    """Trains, judges, and prints the table and the paths. Returns the folder of the checkpoint.

    A run that was interrupted after its training goes on with the report, behind the methods that are done.

    Args:
        command: what the card says to run to do it again.
    """
    splits = edit_splits(config, zoo)
    folder, _held = claim_folder(config, zoo.fingerprint)
    where = folder / CHECKPOINT
    if not (where / "splits.json").is_file():
        save(trained_on(zoo, splits, config, folder), where)
    report = judged(
        SubjectEditor(load_editing_checkpoint(where)),
        zoo,
        config.report,
        command=command,
        seed=config.bootstrap_seed,
        progress=said(config.trainer.progress),
        keep=folder / REPORT,
    )
    reports.save(report, where)
    # of what was stored, so that both round alike
    write_editing_card(where, reports.load(where), name=config.name, config=plain(config))
    show(report, report_console())
    sys.stdout.write(f"checkpoint  {where}\ncard        {where / 'README.md'}\nzoo         {config.zoo}\n")
    return where


def trained_on(zoo: EditZoo, splits: Splits, config: EditingConfig, folder: Path) -> EditingCheckpoint:
    """An editor that was trained on the training subjects of a zoo; goes on where `folder` holds a run."""
    train, both = set(splits.train), {*splits.train, *splits.validation}
    editor = fit_editor(config, [one for one in zoo.subjects if one.subject.name in train], folder)
    if config.training.forecast_edits:
        fit_forecast(
            editor,
            [one for one in zoo.subjects if one.subject.name in both],
            n_edits=config.training.forecast_edits,
            seed=config.seed,
            workers=config.report.workers,
            progress=said(config.trainer.progress),
        )
    return EditingCheckpoint(
        editor=editor,
        sizes=sizes_of(config),
        refuse_below=config.refuse_below,
        zoo={"name": zoo.name, "folder": config.zoo, "fingerprint": zoo.fingerprint},
        splits=splits,
        training=plain(config),
    )


def judged(
    editor: SubjectEditor,
    zoo: EditZoo,
    config: EditReportConfig,
    *,
    command: str,
    seed: int,
    progress: Callable[[str], object],
    only: str | None = None,
    keep: Path | None = None,
) -> Report:
    """The report of an editor on a zoo of edits, or one split of it; arguments as of `judge`."""

    def propose(subject: Subject, examples: Examples) -> tuple[Changes, float]:
        proposal = editor.propose_for(subject, examples)
        return proposal.changes, proposal.forecast

    return judge(
        propose,
        zoo,
        editor.splits,
        config,
        command=command,
        seed=seed,
        progress=progress,
        only=only,
        keep=keep,
    )


def edit_splits(config: EditingConfig, zoo: EditZoo) -> Splits:
    """Subjects by split; damaged copies stay with the subject that they are copies of."""
    rows = [{"id": one.subject.name, "lineage": one.lineage, "departs": one.departs} for one in zoo.subjects]
    s = config.splits
    return make_splits(
        rows, seed=s.seed, validation_fraction=s.validation_fraction, test_fraction=s.test_fraction
    )
