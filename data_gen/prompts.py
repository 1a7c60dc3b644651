"""Writes prompts of the task that a subject of a zoo has learnt: JSON lines, as other commands take them.

    python -m data_gen.prompts data/small#repeated-base-l2h4-medium-0000 --n 64 --out prompts.jsonl

Clean and corrupt prompts, their answers, and where those are read; see `metamodel.circuits.prompt_file`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from metamodel.config import require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_options


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.prompts", description="Writes prompts of a zoo subject's task.")
    parser.add_argument("subject", type=str, help="ZOO#ID")
    parser.add_argument("--out", type=str, required=True, help="file of JSON lines to write")
    parser.add_argument("--n", type=int, default=64, help="prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parse_options(parser, arguments)
    require(options.n >= 1, "--n", expected="at least 1", got=options.n, do="Ask for one prompt or more.")
    folder, hash_sign, identity = options.subject.rpartition("#")
    require(
        bool(hash_sign and folder and identity),
        "subject",
        expected="ZOO#ID",
        got=repr(options.subject),
        do="Write the zoo's folder before # and the subject's id after it.",
    )
    from data_gen.harvesting import task_prompts
    from data_gen.seeds import generator_for
    from data_gen.subject_task import task_of
    from metamodel.circuits.prompt_file import write_prompts
    from metamodel.triples.store import Zoo

    zoo = Zoo.open(folder)
    info = zoo.info(identity)
    task = task_of(info, int(zoo.manifest.config.get("seed", 0)))
    prompts = task_prompts(task, generator_for("prompts", identity, options.seed), options.n)
    write_prompts(prompts, Path(options.out))
    sys.stdout.write(f"{options.out} holds {len(prompts)} prompts of {info.family}. Find the circuit with:\n")
    sys.stdout.write(f"  python -m metamodel.circuit {options.subject} --prompts {options.out}\n")


if __name__ == "__main__":
    run_command(main)
