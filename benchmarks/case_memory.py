"""What a memory of solved edits adds to an editor, and what is left of it without the editor's correction.

    python benchmarks/case_memory.py CHECKPOINT [--zoo FOLDER] [--edits 24] [--cases 60]

Three memories are asked. `training`: edits of training subjects that the editor solved from 16 pairs.
`sibling`: the same rule, solved from 16 pairs for the subject that shares its symbols with the one that is
asked, which shows one, two or four pairs. `two faults`: repairs of that other subject, of one planted fault
each; the subject that is asked has both. How near a case must be is chosen on validation subjects; test
splits are only judged.
The last line of stdout is one JSON object.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metamodel.baselines.editing import Changes, Episode, oracle
from metamodel.cases.memory import CaseMemory
from metamodel.config.command import run_command
from metamodel.config.edits import GOOD, IN_SCOPE, NEAR, PAIR
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import Interval, interval, paired_difference, resampled_weights
from metamodel.evaluation.editing.episodes import episode, judged_episodes, test_episodes, training_episodes
from metamodel.evaluation.editing.scores import scores
from metamodel.evaluation.report import interval_line, plain_interval
from metamodel.proposal import Proposal
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Edit, Editable

NEARS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
SHOWN = 16
"""Pairs of an edit that is remembered."""
FEW = (1, 2, 4)
METHODS = ("meta-model", "meta-model/memory", "unadapted")
Memories = Callable[[Episode], CaseMemory]


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.case_memory", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="", help="folder of its zoo; by default as it says")
    parser.add_argument("--edits", type=int, default=24, help="edits of a split and of a protocol")
    parser.add_argument("--cases", type=int, default=60, help="edits of training subjects that are tried")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    editor = SubjectEditor.from_pretrained(given.checkpoint)
    zoo = EditZoo.open(Path(given.zoo or editor.checkpoint.zoo["folder"]))
    print_table(judged(editor, zoo, given.edits, given.cases))


def judged(editor: SubjectEditor, zoo: EditZoo, n: int, n_cases: int) -> dict[str, dict[str, Any]]:
    """By protocol and split: mean S of each method, the gain of memory, how often a case was begun from."""
    training = solved(editor, training_episodes(zoo, editor.splits.train, n_cases))
    by_name = {one.subject.name: one for one in zoo.subjects}
    rows: dict[str, dict[str, Any]] = {}
    validation = training_episodes(zoo, editor.splits.validation, n)
    near = nearest_chosen(editor, validation, lambda e: training)
    for split, episodes in judged_episodes(zoo, editor.splits, 1, n).items():
        feasible = [e for e in episodes if e.edit.kind != "infeasible"]
        rows[f"training/{split}"] = row(editor, feasible, lambda e: training, near)
    of_siblings = siblings_of(editor, by_name)
    rules = rule_episodes(by_name, editor.splits.validation, n)
    near = nearest_chosen(editor, rules, of_siblings) if rules else near
    for split, ids in editor.splits.tests.items():
        rules = rule_episodes(by_name, ids, n)
        for m in FEW:
            few = [e for e in rules if pairs_of(e) == m]
            if few:
                rows[f"sibling/{split}/{m}"] = row(editor, few, of_siblings, near)
    able = [id for id in editor.splits.seed if is_able(by_name, id)][: max(2, n // 3)]
    faulty = [two_faults(editor, by_name, id) for id in able]
    if faulty:
        memories = {id(e): memory for e, memory in faulty}
        rows["two faults/seed"] = row(editor, [e for e, _ in faulty], lambda e: memories[id(e)], near=1.0)
    return rows


def pairs_of(e: Episode) -> int:
    return int((e.examples.role == PAIR).sum())


def solved(editor: SubjectEditor, episodes: Sequence[Episode]) -> CaseMemory:
    """Cases of the edits among these that the editor solves."""
    memory = CaseMemory()
    for e in episodes:
        again = episode(e.editable, e.edit, e.edit.n_pairs or SHOWN, 1)
        proposal = editor.propose_for(again.editable.subject, again.examples)
        if scores(again, proposal.changes).harmonic_mean >= GOOD:
            memory.add(editor.case(proposal))
    return memory


def nearest_chosen(editor: SubjectEditor, episodes: Sequence[Episode], memories: Memories) -> float:
    """The bound on distances with the highest mean S, the least of equals; 0 for no case ever."""
    means = dict.fromkeys(NEARS, 0.0)
    for e in episodes:
        memory = memories(e)
        for near in means:
            means[near] += s_of(e, propose(editor, e, CaseMemory(memory.cases, near=near)))
    return max(means, key=lambda near: (means[near], -near))


def propose(editor: SubjectEditor, e: Episode, memory: CaseMemory) -> Proposal:
    return editor.propose_for(e.editable.subject, e.examples, memory=memory)


def s_of(e: Episode, proposal: Proposal | Changes) -> float:
    changes = proposal.changes if isinstance(proposal, Proposal) else proposal
    return scores(e, changes).harmonic_mean


def row(
    editor: SubjectEditor, episodes: Sequence[Episode], memories: Memories, near: float
) -> dict[str, Any]:
    """Mean S of every method with intervals over lineages, and the paired gain of memory."""
    values: dict[str, list[float]] = {name: [] for name in METHODS}
    begun = 0
    for e in episodes:
        memory = CaseMemory(memories(e).cases, near=near)
        plain, helped = propose(editor, e, CaseMemory()), propose(editor, e, memory)
        begun += plain.notes != helped.notes
        values["meta-model"].append(s_of(e, plain))
        values["meta-model/memory"].append(s_of(e, helped))
        values["unadapted"].append(s_of(e, editor.begun(e.editable.subject, e.examples, memory)))
    lineage, n_lineages = metrics.numbered([e.editable.lineage for e in episodes])
    weights = resampled_weights(n_lineages, seed=0)
    measures = {name: metrics.mean(np.array(of), lineage, n_lineages) for name, of in values.items()}
    found = {name: interval(one, weights) for name, one in measures.items()}
    gain = paired_difference(measures["meta-model/memory"], measures["meta-model"], weights)
    about = {"edits": len(episodes), "lineages": n_lineages, "near": near, "begun": begun}
    return about | found | {"gain": gain}


def sibling(by_name: dict[str, Editable], id: str) -> Editable | None:
    """The subject that shares its symbols."""
    head, _, number = id.rpartition("-")
    if not number.isdigit():
        return None
    return by_name.get(f"{head}-{int(number) ^ 1:04d}")


def rule_episodes(by_name: dict[str, Editable], ids: Sequence[str], n: int) -> list[Episode]:
    """A test rule of each subject that has a sibling, drawn as in reports; with one, two and four pairs."""
    found = []
    for id in ids:
        if sibling(by_name, id) is not None:
            rules = [e for e in test_episodes(by_name[id]) if e.edit.kind == "rule"]
            found += [e for e in rules if pairs_of(e) in FEW]
    return found[: n * len(FEW)]


def siblings_of(editor: SubjectEditor, by_name: dict[str, Editable]) -> Memories:
    """The same rule as the sibling was given it, from 16 pairs; both answer the same questions alike."""
    made: dict[tuple[str, str, int], CaseMemory] = {}

    def memory(e: Episode) -> CaseMemory:
        key = (e.editable.subject.name, e.edit.rule, int(e.edit.scope[0]))
        if key not in made:
            other = sibling(by_name, e.editable.subject.name)
            assert other is not None
            one = episode(other, e.edit, SHOWN, 1)
            made[key] = CaseMemory([editor.case(editor.propose_for(other.subject, one.examples))])
        return made[key]

    return memory


def rules_of(one: Editable) -> dict[int, Edit]:
    """A rule for each operator: the first input is one of the first operator."""
    return {int(edit.scope[0]): edit for edit in one.edits if edit.kind == "rule"}


def is_able(by_name: dict[str, Editable], id: str) -> bool:
    return sibling(by_name, id) is not None and len(rules_of(by_name[id])) == 2


def two_faults(editor: SubjectEditor, by_name: dict[str, Editable], id: str) -> tuple[Episode, CaseMemory]:
    """A subject with two planted faults, a rule in each operator, and solved repairs of one of them each."""
    one, other = by_name[id], sibling(by_name, id)
    assert other is not None
    memory, both = CaseMemory(), dict(one.subject.weights)
    for edit in rules_of(one).values():
        for subject, mine in ((one, True), (other, False)):
            harm = oracle(episode(subject, edit, SHOWN, 1), subset="last_writer", learning_rate=1e-2)
            if mine:
                both = {key: value + harm.get(key, 0) for key, value in both.items()}
                continue
            weights = {key: value + harm.get(key, 0) for key, value in subject.subject.weights.items()}
            hurt = replace(subject, subject=subject.subject.with_weights(weights))
            fix = episode(hurt, repair(subject, edit.scope == IN_SCOPE), SHOWN, 1)
            changes = oracle(fix, subset="last_writer", learning_rate=1e-2)
            proposal = Proposal(
                subject=hurt.subject, examples=fix.examples, changes=changes, forecast=1.0, refuse_below=0.0
            )
            memory.add(editor.case(proposal))
    hurt = replace(one, subject=one.subject.with_weights(both))
    everything = torch.ones(len(one.tokens), dtype=torch.bool)
    return episode(hurt, repair(one, everything), SHOWN, 1), memory


def repair(one: Editable, wrong: torch.Tensor) -> Edit:
    scope = torch.where(wrong, IN_SCOPE, NEAR)
    return Edit(kind="repair", rule="planted", wanted=one.answer, scope=scope, pool=wrong, n_pairs=0)


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    columns = ("edits", "lineages", "near", "begun", *METHODS, "gain")
    lines = [f"| protocol | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    for name, of in rows.items():
        shown = (
            interval_line(one) if isinstance(one, Interval) else str(one) for one in map(of.get, columns)
        )
        lines.append(f"| {name} | {' | '.join(shown)} |")
    sys.stdout.write("\n".join(lines) + "\n" + json.dumps(rows, default=plain_interval) + "\n")


if __name__ == "__main__":
    run_command(main)
