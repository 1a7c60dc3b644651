"""Reads a subject: what each of its components does, by a trained function reader.

    python -m metamodel.read checkpoints/function-small SUBJECT [--prompts FILE] [--label NAME] [--json]

SUBJECT is a folder in transformers' format, a name on the hub, or ZOO#ID. FILE holds prompts of the behavior
that is asked about, as of `metamodel.circuits.prompt_file`; their answers are not looked at. A subject of a
zoo is read on the prompts that the zoo holds.
"""

import sys
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.errors import require_one_of
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from metamodel.features.view import Shown
    from metamodel.reading import Reading
    from metamodel.subjects.subject import Subject

LIKELY = 0.5
"""Probability from which a cell is highlighted."""


def main(arguments: list[str]) -> None:
    """Prints a table, or JSON."""
    parser = command_parser(prog="metamodel.read", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of a function reader, or its name on the hub")
    parser.add_argument("subject", type=str, help="folder in transformers' format, hub name, or ZOO#ID")
    parser.add_argument(
        "--prompts", type=str, help="JSON lines of token ids: the behavior that is asked about"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--label", type=str, help="rank the components by this function label only")
    options = parse_options(parser, arguments)
    from metamodel.reading import FunctionReader

    reader = FunctionReader.from_pretrained(options.checkpoint)
    if options.label is not None:  # before the reading, which may take a minute
        require_one_of(options.label, [label.name for label in reader.labels], "label")
    reading = reader.read(subject_of(options.subject), prompts=shown_of(options.subject, options.prompts))
    if options.label is not None:
        reading = reading.only(options.label)
    if options.json:
        sys.stdout.write(reading.to_json() + "\n")
    elif options.label is not None:
        sys.stdout.write(reading.ranked(options.label).to_string() + "\n")
    else:
        show(reading)
    if not options.json:
        show_notes(reading)


def subject_of(text: str) -> "Subject":
    """The subject that a command line names.

    Raises: InputError if there is none.
    """
    from metamodel.subjects.interchange import resolve

    return resolve(text, read_zoo=subject_in)


def shown_of(subject: str, file: str | None) -> "Shown | None":
    """Prompts of a file, or of the zoo that the subject is in; None for neither.

    Raises: InputError for a file that holds none.
    """
    from pathlib import Path

    from metamodel.circuits.prompt_file import read_prompts
    from metamodel.features.view import Shown
    from metamodel.triples.store import Zoo

    if file is not None:
        prompts = read_prompts(Path(file))
        return Shown(tokens=prompts.clean, position=prompts.position)
    folder, mark, identity = subject.rpartition("#")
    if not mark:
        return None
    behavior = Zoo.open(folder).triple(identity).behavior
    return Shown(tokens=behavior.shown_tokens, position=behavior.shown_position)


def subject_in(folder: str, identity: str) -> "Subject":
    """A subject of a zoo. Raises: InputError without that zoo, or that subject in it."""
    from metamodel.triples.store import Zoo

    return Zoo.open(folder).subject(identity)


def show(reading: "Reading") -> None:
    """Prints the heads with their labels' probabilities, and every component's circuit membership."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 30 + 12 * len(reading.labels)))
    table = Table(title=f"{reading.subject}: probability of each function", title_justify="left")
    table.add_column("component", no_wrap=True)
    table.add_column("in circuit", justify="right")
    for label in reading.labels:
        table.add_column(label.replace("_", " "), justify="right")
    table.caption = f"program: {reading.algorithm} ({_cell(reading.algorithm_probability)})"
    for i, node in enumerate(reading.nodes):
        cells = [_cell(value) for value in reading.probabilities[i].tolist()]
        table.add_row(node.name, _cell(float(reading.in_circuit[i])), *cells)
    console.print(table)


def show_notes(reading: "Reading") -> None:
    """Prints what a user must know before believing the numbers."""
    sys.stdout.write("".join(f"note: {note}\n" for note in reading.notes))


def _cell(value: float) -> str:
    if value != value:
        return ""
    return f"[bold]{value:.2f}[/]" if value >= LIKELY else f"{value:.2f}"


if __name__ == "__main__":
    run_command(main)
