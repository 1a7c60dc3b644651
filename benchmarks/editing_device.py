"""Whether a device proposes what the CPU does, and how fast it proposes and trains.

    python benchmarks/editing_device.py CHECKPOINT [--device cuda] [--zoo FOLDER] [--edits 40] [--steps 100]

Edits of training subjects are proposed on the CPU and on the device, with the subject on the device too.
`difference` is the largest by which the probability of any answer to any input of a domain differs between
the two edited subjects, run on the CPU. `milliseconds` are medians of an edit, proposed once before;
`steps_per_second` are of training an editor, what comes before its first step left out. One thread. Progress
goes to stderr; the last line of stdout is one JSON object.
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from metamodel.config.command import run_command
from metamodel.config.editing import EditingConfig
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation.editing.episodes import training_episodes
from metamodel.evaluation.editing.scores import logits_of, scores
from metamodel.training.fit_editing import fit_editor
from metamodel.triples.edit_store import EditZoo


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.editing_device", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor")
    parser.add_argument("--device", type=str, default="cuda", help="device that is compared with the CPU")
    parser.add_argument("--zoo", type=str, default="data/edits-small", help="folder of a zoo of edits")
    parser.add_argument("--edits", type=int, default=40, help="edits that are proposed")
    parser.add_argument("--steps", type=int, default=100, help="steps of training; 0 trains none")
    given = parse_options(parser, arguments)
    seen = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there = torch.cuda.is_available() and given.device in seen
    expected = "a CUDA device that torch sees, such as cuda"
    require(there, "device", expected=expected, got=given.device, do="Run it where there is one.")
    torch.set_num_threads(1)
    zoo = EditZoo.open(Path(given.zoo))
    one, other = (SubjectEditor.from_pretrained(given.checkpoint) for _ in range(2))
    places = {"cpu": one, given.device: other.to(given.device)}
    report = {"device": torch.cuda.get_device_name(given.device)} | proposed(places, zoo, given.edits)
    if given.steps:
        report["steps_per_second"] = {
            accelerator: speed(accelerator, zoo, given.zoo, one, given.steps)
            for accelerator in ("cpu", "gpu")
        }
    sys.stdout.write(json.dumps(report) + "\n")


@torch.no_grad()
def proposed(places: dict[str, SubjectEditor], zoo: EditZoo, n_edits: int) -> dict[str, object]:
    """How far proposals differ, what they score and how long they take."""
    took, s, differences = defaultdict(list), defaultdict(list), []
    train = next(iter(places.values())).splits.train
    for e in training_episodes(zoo, train, n_edits):
        subject, said = e.editable.subject, []
        for place, editor in places.items():
            there = subject.to(place)
            editor.propose_for(there, e.examples)
            began = time.perf_counter()
            proposal = editor.propose_for(there, e.examples)
            if place != "cpu":
                torch.cuda.synchronize(place)
            took[place].append(1000 * (time.perf_counter() - began))
            changes = {key: change.cpu() for key, change in proposal.changes.items()}
            weights = {k: w + changes[k] if k in changes else w for k, w in subject.weights.items()}
            said.append(logits_of(subject.config, weights, e.editable.tokens).softmax(-1))
            s[place].append(scores(e, changes).harmonic_mean)
        sys.stderr.write(f"{subject.name}: {e.edit.kind}\n")
        differences.append(float((said[0] - said[-1]).abs().max()))
    return {
        "edits": len(differences),
        "difference": {"median": median(differences), "largest": max(differences)},
        "s": {place: sum(values) / len(values) for place, values in s.items()},
        "milliseconds": {place: median(values) for place, values in took.items()},
    }


def speed(accelerator: str, zoo: EditZoo, folder: str, editor: SubjectEditor, steps: int) -> float:
    """Steps a second, from the times of two trainings: what comes before their first step is the same."""
    few = max(1, steps // 4)
    return (steps - few) / (
        seconds(accelerator, zoo, folder, editor, steps) - seconds(accelerator, zoo, folder, editor, few)
    )


def seconds(accelerator: str, zoo: EditZoo, folder: str, editor: SubjectEditor, steps: int) -> float:
    """Of a training."""
    sys.stderr.write(f"{steps} steps on {accelerator}\n")
    config = EditingConfig(zoo=folder)
    trainer = replace(config.trainer, accelerator=accelerator, progress=False)
    config = replace(config, training=replace(config.training, steps=steps), trainer=trainer)
    train = set(editor.splits.train)
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        fit_editor(config, [one for one in zoo.subjects if one.subject.name in train], Path(out))
        return time.perf_counter() - began


if __name__ == "__main__":
    run_command(main)
