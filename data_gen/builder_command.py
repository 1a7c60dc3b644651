"""What all commands that build a zoo in shards have in common. Imports no torch."""

import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from metamodel.config import require
from metamodel.config.parser import command_parser, parse_config

Build = Callable[..., bool]
"""Builds what is missing, called with (configuration, folder, workers=, shards=): is the zoo whole?"""
Describe = Callable[[Path], str]
"""What a finished zoo holds."""


def builder_parser(*, prog: str, description: str) -> ArgumentParser:
    """Takes the folder, the number of workers and the share of shards."""
    parser = command_parser(prog=prog, description=description)
    parser.add_argument("--out", type=str, default=None, help="folder of the zoo; by default data/<name>")
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one for each core")
    parser.add_argument(
        "--shard", type=str, default="0/1", help="k/n builds every n-th shard from the k-th on"
    )
    return parser


def asked(options: Namespace, name: str) -> tuple[Path, tuple[int, int]]:
    """The folder of the zoo of this name, and the share of shards.

    Raises: InputError for a share, or a number of workers, that there is not.
    """
    require(
        options.workers is None or options.workers >= 1,
        "--workers",
        expected="at least 1",
        got=options.workers,
        do="Leave it out for one worker a core.",
    )
    return Path(options.out or f"data/{name}"), parse_share(options.shard)


def run_builder(
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    config_class: type[Any],
    load: Callable[[], tuple[Build, Describe]],
) -> None:
    """Parses, builds and says what there is now.

    Args:
        load: imports what builds, after the arguments were understood.
    """
    config, options = parse_config(
        builder_parser(prog=prog, description=description), config_class, arguments
    )
    out, shards = asked(options, config.name)
    build, describe = load()
    began = time.monotonic()
    if build(config, out, workers=options.workers, shards=shards):
        seconds = int(time.monotonic() - began)
        sys.stdout.write(f"{describe(out)}\n{out}: this run took {seconds // 60}:{seconds % 60:02d}.\n")
    else:
        sys.stdout.write(f"{out}: some shards miss; the last build completes the zoo.\n")


def parse_share(text: str) -> tuple[int, int]:
    """`3/64` as (3, 64).

    Raises: InputError unless it is k/n with 0 <= k < n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    share = (int(found[1]), int(found[2])) if found else (0, 0)
    require(
        share[0] < share[1],
        "--shard",
        expected="k/n with 0 <= k < n",
        got=repr(text),
        do="Give 0/64 … 63/64.",
    )
    return share
