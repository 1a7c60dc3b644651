"""Looks for a named pattern in a subject: which components play its roles, or the edge that is missing.

    python -m metamodel.find PATTERN SUBJECT --prompts FILE [--json]

PATTERN is induction, mover_with_inhibition, copying or lookup. SUBJECT is a folder in transformers' format, a
name on the hub, or ZOO#ID. Prompts are JSON lines of token ids, as for `metamodel.circuit`; the pattern is
looked for in the exact circuit on them.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from metamodel.analogy.patterns import Found

SHOWN = 10
"""Most embeddings that are printed; the JSON holds all that were listed."""


def main(arguments: list[str]) -> None:
    """Prints a verdict and the embeddings, or JSON."""
    parser = command_parser(prog="metamodel.find", description=__doc__ or "")
    parser.add_argument("pattern", type=str, help="name of a pattern")
    parser.add_argument("subject", type=str, help="folder in transformers' format, hub name, or ZOO#ID")
    parser.add_argument("--prompts", type=str, required=True, help="JSON lines of token ids")
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    options = parse_options(parser, arguments)
    from metamodel.analogy.patterns import pattern_named
    from metamodel.circuits.prompt_file import read_prompts
    from metamodel.finding import find_pattern
    from metamodel.read import subject_of

    pattern = pattern_named(options.pattern)
    prompts = read_prompts(Path(options.prompts))
    found = find_pattern(pattern, subject_of(options.subject), prompts)
    if options.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
        return
    sys.stdout.write(f"{pattern.says}\n")
    show(found)


def show(found: "Found") -> None:
    """Prints the verdict, and every way in which components play the roles."""
    sys.stdout.write(f"{found.describe()}\n")
    for roles in found.embeddings[1:SHOWN]:
        sys.stdout.write("also: " + "; ".join(f"{role} {name}" for role, name in roles.items()) + "\n")
    sys.stdout.write(f"strength {found.strength:.2f}, where 1 is asked for\n")


if __name__ == "__main__":
    run_command(main)
