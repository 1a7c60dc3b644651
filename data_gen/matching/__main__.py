"""Builds a zoo of pairs of circuits whose correspondence is known by construction.

    python -m data_gen.matching --config configs/pairs/small.yaml

The subjects are those of a zoo of triples, see `data_gen.build`. A shard is a pure function of
(configuration, that zoo, shard number), and one that is there is skipped.
"""

from collections.abc import Sequence

from data_gen.builder_command import Build, Describe, run_builder
from data_gen.matching.config import PairZooConfig
from metamodel.config.command import run_command


def main(arguments: Sequence[str]) -> None:
    run_builder(
        arguments,
        prog="data_gen.matching",
        description="Builds a zoo of pairs of circuits.",
        config_class=PairZooConfig,
        load=_load,
    )


def _load() -> tuple[Build, Describe]:
    from data_gen.matching.build import build, described

    return build, described


if __name__ == "__main__":
    run_command(main)
