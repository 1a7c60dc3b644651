"""Edits a subject as a specification asks, by a trained editor, and writes the edited network and a report.

    python -m metamodel.edit CHECKPOINT SUBJECT --spec FILE --out DIR [--alpha 1.0] [--donor SUBJECT] [--json]

SUBJECT is a folder in transformers' format, a name on the hub, or ZOO#ID, also of a zoo of edits. FILE is
YAML or JSON, as of `metamodel.triples.edit_spec`. DIR then holds the network, as GPT-2 of transformers where
it has that form, and report.md. What the editor forecasts to fail is refused without --force.
"""

import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.errors import InputError, require
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from metamodel.subjects.subject import Subject

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
"""Files of a folder that go along with its edited network."""
REPORT, SPEC = "report.md", "spec.yaml"


def main(arguments: list[str]) -> None:
    """Prints a summary, or JSON."""
    parser = command_parser(prog="metamodel.edit", description=__doc__ or "")
    parser.add_argument("checkpoint", type=str, help="folder of an editor, or its name on the hub")
    parser.add_argument("subject", type=str, help="folder in transformers' format, hub name, or ZOO#ID")
    parser.add_argument("--spec", type=str, required=True, help="YAML or JSON file: what is wanted")
    parser.add_argument("--out", type=str, required=True, help="new folder for the network and report.md")
    parser.add_argument("--alpha", type=float, default=1.0, help="factor of the change, any finite number")
    parser.add_argument("--donor", type=str, help="subject whose answers are wanted, of `transplant`")
    parser.add_argument(
        "--no-repair", action="store_true", help="take no component for damaged: the subject is sound"
    )
    parser.add_argument("--force", action="store_true", help="apply what the editor forecasts to fail")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a summary")
    options = parse_options(parser, arguments)
    folder = Path(options.out)
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        "--out",
        expected="a new or an empty folder",
        got=options.out,
        do="Choose another one: nothing is overwritten.",
    )
    alpha = options.alpha
    require(math.isfinite(alpha), "--alpha", expected="a finite number", got=alpha, do="Use 1 for the whole.")
    from metamodel.edit_report import EditReport
    from metamodel.editing import SubjectEditor
    from metamodel.subjects.interchange import resolve
    from metamodel.triples.edit_spec import EditSpec

    spec = EditSpec.load(options.spec)
    editor = SubjectEditor.from_pretrained(options.checkpoint)
    subject = resolve(options.subject, read_zoo=subject_in)
    donor = None if options.donor is None else resolve(options.donor, read_zoo=subject_in)
    proposal = editor.propose(subject, spec, donor=donor, repair=not options.no_repair)
    edited = proposal.apply(alpha, force=options.force)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        written = write(edited, partial, like=options.subject)
        report = EditReport(
            proposal=proposal,
            spec=spec,
            alpha=alpha,
            written=written,
            arguments=arguments,
            shown=proposal.preview(alpha),
        )
        (partial / REPORT).write_text(report.markdown())
        spec.save(partial / SPEC)
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            str(folder), expected="a folder to write to", got=reason, do="Choose another --out."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if options.json:
        sys.stdout.write(proposal.to_json(alpha) + "\n")
    else:
        sys.stdout.write("\n".join(report.summary()) + "\n")
    sys.stderr.write(f"{written} Written: {folder}, {folder / REPORT}\n")


def write(edited: "Subject", folder: Path, *, like: str) -> str:
    """Writes the network in the format that it came in, and says which that is.

    Args:
        like: what the command line named; subjects of zoos become GPT-2 where they have that form.
    """
    from metamodel.subjects.interchange import save_own, to_transformers
    from metamodel.subjects.interchange.own import CONFIG, is_own

    source = Path(like).expanduser()
    if "#" not in like and is_own(source):
        save_own(edited, folder)
        return f"The network is in our own format ({CONFIG}), as it came."
    try:
        to_transformers(edited, folder)
    except InputError as error:
        save_own(edited, folder)
        return f"The network is in our own format ({CONFIG}), for it has no GPT-2 form: {error.where}."
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    return "The network is a GPT-2 in transformers' format."


def subject_in(folder: str, identity: str) -> "Subject":
    """A subject of a zoo, be it of triples or of edits. Raises: InputError without either of them."""
    from metamodel import read
    from metamodel.triples.edit_store import EditZoo, holds_edits

    if holds_edits(folder):
        return EditZoo.open(folder).editable(identity).subject
    return read.subject_in(folder, identity)


if __name__ == "__main__":
    run_command(main)
