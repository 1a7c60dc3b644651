"""What sums add to repairs of subjects that add, to the editor and to opponents that are given them as well.

    python benchmarks/sums.py CHECKPOINT [--zoo FOLDER] [--tuning 40]

Where answers are sums of values that tokens have, known answers say what most others are, and an editor tells
a repair so (`metamodel/features/sums.py`); opponents in the report are given only what is shown. Here each is
tuned and judged both ways: given sums, it is told what follows from what is shown as pairs where the subject
says something else, and as inputs to keep where it says the same. All repairs of adders among validation
subjects are judged, by what was damaged. Progress goes to stderr; the last line of stdout is one JSON object,
`{method: {component: {s, difference, low, high}}}`: S with sums, and how much more that is than without, with
intervals paired over lineages.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from given_more import compared, table

from metamodel.baselines.editing import Episode
from metamodel.config.command import run_command
from metamodel.config.edits import KEEP, PAIR, UNLABELLED
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.episodes import episode
from metamodel.features.observed import observed
from metamodel.features.prompt_kernels import token_ids
from metamodel.features.proportions import UNKNOWN
from metamodel.features.sums import sums
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Examples
from metamodel.triples.specify import PAIRS


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.sums", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="data/edits-small", help="folder of a zoo of edits")
    parser.add_argument("--tuning", type=int, default=40, help="edits that opponents are tuned on")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    zoo, editor = EditZoo.open(Path(given.zoo)), SubjectEditor.from_pretrained(given.checkpoint)
    tuning = repairs_of_adders(zoo, editor.splits.train)[: given.tuning]
    judged = repairs_of_adders(zoo, editor.splits.validation)
    require(
        bool(tuning and judged),
        given.zoo,
        expected="repairs of subjects that add, of training and of validation subjects",
        got=f"{len(tuning)} and {len(judged)}",
        do="Give another zoo of edits with --zoo.",
    )
    components = ["MLP" if ".mlp" in e.edit.rule else "head" for e in judged]
    found = compared(editor, "sums", told_more, tuning, judged, components)
    sys.stdout.write(table(found) + "\n" + json.dumps(found) + "\n")


def repairs_of_adders(zoo: EditZoo, names: Sequence[str]) -> list[Episode]:
    """With 1, 2, 4 and 16 pairs in turn."""
    among = [one for one in zoo.subjects if one.subject.name in set(names) and one.family == "operators"]
    edits = [(one, edit) for one in among for edit in one.edits if edit.kind == "repair" and not edit.test]
    return [episode(one, edit, PAIRS[i % len(PAIRS)], 0) for i, (one, edit) in enumerate(edits)]


def told_more(e: Episode) -> Examples:
    """What is shown, and what follows from it by sums."""
    told = told_batch([editing_form(e.editable.subject)], [e.examples])
    says, role, answers = observed(told).old[0].argmax(-1), told.role[0], told.answers[0]
    wanted = torch.where(role == PAIR, (told.wanted[0][:, None] == answers).int().argmax(1), says)
    known = torch.where(role == UNLABELLED, UNKNOWN, wanted)
    found = sums(token_ids(told.tokens, told.position)[0], known, len(answers))
    if found is None:
        return e.examples
    new = (role == UNLABELLED) & (found.follows != UNKNOWN)
    role = torch.where(new, torch.where(found.follows == says, KEEP, PAIR), role)
    wanted = torch.where(new, answers[found.follows.clamp_min(0)], told.wanted[0])
    return replace(e.examples, tokens=told.tokens[0], position=told.position[0], role=role, wanted=wanted)


if __name__ == "__main__":
    run_command(main)
