"""Checks a zoo: hashes, schema, shapes, finite weights, identities, and answers against the stored ones.

    python -m data_gen.verify data/small

Prints one line a problem and exits with 2 if there is any.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from metamodel.config import require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options

N_MEASURED = 8
"""Subjects whose answers are measured again, by default."""


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.verify", description="Checks that a zoo is whole.")
    parser.add_argument("folder", type=str, help="folder of the zoo")
    parser.add_argument("--measured", type=int, default=N_MEASURED, help="subjects that are run again")
    options = parse_options(parser, arguments)
    require(options.measured >= 0, "--measured", expected="at least 0", got=options.measured, do="Try 8.")
    from data_gen.checks import problems
    from metamodel.triples.manifest import read_manifest

    folder, n_problems = Path(options.folder), 0
    for problem in problems(folder, n_measured=options.measured):
        sys.stdout.write(f"{problem}\n")
        n_problems += 1
    if n_problems:
        sys.stderr.write(f"{folder}: {n_problems} problems\n")
        raise SystemExit(2)
    manifest = read_manifest(folder)
    triples = sum(len(record.accepted) for record in manifest.shards)
    accepted = sum(record.n_subjects for record in manifest.shards)
    rejected = sum(len(record.rejected) for record in manifest.shards)
    measured = min(options.measured, accepted)
    sys.stdout.write(
        f"{folder}: ok, {manifest.n_shards} shards, {triples} triples of {accepted} subjects "
        f"({rejected} rejected), {measured} measured again, fingerprint {manifest.fingerprint[:12]}\n"
    )


if __name__ == "__main__":
    run_command(main)
