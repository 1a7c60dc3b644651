"""The main job of reading: trains a function reader, scores it beside its baselines, leaves a checkpoint."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metamodel.baselines import opponents
from metamodel.config.function import FunctionConfig
from metamodel.config.parser import plain
from metamodel.evaluation import report as reports
from metamodel.evaluation.card import CardFacts, Pictures, write_card
from metamodel.evaluation.card_tables import counts
from metamodel.evaluation.ceiling import noise_ceiling
from metamodel.evaluation.controls import controls, save_controls, show_controls
from metamodel.evaluation.curves import CURVES, draw_curves
from metamodel.evaluation.evaluate import evaluate
from metamodel.evaluation.figure import FIGURE, draw
from metamodel.evaluation.terminal import report_console, said, show
from metamodel.features.examples import Example
from metamodel.training.agreement import with_agreement
from metamodel.training.checkpoint import FunctionCheckpoint, save
from metamodel.training.companions import Companions, train_companions
from metamodel.training.examples import examples_of
from metamodel.training.fit import fit
from metamodel.training.run_folder import CHECKPOINT, claim_folder
from metamodel.triples.splits import Splits, make_splits
from metamodel.triples.store import Zoo


def train_function(config: FunctionConfig, zoo: Zoo, *, command: str) -> Path:
    """The main job. Returns the folder of the checkpoint.

    Args:
        command: what the card says to run to do it again.

    Raises:
        InputError: on a zoo that cannot be used.
        KeyboardInterrupt: when interrupted. What is finished is kept.
    """

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
        wanted: FunctionConfig, train: Sequence[Example], validation: Sequence[Example], name: str
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


def _examples(zoo: Zoo, splits: Splits, config: FunctionConfig) -> dict[str, list[Example]]:
    """Examples of every split, with a progress bar."""

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
    checkpoint: FunctionCheckpoint,
    beside: Companions,
    zoo: Zoo,
    examples: dict[str, list[Example]],
    where: Path,
    command: str,
) -> None:
    """Scores all methods, writes numbers, card and pictures beside the network, prints table and paths."""

    say = said(config.trainer.progress)
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


def _print_paths(paths: Sequence[tuple[str, object]]) -> None:
    sys.stdout.write("".join(f"{name:<12}{path}\n" for name, path in paths))
