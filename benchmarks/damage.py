"""Repairs of damage that no zoo of edits has, beside that which it has.

    python benchmarks/damage.py CHECKPOINT [--zoo FOLDER] [--subjects 24] [--pairs 2] [--tuning 40]

Subjects of other seeds than those of training are damaged, each in every way, so that a tenth to nine tenths
of their answers are wrong; the specification shows some that were right. The editor is judged as it is and
without putting components right, beside tuned fine-tuning. The first four ways are those of the zoo. The
others never occur in training, and no change of what one component writes by undoes them. Ways that hurt no
subject moderately are left out. The last line of stdout is one JSON object,
`{damage: {S: {method: interval}, found, n}}`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_gen.episodes.damage import LEAST_WRONG, MOST_WRONG
from metamodel.baselines.editing.base import Episode
from metamodel.baselines.editing.fine_tuning import FineTuning, NoOp
from metamodel.config.command import run_command
from metamodel.config.edits import IN_SCOPE, NEAR
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, resampled_weights
from metamodel.evaluation.editing.episodes import episode, training_episodes
from metamodel.evaluation.editing.scores import logits_of, scores
from metamodel.evaluation.report import interval_line, plain_interval
from metamodel.subjects.subject import Subject
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.edits import Edit, Editable

TRIES = 12
"""Places that are damaged until one hurts moderately."""
Damage = Callable[[Subject, torch.Generator], Subject]


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.damage", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--zoo", type=str, default="", help="folder of its zoo; by default as it says")
    parser.add_argument("--subjects", type=int, default=24, help="subjects that are damaged")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of a specification")
    parser.add_argument("--tuning", type=int, default=40, help="edits on which fine-tuning is tuned")
    given = parse_options(parser, arguments)
    torch.set_num_threads(1)
    editor = SubjectEditor.from_pretrained(given.checkpoint)
    zoo = EditZoo.open(Path(given.zoo or editor.checkpoint.zoo["folder"]))
    found = compared(editor, zoo, given.subjects, given.pairs, given.tuning)
    names = ["meta-model", "no components", "fine_tuning", "no_op"]
    lines = [f"| damage | subjects | put right | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 3)}"]
    for name, of in found.items():
        cells = " | ".join(interval_line(of["S"][key]) for key in names)
        lines.append(f"| {name} | {of['n']} | {of['found']:.2f} | {cells} |")
    sys.stdout.write("\n".join(lines) + "\n" + json.dumps(found, default=plain_interval) + "\n")


def compared(editor: SubjectEditor, zoo: EditZoo, n: int, n_pairs: int, n_tuning: int) -> dict[str, Any]:
    """Mean S of each method by way of damage, and how often a component is put right."""

    def judge(e: Episode, changes: Any) -> float:
        return scores(e, changes).harmonic_mean

    fine = FineTuning(judge)
    fine.tune(training_episodes(zoo, editor.splits.train, n_tuning))
    whole = [one for one in zoo.subjects if one.subject.name in set(editor.splits.seed)]
    whole = [one for one in whole if not any(e.kind == "repair" for e in one.edits)][:n]
    table = {}
    for name, damage in DAMAGES.items():
        values: dict[str, list[float]] = {}
        put_right = []
        for e in filter(None, (damaged(one, damage, n_pairs) for one in whole)):
            subject = e.editable.subject
            proposal = editor.propose_for(subject, e.examples)
            put_right.append(any("put right" in note for note in proposal.notes))
            changes = {
                "meta-model": proposal.changes,
                "no components": editor.propose_for(subject, e.examples, repair=False).changes,
                "fine_tuning": fine.propose(subject, e.examples, "repair"),
                "no_op": NoOp().propose(subject, e.examples),
            }
            for key, one in changes.items():
                values.setdefault(key, []).append(judge(e, one))
        if not put_right:
            continue
        rows = np.arange(len(put_right))
        weights = resampled_weights(len(rows), seed=0)
        scored = {
            key: interval(metrics.mean(np.array(of), rows, len(rows)), weights) for key, of in values.items()
        }
        table[name] = {"S": scored, "found": float(np.mean(put_right)), "n": len(rows)}
        sys.stderr.write(f"{name}: {len(rows)} subjects\n")
    return table


def damaged(one: Editable, damage: Damage, n_pairs: int) -> Episode | None:
    """A subject damaged at the first of a few places where it hurts moderately, and its repair."""
    for seed in range(TRIES):
        hurt = damage(one.subject, torch.Generator().manual_seed(seed))
        wrong = logits_of(hurt.config, hurt.weights, one.tokens).argmax(-1) != one.answer
        if LEAST_WRONG <= float(wrong[~one.unseen].float().mean()) <= MOST_WRONG:
            scope = torch.where(wrong, IN_SCOPE, NEAR)
            edit = Edit(kind="repair", rule="", wanted=one.answer, scope=scope, pool=wrong, n_pairs=0)
            return episode(replace(one, subject=hurt, edits=(edit,)), edit, n_pairs, 0)
    return None


def _on(leaf: str, change: Callable[[Tensor, torch.Generator], Tensor], n: int = 1) -> Damage:
    """Damages what `n` heads, or an MLP, hold under one name, in any layer."""

    def damage(subject: Subject, generator: torch.Generator) -> Subject:
        weights = dict(subject.weights)
        for name, head in _places(subject, leaf, generator, n):
            weight = weights[name].clone()
            part = weight if head is None else weight[head]
            part.copy_(change(part, generator))
            weights[name] = weight
        return subject.with_weights(weights)

    return damage


def _places(
    subject: Subject, leaf: str, generator: torch.Generator, n: int
) -> Iterator[tuple[str, int | None]]:
    heads = range(subject.config.n_heads) if leaf.startswith("attn") else (None,)
    places = [(f"blocks.{layer}.{leaf}", head) for layer in range(subject.config.n_layers) for head in heads]
    for i in torch.randperm(len(places), generator=generator)[:n].tolist():
        if places[i][0] in subject.weights:
            yield places[i]


def _removed(part: Tensor, _: torch.Generator) -> Tensor:
    return torch.zeros_like(part)


def _noisy(times: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Noise of so many times its own size added."""
    return lambda part, generator: part + times * part.std() * torch.randn(part.shape, generator=generator)


DAMAGES: dict[str, Damage] = {
    "W_O, one head removed": _on("attn.W_O", _removed),
    "noise on W_O, one head": _on("attn.W_O", _noisy(4)),
    "W_out removed": _on("mlp.W_out", _removed),
    "noise on W_out": _on("mlp.W_out", _noisy(4)),
    "W_O, two heads removed": _on("attn.W_O", _removed, 2),
    "noise on W_O, two heads": _on("attn.W_O", _noisy(4), 2),
    "noise on W_V, one head": _on("attn.W_V", _noisy(4)),
    "noise on W_K, one head": _on("attn.W_K", _noisy(4)),
    "noise on W_in": _on("mlp.W_in", _noisy(1)),
}


if __name__ == "__main__":
    run_command(main)
