"""Builds a zoo of edits: subjects that answer whole domains, and edits of them whose truth is known.

    python -m data_gen.episodes --config configs/edits/small.yaml

A shard is a pure function of (configuration, shard number), and one that is there is skipped.
"""

from collections.abc import Sequence

from data_gen.builder_command import Build, Describe, run_builder
from data_gen.episodes.config import EditZooConfig
from metamodel.config.command import run_command


def main(arguments: Sequence[str]) -> None:
    run_builder(
        arguments,
        prog="data_gen.episodes",
        description="Builds a zoo of edits.",
        config_class=EditZooConfig,
        load=_load,
    )


def _load() -> tuple[Build, Describe]:
    from data_gen.episodes.build import build, described

    return build, described


if __name__ == "__main__":
    run_command(main)
