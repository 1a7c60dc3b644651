"""Copies a finished run's checkpoint into `checkpoints/`, from where it is committed.

python -m metamodel.release function-small [runs/function-small/2026-01-01_12-00-00]
python -m metamodel.release matching --students data/students-small

With `--students` the students of that zoo are measured, in about a minute, and stand in the matcher's
`metrics.json` and card beside its own scores.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from metamodel.config.errors import InputError, require
from metamodel.config.parser import command_parser, parse_options

FILES = ("config.json", "model.safetensors", "metrics.json", "README.md")
"""What a released checkpoint must hold. Pictures of the card are copied along."""
SPLITS = "splits.json"
"""What it must hold, too; that of a matcher names its lineages in config.json, for its zoo divides pairs."""
LARGEST = 10 * 2**20
"""Bytes that a released checkpoint may have."""


def needed(checkpoint: Path) -> tuple[str, ...]:
    """Files that this checkpoint must hold."""
    try:
        held = json.loads((checkpoint / "config.json").read_text())
    except (OSError, ValueError):
        held = {}
    matches = isinstance(held, dict) and held.get("kind") == "matching"
    return FILES if matches else (*FILES, SPLITS)


def newest_run(name: str, runs: Path) -> Path:
    """The latest run of `name` whose checkpoint is complete.

    Raises: InputError if there is none.
    """
    complete = [
        run
        for run in sorted((runs / name).glob("*"))
        if all((run / "checkpoint" / file).is_file() for file in needed(run / "checkpoint"))
    ]
    if not complete:
        raise InputError(
            str(runs / name),
            expected="a finished run",
            got="none",
            do="Run `python -m metamodel.train` first.",
        )
    return complete[-1]


def release(name: str, run: Path, checkpoints: Path) -> Path:
    """Copies `run`'s checkpoint to `checkpoints/name`, replacing what was there.

    Raises: InputError if a file is missing or the checkpoint is too large to commit.
    """
    require(
        Path(name).name == name and name not in ("", ".", ".."),
        "name",
        expected="the name of a checkpoint, such as function-small",
        got=repr(name),
        do="Leave out folders.",
    )
    source = run / "checkpoint"
    for file in needed(source):
        require(
            (source / file).is_file(),
            str(source),
            expected=f"a file {file}",
            got="none",
            do="Choose a finished run.",
        )
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    require(
        size <= LARGEST,
        str(source),
        expected=f"at most {LARGEST} bytes",
        got=size,
        do="Train a smaller network.",
    )
    target, partial = checkpoints / name, checkpoints / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    return target


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="metamodel.release", description=__doc__ or "")
    parser.add_argument("name", type=str, help="name of the run's configuration, such as function-small")
    parser.add_argument("run", nargs="?", type=str, help="folder of one run; by default the newest finished")
    parser.add_argument("--students", type=str, default=None, help="zoo of students, of a matcher")
    given = parse_options(parser, arguments)
    run = Path(given.run) if given.run else newest_run(given.name, Path("runs"))
    if given.students is None:
        sys.stdout.write(f"{run} -> {release(given.name, run, Path('checkpoints'))}\n")
        return
    from metamodel.evaluation.student_record import add_students, check_matcher, measured

    check_matcher(run / "checkpoint")
    command = f"python -m metamodel.release {given.name} --students {given.students}"
    record = measured(Path(given.students), command=command)  # before anything is replaced
    target = release(given.name, run, Path("checkpoints"))
    add_students(target, record)
    sys.stdout.write(f"{run} -> {target}, with {record['n_pairs']} pairs of students\n")


if __name__ == "__main__":
    from metamodel.config.command import run_command

    run_command(main)
