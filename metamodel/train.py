"""Trains a meta-model and evaluates it beside its baselines: the main job, a function reader by default.

    python -m metamodel.train [--config configs/function/small.yaml] [--optim.lr 1e-3 ...]
    python -m metamodel.train --config configs/editing/small.yaml
    python -m metamodel.train --config configs/matching/small.yaml

Builds the zoo if it is missing, trains, scores held-out subjects, and leaves a checkpoint in
`OUT/NAME/TIME/checkpoint/`. An interrupted run goes on when the same command is given again. Torch is
imported only after the arguments are understood.
"""

import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from metamodel.config.command import run_command
from metamodel.config.editing import EditingConfig
from metamodel.config.errors import InputError, require
from metamodel.config.function import FunctionConfig
from metamodel.config.matching import MatchingConfig
from metamodel.config.parser import command_parser, parse_config, plain

if TYPE_CHECKING:
    from data_gen.config import ZooConfig
    from metamodel.analogy.pair_store import PairZoo
    from metamodel.triples.edit_store import EditZoo
    from metamodel.triples.manifest import Manifest
    from metamodel.triples.store import Zoo

Config = TypeVar("Config")
DEFAULT = "configs/function/small.yaml"


def main(arguments: list[str]) -> None:
    """Trains, evaluates, and prints the table and the paths."""
    parser = command_parser(prog="metamodel.train", description=__doc__ or "")
    command = shlex.join(["python", "-m", "metamodel.train", *arguments])
    match kind_of_job(arguments):
        case "editing":
            editing, _ = parse_config(parser, EditingConfig, arguments)
            edits = edit_zoo_of(editing)
            from metamodel.train_editor import train_editor

            train_editor(editing, edits, command=command)
        case "matching":
            matching, _ = parse_config(parser, MatchingConfig, arguments)
            pairs = pair_zoo_of(matching)
            from metamodel.train_matcher import train_matcher

            train_matcher(matching, pairs, command=command)
        case _:
            default = DEFAULT if Path(DEFAULT).is_file() else None
            config, _ = parse_config(parser, FunctionConfig, arguments, default_file=default)
            zoo = zoo_of(config)
            from metamodel.train_function import train_function

            train_function(config, zoo, command=command)


def kind_of_job(arguments: Sequence[str]) -> str:
    """What the configuration's file says under `kind`: `editing`, `matching`, or nothing for reading."""
    named = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    named += [after for word, after in pairwise(arguments) if word == "--config"]
    files = [Path(name) for name in named if Path(name).is_file()]
    said = [_kind_in(file) for file in files]
    return next((kind for kind in said if kind in ("editing", "matching")), "")


def _kind_in(file: Path) -> str:
    """What a file of YAML says under `kind`; nothing for what its own reader will refuse."""
    try:
        held = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return ""
    return str(held.get("kind", "")) if isinstance(held, dict) else ""


def zoo_of(config: FunctionConfig) -> "Zoo":
    """The zoo, built first where it is missing or unfinished and a configuration for it is given.

    A finished zoo of another configuration is used, with a note: it may be a user's own.

    Raises: InputError if it cannot be opened or built.
    """
    from metamodel.triples.manifest import MANIFEST, read_manifest
    from metamodel.triples.store import Zoo

    folder = Path(config.zoo)
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    if manifest is not None and manifest.finished:
        if note := _departure(folder, manifest, config.zoo_config):
            sys.stderr.write(f"note: {note}\n")
    else:
        require(
            bool(config.zoo_config),
            str(folder),
            expected="a finished zoo",
            got="none" if not folder.exists() else "an unfinished one",
            do="Build it with `python -m data_gen.build`, or name its configuration as zoo_config.",
        )
        # the one place where the library calls the workshop, and only for a zoo that is not there yet
        from data_gen.build import build

        build(_zoo_config(config.zoo_config), folder, progress=config.trainer.progress)
    return Zoo.open(folder)


def edit_zoo_of(config: EditingConfig) -> "EditZoo":
    """The zoo of edits, built first where it is missing or unfinished and a configuration for it is given.

    Raises: InputError if it cannot be opened or built.
    """
    from metamodel.triples.edit_store import BUILD, EditZoo

    if _is_missing(config, "a finished zoo of edits", "data_gen.episodes", BUILD):
        from data_gen.episodes.build import build
        from data_gen.episodes.config import EditZooConfig

        wanted = _parsed(config.zoo_config, EditZooConfig, "data_gen.episodes")
        build(wanted, Path(config.zoo), progress=config.trainer.progress)
    return EditZoo.open(Path(config.zoo))


def pair_zoo_of(config: MatchingConfig) -> "PairZoo":
    """The zoo of pairs, built first where it is missing or unfinished and a configuration for it is given.

    Raises: InputError if it cannot be opened or built.
    """
    from metamodel.analogy.pair_store import BUILD, PairZoo

    if _is_missing(config, "a finished zoo of pairs", "data_gen.matching", BUILD):
        from data_gen.matching.build import build
        from data_gen.matching.config import PairZooConfig

        wanted = _parsed(config.zoo_config, PairZooConfig, "data_gen.matching")
        build(wanted, Path(config.zoo), progress=config.trainer.progress)
    return PairZoo.open(Path(config.zoo), described_by=config.matcher.described_by)


def _is_missing(config: EditingConfig | MatchingConfig, expected: str, command: str, build: str) -> bool:
    """Whether the zoo must be built. Raises: InputError where it must and nothing says from what."""
    from metamodel.triples.manifest import MANIFEST, read_manifest

    folder = Path(config.zoo)
    there = (folder / MANIFEST).is_file() and read_manifest(folder, build=build).finished
    require(
        there or bool(config.zoo_config),
        str(folder),
        expected=expected,
        got="none" if not folder.exists() else "an unfinished one",
        do=f"Build it with `python -m {command}`, or name its configuration as zoo_config.",
    )
    return not there


def _parsed(file: str, config_class: type[Config], command: str) -> Config:
    parser = command_parser(prog=command, description="")
    return parse_config(parser, config_class, ["--config", file])[0]


def _zoo_config(file: str) -> "ZooConfig":
    from data_gen.config import ZooConfig

    return _parsed(file, ZooConfig, "data_gen.build")


def _departure(folder: Path, manifest: "Manifest", zoo_config: str) -> str:
    """What to say of a finished zoo that is not the one which `zoo_config` describes; empty if it is."""
    from metamodel.triples.building import differences

    if not Path(zoo_config).is_file():  # empty, or the default, away from this project's folder
        return ""
    try:
        keys = differences(manifest.config, plain(_zoo_config(zoo_config)))
    except InputError as error:  # the zoo is there, so that nothing needs this file
        return f"{folder} is used as it is, without comparing it with {zoo_config}. {error}"
    if not keys:
        return ""
    return (
        f"{folder} was built from another configuration than {zoo_config} ({', '.join(keys)} differ) "
        "and is used as it is. To build that one, name another folder with --zoo."
    )


if __name__ == "__main__":
    run_command(main)
