"""Scores a function reader beside its baselines on subjects that it was not trained on.

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
    from metamodel.evaluation.evaluate import Evaluation
    from metamodel.training.checkpoint import FunctionCheckpoint


def main(arguments: list[str]) -> None:
    """Prints tables, or JSON; what it is doing goes to stderr."""
    options = evaluate_options(arguments, description=__doc__ or "")
    from metamodel.evaluation import report as reports
    from metamodel.reading import FunctionReader

    checkpoint = FunctionReader.from_pretrained(options.checkpoint).checkpoint
    command = shlex.join(["python", "-m", "metamodel.evaluate", *arguments])
    report = evaluated(checkpoint, options, command=command).report
    if options.json:
        import json

        sys.stdout.write(json.dumps(reports.as_json(report, report.scores), indent=1) + "\n")
    else:
        reports.show(report, reports.report_console())


def evaluated(checkpoint: "FunctionCheckpoint", options: EvaluateOptions, *, command: str) -> "Evaluation":
    """Opens the zoo, fits the opponents and scores all methods.

    Args:
        command: what the report says was run.

    Raises: InputError on a zoo or split that cannot be used.
    """
    from pathlib import Path

    from metamodel.evaluation.evaluate import evaluate
    from metamodel.evaluation.held_out import held_out
    from metamodel.training.examples import examples_of

    found = held_out(checkpoint, zoo=Path(options.zoo) if options.zoo else None, split=options.split)
    for note in found.notes:
        _say(f"note: {note}")
    _say("describing subjects")
    track = checkpoint.track
    return evaluate(
        checkpoint.predict,
        train=examples_of(found.home, found.train, track),
        validation=examples_of(found.home, found.validation, track),
        tests={name: examples_of(found.away, ids, track) for name, ids in found.tests.items()},
        labels=[label.name for label in checkpoint.labels],
        determined=checkpoint.determined,
        command=command,
        zoo=f"{found.away.name} {found.away.fingerprint}",
        seed=int(checkpoint.training.get("bootstrap_seed", 0)),
        progress=_say,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    run_command(main)
