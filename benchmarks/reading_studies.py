"""What the function reader owes to each of its ingredients, and to the number of subjects it is trained on.

    python benchmarks/reading_studies.py data/medium [--study ablations|scaling] [--epochs 40]

Every variant is one member trained for the same number of epochs on the same subjects, and scored on the same
held-out ones: compare variants with each other, not with the released ensemble. Progress goes to stderr, one
JSON object to stdout: variant -> split -> metric -> value with its interval over lineages.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metamodel.config.command import run_command
from metamodel.config.errors import require
from metamodel.config.function import FunctionConfig, SplitsConfig
from metamodel.config.parser import command_parser, parse_options
from metamodel.features.composition import CHANNELS
from metamodel.features.examples import Example, Seen
from metamodel.features.registry import features_of
from metamodel.training.checkpoint import FunctionCheckpoint

METRICS = ("average_precision", "within_subject_average_precision", "circuit_average_precision")
SIZES = (50, 100, 200, 400)
"""Training triples of the scaling curve, beside all of them."""
EPOCHS = 40

Change = Callable[[Seen], Seen]


def without_prompts(seen: Seen) -> Seen:
    """As if no prompts had been shown."""
    nodes, edges = seen.graph.nodes.clone(), seen.graph.edges.clone()
    asks = [i for i, feature in enumerate(features_of("both")) if feature.asks]
    nodes[:, asks] = 0.0
    nodes[:, -2] = 0.0
    edges[..., [i for i, name in enumerate(CHANNELS) if name.startswith("asked_")]] = 0.0
    return replace(seen, graph=replace(seen.graph, nodes=nodes, edges=edges))


def without_relations(seen: Seen) -> Seen:
    """Which component comes before which is left, and nothing of how they fit."""
    edges = seen.graph.edges.clone()
    edges[..., CHANNELS.index("depth_step") + 1 :] = 0.0
    return replace(seen, graph=replace(seen.graph, edges=edges))


def variants(base: FunctionConfig) -> Mapping[str, tuple[FunctionConfig, Change, bool]]:
    """Configuration, what is taken from subjects, and whether several measurements of a label are used."""
    trunk, plain = base.trunk, lambda seen: seen
    return {
        "whole": (base, plain, True),
        "without the encoder of circuits": (
            replace(base, trunk=replace(trunk, encoder_width=0)),
            plain,
            True,
        ),
        "without prompts": (base, without_prompts, True),
        "without relations": (base, without_relations, True),
        "one measurement of each label": (base, plain, False),
        "one layer": (replace(base, trunk=replace(trunk, n_layers=1)), plain, True),
        "without noise on inputs": (
            replace(base, trunk=replace(trunk, feature_noise=0.0, input_dropout=0.0)),
            plain,
            True,
        ),
    }


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="reading_studies", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of the zoo")
    parser.add_argument(
        "--study", choices=("ablations", "scaling"), default="ablations", help="what is varied"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every variant")
    given = parse_options(parser, arguments)
    require(given.epochs >= 1, "--epochs", expected="at least 1", got=given.epochs, do=f"Try {EPOCHS}.")
    from metamodel.training.agreement import with_agreement
    from metamodel.training.examples import examples_of
    from metamodel.triples.splits import make_splits
    from metamodel.triples.store import Zoo

    zoo, s = Zoo.open(given.zoo), SplitsConfig()
    splits = make_splits(
        zoo.rows,  # pyright: ignore[reportArgumentType]
        seed=s.seed,
        validation_fraction=s.validation_fraction,
        test_fraction=s.test_fraction,
    )
    _say("describing subjects")
    parts = {"train": splits.train, "validation": splits.validation, **splits.tests}
    examples = {name: examples_of(zoo, ids, "both", for_baselines=False) for name, ids in parts.items()}
    agreed = with_agreement(zoo, examples["train"])
    base = FunctionConfig(trainer=replace(FunctionConfig().trainer, progress=False))
    base = replace(
        base, trunk=replace(base.trunk, members=1), training=replace(base.training, epochs=given.epochs)
    )
    found: dict[str, Any] = {}
    if given.study == "ablations":
        for name, (config, change, soft) in variants(base).items():
            _say(name)
            train = agreed if soft else examples["train"]
            found[name] = _scores(zoo, splits, config, {**examples, "train": train}, change)
    else:
        for n in (*(n for n in SIZES if n < len(agreed)), len(agreed)):
            _say(f"{n} triples")
            # as many steps for each, or the small ones would only be trained less
            epochs = round(given.epochs * len(agreed) / n)
            config = replace(base, training=replace(base.training, epochs=epochs))
            found[str(n)] = _scores(
                zoo, splits, config, {**examples, "train": spread(agreed, n)}, lambda x: x
            )
    sys.stdout.write(json.dumps({"study": given.study, "epochs": given.epochs, "variants": found}) + "\n")


def spread(examples: Sequence[Example], n: int) -> list[Example]:
    """`n` of the examples, evenly over the zoo's order, which goes family by family."""
    return [examples[i * len(examples) // n] for i in range(n)]


def _scores(
    zoo: Any, splits: Any, config: FunctionConfig, examples: Mapping[str, Sequence[Example]], change: Change
) -> dict[str, Any]:
    from metamodel.evaluation.bootstrap import interval, resampled_weights
    from metamodel.evaluation.items import Items
    from metamodel.evaluation.measures import measures_of
    from metamodel.evaluation.report import plain_interval
    from metamodel.training.fit import fit

    seen = {name: [(change(one), truth) for one, truth in of] for name, of in examples.items()}
    with tempfile.TemporaryDirectory() as folder:
        reader, slices, algorithms = fit(
            config, seen["train"], seen["validation"], labels=zoo.labels, folder=Path(folder)
        )
    checkpoint = FunctionCheckpoint(
        reader=reader,
        labels=zoo.labels,
        track=config.track,
        slice_names=slices,
        algorithms=algorithms,
        zoo={},
        splits=splits,
        training={},
    )
    found: dict[str, Any] = {}
    for split, of in seen.items():
        if split in ("train", "validation"):
            continue
        items = Items(
            of,
            labels=[label.name for label in zoo.labels],
            determined=checkpoint.determined,
            algorithms=algorithms,
        )
        measures = measures_of(items, [checkpoint.predict(one) for one, _ in of])
        weights = resampled_weights(items.n_lineages, seed=0)
        found[split] = {name: plain_interval(interval(measures[name], weights)) for name in METRICS}
        value = found[split]["average_precision"]["value"]
        _say(f"  {split:8} average precision {'n/a' if value is None else f'{value:.3f}'}")
    return found


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    run_command(main)
