"""An editor like MEND for each of eight subjects, beside ours and the one for all, on the same edits.

    python benchmarks/mend_per_subject.py CHECKPOINT [--zoo FOLDER] [--subjects 8] [--steps 600] [--tuning 40]

The subjects are some that the checkpoint was trained on, spread over families: each per-subject editor trains
on the training edits of its subject, ours on those of all of them, and both are asked for the same edits,
which neither has trained on. The last line of stdout is one JSON object.
"""

import hashlib
import json
import sys
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metamodel.baselines.editing.base import Episode
from metamodel.baselines.editing.fine_tuning import FineTuning, NoOp
from metamodel.baselines.editing.mend import Mend
from metamodel.baselines.editing.mend_alone import mend_alone, own_episodes
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.editing.episodes import test_episodes, training_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.report import interval_line, plain_interval
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Editable

DRAWS = 2
"""Specifications of each training edit."""
OURS = "meta-model"


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.mend_per_subject", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="", help="folder of its zoo; by default as it says")
    parser.add_argument("--subjects", type=int, default=8, help="subjects that get an editor of their own")
    parser.add_argument("--steps", type=int, default=600, help="steps of each editor's training")
    parser.add_argument("--tuning", type=int, default=40, help="edits on which opponents are tuned")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    editor = SubjectEditor.from_pretrained(given.checkpoint)
    zoo = EditZoo.open(Path(given.zoo or editor.checkpoint.zoo["folder"]))
    found = compared(editor, zoo, given.subjects, given.steps, given.tuning)
    names = list(found["S"])
    lines = [f"| subject | edits | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for name, of in found["subjects"].items():
        lines.append(f"| {name} | {of['edits']} | {' | '.join(f'{of[key]:.3f}' for key in names)} |")
    lines.append(f"| mean | | {' | '.join(interval_line(found['S'][key]) for key in names)} |")
    sys.stdout.write("\n".join(lines) + "\n" + json.dumps(found, default=plain_interval) + "\n")


def possible_episodes(one: Editable) -> list[Episode]:
    """Edits of a subject that no editor trains on, and that can be done."""
    return [e for e in test_episodes(one) if e.edit.kind != "infeasible"]


def chosen(zoo: EditZoo, editor: SubjectEditor, n: int) -> list[Editable]:
    """Subjects with edits to train on and to be tested on, one of each family and shape before a second."""
    trained = set(editor.splits.train)
    groups: dict[object, list[Editable]] = defaultdict(list)
    for one in sorted(zoo.subjects, key=lambda s: hashlib.sha256(s.subject.name.encode()).hexdigest()):
        if one.subject.name in trained and own_episodes(one, 1) and possible_episodes(one):
            groups[one.family, one.subject.config].append(one)
    turns = chain.from_iterable(zip_longest(*(groups[key] for key in sorted(groups, key=str))))
    return [one for one in turns if one is not None][:n]


def compared(editor: SubjectEditor, zoo: EditZoo, n: int, steps: int, n_tuning: int) -> dict[str, Any]:
    """Mean S of each method, over all and by subject."""

    def judge(e: Episode, changes: Any) -> float:
        return scores(e, changes).harmonic_mean

    tuning = training_episodes(zoo, editor.splits.train, n_tuning)
    for_all, fine = Mend(judge), FineTuning(judge)
    for opponent in (for_all, fine):
        sys.stderr.write(f"tuning {opponent.name}\n")
        opponent.tune(tuning)
    opponents = {"no_op": NoOp(), "mend": for_all, "fine_tuning": fine}
    values: dict[str, list[float]] = defaultdict(list)
    subjects: dict[str, dict[str, float]] = {}
    lineage = []
    for i, one in enumerate(chosen(zoo, editor, n)):
        sys.stderr.write(f"an editor for {one.subject.name}\n")
        methods = {"mend_per_subject": mend_alone(judge, own_episodes(one, DRAWS), steps=steps)} | opponents
        episodes = possible_episodes(one)
        for e in episodes:
            values[OURS].append(judge(e, editor.propose_for(one.subject, e.examples).changes))
            for name, method in methods.items():
                values[name].append(judge(e, method.propose(one.subject, e.examples, e.edit.kind)))
            lineage.append(i)
        subjects[one.subject.name] = {"edits": len(episodes)} | {
            name: float(np.mean(of[-len(episodes) :])) for name, of in values.items()
        }
    weights = resampled_weights(len(subjects), seed=0)
    measures = {
        name: metrics.mean(np.array(of), np.array(lineage), len(subjects)) for name, of in values.items()
    }
    gap = paired_difference(measures[OURS], measures["mend_per_subject"], weights)
    return {
        "S": {name: interval(one, weights) for name, one in measures.items()},
        "gap": gap,
        "subjects": subjects,
    }


if __name__ == "__main__":
    run_command(main)
