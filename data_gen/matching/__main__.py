"""Builds a zoo of pairs of circuits whose correspondence is known by construction.

    python -m data_gen.matching --config configs/pairs/small.yaml

The subjects are those of a zoo of triples, see `data_gen.build`. A shard is a pure function of
(configuration, that zoo, shard number), and one that is there is skipped.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_gen.build import parse_share
from data_gen.matching.config import PairZooConfig
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_config


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="data_gen.matching", description="Builds a zoo of pairs of circuits.")
    parser.add_argument("--out", type=str, default=None, help="folder of the zoo; by default data/<name>")
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one for each core")
    parser.add_argument(
        "--shard", type=str, default="0/1", help="k/n builds every n-th shard from the k-th on"
    )
    config, options = parse_config(parser, PairZooConfig, arguments)
    shards = parse_share(options.shard)
    out = Path(options.out or f"data/{config.name}")
    from data_gen.matching.build import build, described

    began = time.monotonic()
    if build(config, out, workers=options.workers, shards=shards):
        sys.stdout.write(described(out))
        seconds = int(time.monotonic() - began)
        sys.stdout.write(f"\n{out}: this run took {seconds // 60}:{seconds % 60:02d}.\n")
    else:
        sys.stdout.write(f"{out}: some shards miss; the last build completes the zoo.\n")


if __name__ == "__main__":
    run_command(main)
