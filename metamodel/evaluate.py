"""Scores a meta-model beside its baselines on subjects that it was not trained on.

    python -m metamodel.evaluate CHECKPOINT [--zoo DIR] [--split seed|variant|size|task] [--json]

Baselines are fitted again on the checkpoint's own training subjects, so that every number stands beside its
opponents; with the checkpoint's own zoo the numbers of its metrics.json come out again.
"""

import shlex
import sys
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.evaluate import EvaluateOptions, evaluate_options

if TYPE_CHECKING:
    from metamodel.evaluation.controls import Controls
    from metamodel.evaluation.evaluate import Evaluation
    from metamodel.training.checkpoint import FunctionCheckpoint
    from metamodel.training.companions import Companions


def main(arguments: list[str]) -> None:
    """Prints tables, or JSON; what it is doing goes to stderr."""
    options = evaluate_options(arguments, description=__doc__ or "")
    command = shlex.join(["python", "-m", "metamodel.evaluate", *arguments])
    from metamodel.editing import SubjectEditor
    from metamodel.loading import load, local_folder
    from metamodel.matching import SubjectMatcher

    loaded = load(local_folder(options.checkpoint))
    if isinstance(loaded, SubjectEditor):
        from metamodel.evaluate_editor import evaluate_editor

        evaluate_editor(loaded, options, command=command)
        return
    if isinstance(loaded, SubjectMatcher):
        from metamodel.evaluate_matcher import evaluate_matcher

        evaluate_matcher(loaded, options, command=command)
        return
    from metamodel.evaluation import report as reports
    from metamodel.training.companions import load_companions

    reader = loaded
    assert reader.folder is not None
    beside = load_companions(reader.folder)
    evaluation, found = evaluated(reader.checkpoint, beside, options, command=command)
    report = evaluation.report
    if options.json:
        import json

        from metamodel.evaluation.controls import as_json

        values = reports.as_json(report, report.scores) | {"controls": as_json(found)}
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
    else:
        from metamodel.evaluation.controls import show_controls
        from metamodel.evaluation.terminal import report_console, show

        console = report_console()
        show(report, console)
        show_controls(found, console)


def evaluated(
    checkpoint: "FunctionCheckpoint", beside: "Companions", options: EvaluateOptions, *, command: str
) -> "tuple[Evaluation, Controls]":
    """Opens the zoo, fits the opponents, scores all methods, and reads untrained copies.

    Args:
        command: what the report says was run.

    Raises: InputError on a zoo or split that cannot be used.
    """
    from pathlib import Path

    from metamodel.baselines import opponents
    from metamodel.evaluation.ceiling import noise_ceiling
    from metamodel.evaluation.controls import controls
    from metamodel.evaluation.evaluate import evaluate
    from metamodel.evaluation.held_out import held_out
    from metamodel.training.agreement import with_agreement
    from metamodel.training.examples import examples_of

    found = held_out(checkpoint, zoo=Path(options.zoo) if options.zoo else None, split=options.split)
    for note in found.notes:
        _say(f"note: {note}")
    _say("describing subjects")
    track = checkpoint.track
    tests = {name: examples_of(found.away, ids, track) for name, ids in found.tests.items()}
    seed = int(checkpoint.training.get("bootstrap_seed", 0))
    evaluation = evaluate(
        checkpoint.predict,
        train=with_agreement(found.home, examples_of(found.home, found.train, track)),
        validation=examples_of(found.home, found.validation, track),
        tests=tests,
        labels=[label.name for label in checkpoint.labels],
        determined=checkpoint.determined,
        command=command,
        zoo=f"{found.away.name} {found.away.fingerprint}",
        seed=seed,
        readers=opponents(track),
        ceiling=noise_ceiling(found.away, [seen for of in tests.values() for seen, _ in of]),
        beside=beside,
        progress=_say,
    )
    _say("reading untrained copies")
    undetermined = checkpoint.undetermined
    return evaluation, controls(
        checkpoint.predict, found.away, tests, track, undetermined=undetermined, seed=seed
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    run_command(main)
