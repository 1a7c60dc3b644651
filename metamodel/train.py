"""Trains a meta-model and evaluates it beside its baselines: the main job, a function reader by default.

    python -m metamodel.train [--config configs/function/small.yaml] [--optim.lr 1e-3 ...]
    python -m metamodel.train --config configs/editing/small.yaml

Builds the zoo if it is missing, trains, scores held-out subjects, and leaves a checkpoint in
`OUT/NAME/TIME/checkpoint/`. An interrupted run goes on when the same command is given again. Torch is
imported only after the arguments are understood.
"""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.editing import EditingConfig
from metamodel.config.errors import InputError, require
from metamodel.config.function import FunctionConfig
from metamodel.config.parser import command_parser, parse_config, plain

if TYPE_CHECKING:
    from data_gen.config import ZooConfig
    from metamodel.features.examples import Example
    from metamodel.training.checkpoint import FunctionCheckpoint
    from metamodel.training.companions import Companions
    from metamodel.triples.edit_store import EditZoo
    from metamodel.triples.manifest import Manifest
    from metamodel.triples.splits import Splits
    from metamodel.triples.store import Zoo

DEFAULT = "configs/function/small.yaml"


def main(arguments: list[str]) -> None:
    """Trains, evaluates, and prints the table and the paths."""
    parser = command_parser(prog="metamodel.train", description=__doc__ or "")
    command = shlex.join(["python", "-m", "metamodel.train", *arguments])
    if trains_an_editor(arguments):
        editing, _ = parse_config(parser, EditingConfig, arguments)
        zoo = edit_zoo_of(editing)
        from metamodel.train_editor import train_editor

        train_editor(editing, zoo, command=command)
        return
    default = DEFAULT if Path(DEFAULT).is_file() else None
    config, _ = parse_config(parser, FunctionConfig, arguments, default_file=default)
    train(config, command=command)


def trains_an_editor(arguments: Sequence[str]) -> bool:
    """Whether the configuration's file says `kind: editing`."""
    named = [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    named += [after for word, after in pairwise(arguments) if word == "--config"]
    files = [Path(name) for name in named if Path(name).is_file()]
    return any(re.search(r"^kind: *editing *$", file.read_text(), re.MULTILINE) for file in files)


def train(config: FunctionConfig, *, command: str) -> Path:
    """The main job. Returns the folder of the checkpoint.

    Args:
        command: what the card says to run to do it again.

    Raises:
        InputError: on a zoo that cannot be used.
        KeyboardInterrupt: when interrupted. What is finished is kept.
    """
    zoo = zoo_of(config)
    from metamodel.training.agreement import with_agreement
    from metamodel.training.checkpoint import FunctionCheckpoint, save
    from metamodel.training.companions import train_companions
    from metamodel.training.fit import fit
    from metamodel.training.run_folder import CHECKPOINT, claim_folder
    from metamodel.triples.splits import make_splits

    s = config.splits
    splits = make_splits(
        zoo.rows,  # pyright: ignore[reportArgumentType]
        seed=s.seed,
        validation_fraction=s.validation_fraction,
        test_fraction=s.test_fraction,
    )
    folder, _held = claim_folder(config, zoo.fingerprint)
    examples = _examples(zoo, splits, config)
    examples["train"] = with_agreement(zoo, examples["train"])

    def made(
        wanted: FunctionConfig, train: "Sequence[Example]", validation: "Sequence[Example]", name: str
    ) -> FunctionCheckpoint:
        reader, slice_names, algorithms = fit(
            wanted, train, validation, labels=zoo.labels, folder=folder / name if name else folder
        )
        return FunctionCheckpoint(
            reader=reader,
            labels=zoo.labels,
            track=wanted.track,
            slice_names=slice_names,
            algorithms=algorithms,
            zoo={"name": zoo.name, "folder": config.zoo, "fingerprint": zoo.fingerprint},
            splits=splits,
            training=plain(wanted),
        )

    checkpoint = made(config, examples["train"], examples["validation"], "")
    save(checkpoint, folder / CHECKPOINT)
    beside = train_companions(config, examples["train"], examples["validation"], zoo.labels, made)
    beside.save(folder / CHECKPOINT)
    _report(config, checkpoint, beside, zoo, examples, folder / CHECKPOINT, command)
    return folder / CHECKPOINT


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
    from metamodel.triples.manifest import MANIFEST, read_manifest

    folder = Path(config.zoo)
    there = (folder / MANIFEST).is_file() and read_manifest(folder, build=BUILD).finished
    if not there:
        require(
            bool(config.zoo_config),
            str(folder),
            expected="a finished zoo of edits",
            got="none" if not folder.exists() else "an unfinished one",
            do="Build it with `python -m data_gen.episodes`, or name its configuration as zoo_config.",
        )
        from data_gen.episodes.build import build
        from data_gen.episodes.config import EditZooConfig

        parser = command_parser(prog="data_gen.episodes", description="")
        wanted = parse_config(parser, EditZooConfig, ["--config", config.zoo_config])[0]
        build(wanted, folder, progress=config.trainer.progress)
    return EditZoo.open(folder)


def _zoo_config(file: str) -> "ZooConfig":
    from data_gen.config import ZooConfig

    parser = command_parser(prog="data_gen.build", description="")
    return parse_config(parser, ZooConfig, ["--config", file])[0]


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


def _examples(zoo: "Zoo", splits: "Splits", config: FunctionConfig) -> "dict[str, list[Example]]":
    """Examples of every split, with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from metamodel.training.examples import examples_of

    ids = {"train": splits.train, "validation": splits.validation, **splits.tests}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not config.trainer.progress, transient=True) as progress:
        bar = progress.add_task("describing subjects", total=sum(map(len, ids.values())))

        def done(_: str) -> None:
            progress.advance(bar)

        return {name: examples_of(zoo, of, config.track, progress=done) for name, of in ids.items()}


def _report(
    config: FunctionConfig,
    checkpoint: "FunctionCheckpoint",
    beside: "Companions",
    zoo: "Zoo",
    examples: "dict[str, list[Example]]",
    where: Path,
    command: str,
) -> None:
    """Scores all methods, writes numbers, card and pictures beside the network, prints table and paths."""
    from metamodel.baselines import opponents
    from metamodel.evaluation import report as reports
    from metamodel.evaluation.card import CardFacts, Pictures, write_card
    from metamodel.evaluation.card_tables import counts
    from metamodel.evaluation.ceiling import noise_ceiling
    from metamodel.evaluation.controls import controls, save_controls, show_controls
    from metamodel.evaluation.curves import CURVES, draw_curves
    from metamodel.evaluation.evaluate import evaluate
    from metamodel.evaluation.figure import FIGURE, draw
    from metamodel.evaluation.terminal import report_console, show

    say = _said(config.trainer.progress)
    tests = {name: of for name, of in examples.items() if name not in ("train", "validation")}
    evaluation = evaluate(
        checkpoint.predict,
        train=examples["train"],
        validation=examples["validation"],
        tests=tests,
        labels=[label.name for label in checkpoint.labels],
        determined=checkpoint.determined,
        command=command,
        zoo=f"{checkpoint.zoo['name']} {checkpoint.zoo['fingerprint']}",
        seed=config.bootstrap_seed,
        readers=opponents(config.track),
        ceiling=noise_ceiling(zoo, [seen for of in tests.values() for seen, _ in of]),
        beside=beside,
        progress=say,
    )
    say("reading untrained copies")
    found = controls(
        checkpoint.predict,
        zoo,
        tests,
        config.track,
        undetermined=checkpoint.undetermined,
        seed=config.bootstrap_seed,
    )
    reports.save(evaluation.report, where)
    save_controls(found, where)
    draw(evaluation, where / FIGURE)
    drawn = draw_curves(where.parent, where / CURVES)
    facts = CardFacts(
        name=config.name,
        track=config.track,
        labels=checkpoint.labels,
        config=checkpoint.training,
        counts={name: counts([truth for _, truth in of]) for name, of in examples.items()},
    )
    pictures = Pictures(results=FIGURE, curves=CURVES if drawn else None)
    write_card(where, evaluation.report, facts, pictures=pictures, controls=found)
    console = report_console()
    show(evaluation.report, console)
    show_controls(found, console)
    _print_paths(
        [("checkpoint", where), ("card", where / "README.md"), ("curves", where.parent), ("zoo", config.zoo)]
    )


def _said(progress: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if progress:
            sys.stderr.write(f"{text}\n")

    return say


def _print_paths(paths: Sequence[tuple[str, object]]) -> None:
    sys.stdout.write("".join(f"{name:<12}{path}\n" for name, path in paths))


if __name__ == "__main__":
    run_command(main)
