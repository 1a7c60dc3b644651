"""What rewordings add, to the editor and to opponents that are given them as well, on validation subjects.

    python benchmarks/rewordings.py CHECKPOINT [--zoo FOLDER] [--edits 120] [--tuning 40]

An editor asks a subject which rewordings of what is shown it answers alike, and writes them beside that;
opponents in the report are given only what is shown. Here each is tuned and judged both ways: given
rewordings, it is told those of pairs as pairs, those of inputs to keep as inputs to keep, and all others
without an answer. Repairs, which no editor writes on rewordings, are left out. Progress goes to stderr; the
last line of stdout is one JSON object, `{method: {kind: {s, difference, low, high}}}`: S with rewordings, and
how much more that is than without, with intervals paired over lineages.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from given_more import compared, table

from metamodel.baselines.editing import Episode
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.episodes import training_episodes
from metamodel.features.observed import observed
from metamodel.features.rewordings import rewordings
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Examples


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.rewordings", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="data/edits-small", help="folder of a zoo of edits")
    parser.add_argument("--edits", type=int, default=120, help="edits that are drawn")
    parser.add_argument("--tuning", type=int, default=40, help="edits that opponents are tuned on")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    zoo, editor = EditZoo.open(Path(given.zoo)), SubjectEditor.from_pretrained(given.checkpoint)
    tuning = training_episodes(zoo, editor.splits.train, given.tuning)
    judged = training_episodes(zoo, editor.splits.validation, given.edits)
    judged = [e for e in judged if e.edit.kind != "repair"]
    kinds = [e.edit.kind for e in judged]
    found = compared(editor, "rewordings", told_more, tuning, judged, kinds)
    sys.stdout.write(table(found) + "\n" + json.dumps(found) + "\n")


def told_more(e: Episode) -> Examples:
    """What is shown, and its rewordings in the role of what they reword."""
    told = told_batch([editing_form(e.editable.subject)], [e.examples])
    more = rewordings(told, observed(told), 0)
    if more is None:
        return e.examples
    parts = {name: getattr(told, name)[0, more.source] for name in ("position", "role", "wanted")}
    parts |= {"tokens": more.tokens}
    return replace(
        e.examples, **{name: torch.cat([getattr(e.examples, name), x]) for name, x in parts.items()}
    )


if __name__ == "__main__":
    run_command(main)
