"""An editor and opponents on the same edits, told more and not; shared by commands of this folder."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from paired_kinds import cell, paired_kinds

from metamodel.baselines.editing import Changes, Episode, Opponent
from metamodel.baselines.editing.closed_form import closed_forms
from metamodel.baselines.editing.fine_tuning import FineTuning
from metamodel.baselines.editing.profile_match import SelfLabel
from metamodel.config.editing import Part
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.scores import scores
from metamodel.triples.edits import Examples

OPPONENTS = ("ridge", "fine_tuning", "self_label")


def compared(
    editor: SubjectEditor,
    part: Part,
    told_more: Callable[[Episode], Examples],
    tuning: Sequence[Episode],
    judged: Sequence[Episode],
    columns: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """S of every method when told more, and what that adds to it; by column, one for each edit.

    Args:
        part: of the editor, which finds for itself what opponents are told, and is left out for comparison.
        told_more: what opponents are given. Each is tuned anew with it, and judged on what the edit showed.
        tuning: edits of training subjects.
    """
    lineages, found = [e.editable.lineage for e in judged], {}
    for name in ("meta-model", *OPPONENTS):
        s = {}
        for more in (False, True):
            sys.stderr.write(f"{name}{' with ' + part if more else ''}\n")
            ours = name == "meta-model"
            propose = (
                _ours(editor, part, more) if ours else _theirs(name, tuning, told_more if more else None)
            )
            s[more] = [scores(e, propose(e)).harmonic_mean for e in judged]
        found[name] = paired_kinds(columns, lineages, s[True], s[False])
    return found


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown; bold where the interval of the difference excludes 0."""
    columns = list(next(iter(found.values())))
    lines = [f"| method | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cell(one[at], 3) for at in columns)} |" for name, one in found.items()]
    return "\n".join(lines)


def _theirs(
    name: str, tuning: Sequence[Episode], told_more: Callable[[Episode], Examples] | None
) -> Callable[[Episode], Changes]:
    def shown(e: Episode) -> Examples:
        return e.examples if told_more is None else told_more(e)

    told = [replace(e, examples=shown(e)) for e in tuning]
    truth = {id(given): e for given, e in zip(told, tuning, strict=True)}

    def s(e: Episode, changes: Changes) -> float:
        return scores(truth[id(e)], changes).harmonic_mean

    every: list[Opponent] = [FineTuning(s), SelfLabel(s), *closed_forms(s)]
    opponent = next(one for one in every if one.name == name)
    opponent.tune(told)
    return lambda e: opponent.propose(e.editable.subject, shown(e), e.edit.kind)


def _ours(editor: SubjectEditor, part: Part, more: bool) -> Callable[[Episode], Changes]:
    checkpoint = editor.checkpoint
    if not more:
        sizes = replace(checkpoint.sizes, without=(*checkpoint.sizes.without, part))
        network = sizes.network().eval()
        network.load_state_dict(checkpoint.editor.state_dict())
        editor = SubjectEditor(replace(checkpoint, sizes=sizes, editor=network))
    return lambda e: editor.propose_for(e.editable.subject, e.examples).changes
