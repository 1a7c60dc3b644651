"""Options of `python -m metamodel.evaluate`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from metamodel.config.errors import require_one_of
from metamodel.config.parser import command_parser, parse_options
from metamodel.config.words import TEST_SPLITS

SPLITS = (*TEST_SPLITS, "edit", "kind")
"""The last two are of editors: new edits of training subjects, and kinds of edits never trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated, on what."""

    checkpoint: str
    """Folder of a function reader or an editor, or its name on the hub."""
    zoo: str | None = None
    """Folder of a zoo; the one that the checkpoint was trained on where none is given."""
    split: str | None = None
    """The only split to score; all where none is given."""
    json: bool = False
    """Whether to print metrics.json's form instead of tables."""


def evaluate_options(arguments: Sequence[str], *, description: str) -> EvaluateOptions:
    """The command line, understood.

    Raises: InputError on a mistake.
    """
    parser = command_parser(prog="metamodel.evaluate", description=description)
    parser.add_argument("checkpoint", type=str, help="folder of a reader or an editor, or its name")
    parser.add_argument("--zoo", type=str, help="folder of a zoo, by default the one that it was trained on")
    parser.add_argument("--split", type=str, help=f"one of {', '.join(SPLITS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print metrics.json's form instead of tables")
    given = parse_options(parser, arguments)
    if given.split is not None:
        require_one_of(given.split, SPLITS, "--split")
    return EvaluateOptions(checkpoint=given.checkpoint, zoo=given.zoo, split=given.split, json=given.json)
