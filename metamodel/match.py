"""Maps the circuit of one subject onto that of another, and says where the analogy breaks down.

    python -m metamodel.match CHECKPOINT SUBJECT_A SUBJECT_B [--prompts FILE] [--prompts-b FILE] [--out DIR]
        [--transplant] [--json]

A subject is ZOO#ID, a folder in transformers' format, or a name on the hub. A triple of a zoo holds its
circuit; of any other subject every edge is patched on prompts, JSON lines of token ids with `clean`,
`corrupt`, `answer` and `corrupt_answer`: --prompts for both subjects, or for the first one where --prompts-b
is given. With --transplant, what components write is exchanged along the map, the first pair, the first two
together and so on, on prompts of the second subject: 1 where they do all of each other's work.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.errors import InputError, require
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from metamodel.mapping import Mapping
    from metamodel.matching import Behaving
    from metamodel.triples.schema import Triple

JSON, PICTURE = "mapping.json", "mapping.png"


def main(arguments: list[str]) -> None:
    """Prints a table, or JSON."""
    parser = command_parser(prog="metamodel.match", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of a matcher, or its name on the hub")
    parser.add_argument("first", type=str, help="folder in transformers' format, hub name, or ZOO#ID")
    parser.add_argument("second", type=str, help="the subject that it is mapped to")
    parser.add_argument("--prompts", type=str, default=None, help="JSON lines of token ids")
    parser.add_argument("--prompts-b", type=str, default=None, help="those of the second, if they differ")
    parser.add_argument("--out", type=str, default=None, help=f"new folder for {JSON} and {PICTURE}")
    parser.add_argument(
        "--transplant", action="store_true", help="exchange components along the map: runs both subjects"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parse_options(parser, arguments)
    folder = None if options.out is None else Path(options.out)
    require(
        folder is None or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        "--out",
        expected="a new or an empty folder",
        got=options.out,
        do="Choose another one: nothing is overwritten.",
    )
    from metamodel.matching import SubjectMatcher

    matcher = SubjectMatcher.from_pretrained(options.checkpoint)
    first = resolved(options.first, options.prompts, "--prompts")
    second = resolved(options.second, options.prompts_b or options.prompts, "--prompts-b")
    mapping = matcher.match(first, second, transplant=options.transplant)
    if options.json:
        sys.stdout.write(mapping.to_json() + "\n")
    else:
        show(mapping, options.first, options.second)
    if folder is not None:
        write(mapping, folder)
        sys.stderr.write(f"written: {folder / JSON}, {folder / PICTURE}\n")


def resolved(text: str, prompts: str | None, option: str) -> "Behaving | Triple":
    """A subject with its behavior: a triple of a zoo, unless prompts are given.

    Raises: InputError where neither says which behavior is meant.
    """
    from metamodel.circuits.prompt_file import read_prompts
    from metamodel.matching import Behaving
    from metamodel.read import subject_in
    from metamodel.subjects.interchange import resolve
    from metamodel.triples.store import Zoo

    if prompts is not None:
        return Behaving(subject=resolve(text, read_zoo=subject_in), prompts=read_prompts(Path(prompts)))
    zoo, mark, identity = text.rpartition("#")
    require(
        bool(mark),
        option,
        expected="prompts of the behavior whose circuit is meant",
        got=f"none, and {text} is no ZOO#ID",
        do="Give a file of JSON lines; `python -m data_gen.prompts ZOO#ID` writes some.",
    )
    return Zoo.open(zoo).triple(identity)


def show(mapping: "Mapping", first: str, second: str) -> None:
    """Prints pairs in the order in which the map grows, what is left over, and where it breaks down."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 110))
    table = Table(title=f"{first} -> {second}", title_justify="left")
    for name in ("component", "counterpart"):
        table.add_column(name, no_wrap=True)
    together = mapping.transplants
    for name in ("confidence", "gain", *(("transplant",) if together is not None else ())):
        table.add_column(name, justify="right")
    table.add_column("why")
    for k, pair in enumerate(mapping.pairs):
        numbers = [f"{pair.confidence:.2f}", f"{pair.gain:+.3f}"]
        if together is not None:
            numbers.append("-" if together[k] != together[k] else f"{together[k]:.2f}")
        table.add_row(pair.first, pair.second, *numbers, pair.why)
    console.print(table)
    for name, left in (("first", mapping.unmatched_first), ("second", mapping.unmatched_second)):
        sys.stdout.write(f"no counterpart, {name}: {', '.join(left) or 'none'}\n")
    null = (
        ""
        if mapping.null_share != mapping.null_share
        else f"; {mapping.null_share:.0%} of unrelated pairs below"
    )
    broken = f"; next would be {mapping.broken_by}" if mapping.broken_by else ""
    if mapping.contradiction:
        sys.stdout.write(f"first contradiction: {mapping.contradiction}\n")
    sys.stdout.write(
        f"the analogy holds for {mapping.breakdown} pairs{broken}\n"
        f"presence {mapping.score:+.2f} (logit){null}; edges reach {mapping.edge_share:.0%} of what those "
        "of equal circuits would\n"
    )


def write(mapping: "Mapping", folder: Path) -> None:
    """Raises: InputError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON).write_text(mapping.to_json() + "\n")
        mapping.plot().savefig(folder / PICTURE, dpi=150)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            str(folder), expected="a folder to write to", got=reason, do="Choose another --out."
        ) from error


if __name__ == "__main__":
    run_command(main)
