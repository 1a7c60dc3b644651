"""What sums add to repairs of subjects that add, to the editor and to opponents that are given them as well.

    python benchmarks/sums.py CHECKPOINT [--zoo FOLDER] [--tuning 40]

Where answers are sums of values that tokens have, known answers say what most others are, and an editor tells
a repair so (`metamodel/features/sums.py`). Here opponents are given them as well, and each is tuned and
judged both ways: given sums, it is told what follows from what is shown as pairs where the subject says
something else, and as inputs to keep where it says the same; what is left open is settled by what it says.
All repairs of adders among validation subjects are judged, by what was damaged. Progress goes to stderr; the
last line of stdout is one JSON object,
`{"follows": ..., "methods": {method: {component: {s, difference, low, high}}}}`: how many answers follow, and
how many of them are right, in repairs of training and validation subjects, by modulus and number of pairs;
and S with sums, and how much more that is than without, with intervals paired over lineages.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from given_more import compared, table

from metamodel.baselines.editing import Episode
from metamodel.baselines.editing.given_sums import following, with_sums
from metamodel.config.command import run_command
from metamodel.config.edits import UNLABELLED
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.episodes import episode
from metamodel.features.proportions import UNKNOWN
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
    splits = editor.splits
    tuning = repairs_of_adders(zoo, splits.train)[: given.tuning]
    judged = repairs_of_adders(zoo, splits.validation)
    require(
        bool(tuning and judged),
        given.zoo,
        expected="repairs of subjects that add, of training and of validation subjects",
        got=f"{len(tuning)} and {len(judged)}",
        do="Give another zoo of edits with --zoo.",
    )
    components = ["MLP" if ".mlp" in e.edit.rule else "head" for e in judged]
    follow = counted(zoo, [*splits.train, *splits.validation])
    found = compared(editor, "sums", told_more, tuning, judged, components)
    lines = ["| answers | pairs | repairs | follow | of them right |", "| --- " * 5 + "|"]
    lines += [
        f"| {one['answers']} | {one['pairs']} | {one['repairs']} | {one['follow']:.3f} | {one['right']:.3f} |"
        for one in follow
    ]
    everything = json.dumps({"follows": follow, "methods": found})
    sys.stdout.write("\n".join([*lines, "", table(found), everything]) + "\n")


def repairs_of_adders(zoo: EditZoo, names: Sequence[str], pairs: Sequence[int] = PAIRS) -> list[Episode]:
    """With these numbers of pairs in turn."""
    among = [one for one in zoo.subjects if one.subject.name in set(names) and one.family == "operators"]
    edits = [(one, edit) for one in among for edit in one.edits if edit.kind == "repair" and not edit.test]
    return [episode(one, edit, pairs[i % len(pairs)], 0) for i, (one, edit) in enumerate(edits)]


def told_more(e: Episode) -> Examples:
    """What is shown, and what follows from it by sums."""
    return with_sums(e.editable.subject, e.examples, e.edit.kind)


def counted(zoo: EditZoo, names: Sequence[str]) -> list[dict[str, float]]:
    """By number of answers and of pairs: repairs, share of the inputs without an answer whose answer follows,
    and share of right ones among those."""
    counts: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for n_pairs in PAIRS:
        for e in repairs_of_adders(zoo, names, (n_pairs,)):
            follows, answers = following(e.editable.subject, e.examples)[1], e.examples.answers
            new = follows != UNKNOWN
            hits = answers[follows[new]] == e.editable.answer[e.inputs[new]]
            asked = int((e.examples.role == UNLABELLED).sum())
            counts.setdefault((len(answers), n_pairs), []).append((asked, int(new.sum()), int(hits.sum())))
    found = []
    for (n_answers, n_pairs), rows in sorted(counts.items()):
        asked, follow, right = (sum(column) for column in zip(*rows, strict=True))
        share = right / follow if follow else math.nan
        row = {"answers": n_answers, "pairs": n_pairs, "repairs": len(rows)}
        found.append({**row, "follow": follow / asked, "right": share})
    return found


if __name__ == "__main__":
    run_command(main)
