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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from paired_kinds import cell, paired_kinds

from metamodel.baselines.editing import Changes, Episode, Opponent
from metamodel.baselines.editing.closed_form import closed_forms
from metamodel.baselines.editing.fine_tuning import FineTuning
from metamodel.baselines.editing.profile_match import SelfLabel
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.episodes import training_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.features.observed import observed
from metamodel.features.rewordings import rewordings
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Examples

OPPONENTS = ("ridge", "fine_tuning", "self_label")


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
    lineages = [e.editable.lineage for e in judged]
    kinds = [e.edit.kind for e in judged]
    found = {}
    for name in ("meta-model", *OPPONENTS):
        s = {}
        for more in (False, True):
            sys.stderr.write(f"{name}{' with rewordings' if more else ''}\n")
            s[more] = _judged(name, editor, tuning, judged, more=more)
        found[name] = paired_kinds(kinds, lineages, s[True], s[False])
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


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown; bold where the interval of the difference excludes 0."""
    kinds = list(next(iter(found.values())))
    lines = [f"| method | {' | '.join(kinds)} |", "| --- " * (len(kinds) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(cell(one[kind], 3) for kind in kinds)} |" for name, one in found.items()
    ]
    return "\n".join(lines)


def _judged(
    name: str, editor: SubjectEditor, tuning: Sequence[Episode], judged: Sequence[Episode], *, more: bool
) -> list[float]:
    """S of each edit."""
    propose = _ours(editor, more) if name == "meta-model" else _theirs(name, tuning, more)
    return [scores(e, propose(e)).harmonic_mean for e in judged]


def _theirs(name: str, tuning: Sequence[Episode], more: bool) -> Callable[[Episode], Changes]:
    # told more, and judged on what it was told before
    told = [replace(e, examples=told_more(e)) if more else e for e in tuning]
    truth = {id(given): e for given, e in zip(told, tuning, strict=True)}

    def s(e: Episode, changes: Changes) -> float:
        return scores(truth[id(e)], changes).harmonic_mean

    every: list[Opponent] = [FineTuning(s), SelfLabel(s), *closed_forms(s)]
    opponent = next(one for one in every if one.name == name)
    opponent.tune(told)

    def propose(e: Episode) -> Changes:
        return opponent.propose(e.editable.subject, told_more(e) if more else e.examples, e.edit.kind)

    return propose


def _ours(editor: SubjectEditor, more: bool) -> Callable[[Episode], Changes]:
    checkpoint = editor.checkpoint
    if not more:
        sizes = replace(checkpoint.sizes, without=(*checkpoint.sizes.without, "rewordings"))
        network = sizes.network().eval()
        network.load_state_dict(checkpoint.editor.state_dict())
        editor = SubjectEditor(replace(checkpoint, sizes=sizes, editor=network))

    return lambda e: editor.propose_for(e.editable.subject, e.examples).changes


if __name__ == "__main__":
    run_command(main)
