"""Builds a zoo of students: subjects that are trained to compute like others.

    python -m data_gen.student --config configs/student/small.yaml

Every teacher gets one student an arm, which begin alike and see the same prompts. `benchmarks/students.py`
measures them, with exact edges on prompts that were held out.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_gen.student.config import StudentConfig
from metamodel.config import require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_config


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.student", description="Builds a zoo of students.")
    parser.add_argument("--out", type=str, default=None, help="folder of the zoo; by default data/<name>")
    config, options = parse_config(parser, StudentConfig, arguments)
    out = Path(options.out or f"data/{config.name}")
    require(
        not (out / "students.json").exists(),
        str(out),
        expected="a new folder",
        got="a zoo of students",
        do="Remove it, or give another --out: nothing is overwritten.",
    )
    from data_gen.student.build import build_students, show

    began = time.monotonic()
    zoo = build_students(config, out, progress=show)
    n, seconds = sum(len(pair.students) for pair in zoo.pairs), int(time.monotonic() - began)
    sys.stdout.write(f"{out} holds {n} students of {len(zoo.pairs)} teachers. ")
    sys.stdout.write(f"This run took {seconds // 60}:{seconds % 60:02d}. Measure them with:\n")
    sys.stdout.write(f"  python benchmarks/students.py {out}\n")


if __name__ == "__main__":
    run_command(main)
