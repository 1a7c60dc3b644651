"""What each part of an editor adds, kind of edit by kind of edit, on edits of validation subjects.

    python benchmarks/editing_parts.py data/edits-small [--steps 600] [--only NAME] [--out runs/editing-parts]

Trains an editor with and without each part, all from the same seed and for the same steps, and judges each
on the same edits at its full change. What is done stays in `--out`, one folder an entry, and is not done
again; a training that was interrupted goes on. With `--only` one entry is trained, so that several can run
side by side; the table has whatever is done. Trainings use the accelerator that there is, and one thread. The
last line of stdout is one JSON object, `{entry: {kind: {s, difference, low, high}, ..., norm, milliseconds,
passes}}`: differences are from the entry that `ENTRIES` names, and intervals paired over lineages.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired_kinds import cell, paired_kinds

from metamodel.config.command import run_command
from metamodel.config.editing import EditingConfig, EditorConfig
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.episodes import training_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.proposal import Proposal
from metamodel.train_editor import edit_splits, trained_on
from metamodel.triples.edit_store import EditZoo

PLAIN = EditorConfig(gates=False, decay=False)
NO_COMPONENTS = "no components"
LAST = replace(PLAIN, deep_steps=0, component_steps=0)
"""What parts are added to that are combined with neither writing in the whole last MLP nor components."""
ALONE = "last matrix alone"
UNTRAINED = "untrained"
"""The closed forms from which every editor starts, after one step of training."""
ENTRIES: dict[str, tuple[EditorConfig, str]] = {
    "plain": (PLAIN, "plain"),
    UNTRAINED: (PLAIN, "plain"),
    NO_COMPONENTS: (replace(PLAIN, component_steps=0), "plain"),
    "no completion": (replace(PLAIN, without=("completion",)), "plain"),
    "no sums": (replace(PLAIN, without=("sums",)), "plain"),
    "no rewordings": (replace(PLAIN, without=("rewordings",)), "plain"),
    ALONE: (LAST, NO_COMPONENTS),
    "gates": (replace(LAST, gates=True), ALONE),
    "price": (replace(LAST, decay=True), ALONE),
    "recurrent 2": (replace(LAST, recurrent=2), ALONE),
    "recurrent 4": (replace(LAST, recurrent=4), ALONE),
    "all": (replace(LAST, gates=True, decay=True), ALONE),
    "all, recurrent 2": (replace(LAST, gates=True, decay=True, recurrent=2), "all"),
    "no preconditioning": (replace(LAST, without=("preconditioning",)), ALONE),
    "no map network": (replace(PLAIN, without=("map",)), "plain"),
    "no scope network": (replace(PLAIN, without=("scope",)), "plain"),
    "no proportions": (replace(PLAIN, without=("proportions",)), "plain"),
    "no sureness": (replace(PLAIN, without=("sureness",)), "plain"),
    "no unlabelled inputs": (replace(PLAIN, without=("unlabelled",)), "plain"),
}
"""Editors, and which of them each is compared with. All but those with a price lack the loss of the norm."""
DONE = "judged.json"


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.editing_parts", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of a zoo of edits")
    parser.add_argument("--steps", type=int, default=600, help="steps of each training")
    parser.add_argument("--edits", type=int, default=200, help="edits of validation subjects that are judged")
    parser.add_argument("--only", type=str, default="", help="the one entry that is trained")
    parser.add_argument("--out", type=str, default="runs/editing-parts", help="folder of what is done")
    given = parse_options(parser, arguments)
    names = [given.only] if given.only else list(ENTRIES)
    known = ", ".join(ENTRIES)
    require(names[0] in ENTRIES, "only", expected=f"one of: {known}", got=repr(given.only), do="Name one.")
    torch.set_num_threads(1)
    out = Path(given.out)
    if any(not (out / name / DONE).is_file() for name in names):
        zoo = EditZoo.open(Path(given.zoo))
        for name in names:
            if not (out / name / DONE).is_file():
                steps = 1 if name == UNTRAINED else given.steps
                rows = judged(name, zoo, given.zoo, steps, given.edits, out / name)
                (out / name / DONE).write_text(json.dumps(rows))
    done = {
        name: json.loads((out / name / DONE).read_text()) for name in ENTRIES if (out / name / DONE).is_file()
    }
    found = {name: compared(rows, done.get(ENTRIES[name][1], rows)) for name, rows in done.items()}
    sys.stdout.write(table(found) + "\n" + json.dumps(found) + "\n")


def judged(name: str, zoo: EditZoo, folder: str, steps: int, n_edits: int, out: Path) -> dict[str, Any]:
    """Trains one entry and judges it: kind, lineage and S of each edit, and what an edit costs."""
    editor = ENTRIES[name][0]
    config = EditingConfig(zoo=folder, editor=editor)
    training = replace(
        config.training,
        steps=steps,
        loss_norm=config.training.loss_norm if editor.decay else 0,
        forecast_edits=0,  # it moves no S
    )
    config = replace(config, training=training, trainer=replace(config.trainer, progress=False))
    splits = edit_splits(config, zoo)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    whole = SubjectEditor(trained_on(zoo, splits, config, out))
    seconds = time.perf_counter() - began
    sys.stderr.write(f"{name}: trained in {seconds:.0f} s\n")
    edits, norms, took = [], [], []
    for e in training_episodes(zoo, splits.validation, n_edits):
        began = time.perf_counter()
        proposal = whole.propose_for(e.editable.subject, e.examples)
        took.append(1000 * (time.perf_counter() - began))
        norms.append(relative_norm(proposal))
        edits.append([e.edit.kind, e.editable.lineage, scores(e, proposal.changes).harmonic_mean])
    return {
        "edits": edits,
        "norm": float(np.nanmedian(norms)),
        "milliseconds": float(np.median(took)),
        "passes": whole.checkpoint.editor.passes,
        "seconds": seconds,
    }


def relative_norm(proposal: Proposal) -> float:
    """Norm of all that is added, relative to that of the weights it is added to; NaN for nothing."""
    added = sum(float(change.square().sum()) for change in proposal.changes.values())
    whole = sum(float(proposal.subject.weights[key].square().sum()) for key in proposal.changes)
    return (added / whole) ** 0.5 if whole else float("nan")


def compared(rows: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Mean S of each kind of edit and of all, with the difference from another entry's."""
    require(
        [row[:2] for row in rows["edits"]] == [row[:2] for row in others["edits"]],
        "out",
        expected="entries that were judged on the same edits",
        got="others",
        do="Choose another folder, or remove the older entries.",
    )
    kinds, lineages, ours = zip(*rows["edits"], strict=True)
    found = paired_kinds(kinds, lineages, ours, [s for _, _, s in others["edits"]])
    return found | {key: rows[key] for key in ("norm", "milliseconds", "passes", "seconds")}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown; bold where the interval of the difference excludes 0."""
    kinds = [key for key, value in next(iter(found.values())).items() if isinstance(value, dict)]
    lines = [f"| editor | {' | '.join(kinds)} | norm | ms | passes |", "| --- " * (len(kinds) + 4) + "|"]
    for name, one in found.items():
        cells = [cell(one[kind], 2) for kind in kinds]
        cells += [f"{one['norm']:.1f}", f"{one['milliseconds']:.0f}", str(one["passes"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
