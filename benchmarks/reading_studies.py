"""What the function reader owes to each of its ingredients, to the number of subjects, and to their origin.

    python benchmarks/reading_studies.py data/medium [--study ablations|scaling|origins] [--epochs 40]

`ablations`: the reader without each ingredient. `scaling`: on 50, 100, 200, 400 and all training triples.
`origins`: trained on subjects that gradient descent made and tested on compiled, taught (siit) and planted
ones, and back. Every variant is one member, trained for the same number of steps: compare variants with
each other, not with the released ensemble. `scaling` and `origins` fit the opponents on the same subjects.
Progress goes to stderr; stdout is tables in Markdown and, on the last line, one JSON object: variant -> split
-> metric -> method -> value with its interval over lineages.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metamodel.baselines import META_MODEL, MetaModel, Predictor
from metamodel.baselines.boosted_trees import boosted_trees
from metamodel.baselines.logistic import logistic
from metamodel.baselines.nearest import nearest
from metamodel.baselines.prior import Prior
from metamodel.baselines.single_feature import best_single_feature
from metamodel.config.command import run_command
from metamodel.config.errors import require
from metamodel.config.function import FunctionConfig, SplitsConfig
from metamodel.config.parser import command_parser, parse_options
from metamodel.evaluation.bootstrap import Interval, interval, resampled_weights
from metamodel.evaluation.card_tables import interval_words
from metamodel.evaluation.items import Items
from metamodel.evaluation.measures import measures_of
from metamodel.evaluation.report import plain_interval
from metamodel.features.composition import CHANNELS
from metamodel.features.examples import Example, Seen
from metamodel.features.registry import PROMPTS_COLUMN, features_of
from metamodel.training.agreement import with_agreement
from metamodel.training.checkpoint import FunctionCheckpoint
from metamodel.training.examples import examples_of
from metamodel.training.fit import fit
from metamodel.triples.splits import SPLITS, Splits, make_splits
from metamodel.triples.store import Zoo

METRICS = ("average_precision", "within_subject_average_precision", "circuit_average_precision")
SIZES = (50, 100, 200, 400)
"""Training triples of the scaling curve, beside all of them."""
EPOCHS = 40

KNOWN = ("compiled", "siit", "planted")
"""Origins whose circuit is known."""
EMPTY = Splits(**dict.fromkeys(SPLITS, ()), trained_lineages=())

Change = Callable[[Seen], Seen]
Scores = dict[str, dict[str, dict[str, Interval]]]
"""Split -> metric -> method."""


def without_prompts(seen: Seen) -> Seen:
    """As if no prompts had been shown."""
    nodes, edges = seen.graph.nodes.clone(), seen.graph.edges.clone()
    asks = [i for i, feature in enumerate(features_of("both")) if feature.asks]
    nodes[:, asks] = 0.0
    nodes[:, PROMPTS_COLUMN] = 0.0
    edges[..., [i for i, name in enumerate(CHANNELS) if name.startswith("asked_")]] = 0.0
    return replace(seen, graph=replace(seen.graph, nodes=nodes, edges=edges))


def without_relations(seen: Seen) -> Seen:
    """Which component comes before which is left, and nothing of how they fit."""
    edges = seen.graph.edges.clone()
    edges[..., CHANNELS.index("depth_step") + 1 :] = 0.0
    return replace(seen, graph=replace(seen.graph, edges=edges))


Parts = Mapping[str, Sequence[Example]]
"""`train`, `validation`, and the tests by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One training and its tests."""

    config: FunctionConfig
    parts: Parts
    change: Change = lambda seen: seen
    """What is taken from every subject."""
    beside_opponents: bool = False


def ablations(base: FunctionConfig, stored: Parts, agreed: Parts) -> dict[str, Variant]:
    """The whole reader, and the reader without one ingredient each.

    Args:
        stored: with one measurement of each label.
        agreed: with several in `train`.
    """
    trunk = base.trunk
    without = {
        "whole": Variant(config=base, parts=agreed),
        "the encoder of circuits": Variant(
            config=replace(base, trunk=replace(trunk, encoder_width=0)), parts=agreed
        ),
        "prompts": Variant(config=base, parts=agreed, change=without_prompts),
        "relations": Variant(config=base, parts=agreed, change=without_relations),
        "further measurements of labels": Variant(config=base, parts=stored),
        "a second layer": Variant(config=replace(base, trunk=replace(trunk, n_layers=1)), parts=agreed),
        "noise on inputs": Variant(
            config=replace(base, trunk=replace(trunk, feature_noise=0.0, input_dropout=0.0)), parts=agreed
        ),
    }
    return {name if name == "whole" else f"without {name}": one for name, one in without.items()}


def scaling(base: FunctionConfig, agreed: Parts) -> dict[str, Variant]:
    """Ever more training triples; as many steps for each, or the small ones would only be trained less."""
    n_all, found = len(agreed["train"]), {}
    for n in (*(n for n in SIZES if n < n_all), n_all):
        epochs = round(base.training.epochs * n_all / n)
        found[f"{n} triples"] = Variant(
            config=replace(base, training=replace(base.training, epochs=epochs)),
            parts={**agreed, "train": spread(agreed["train"], n)},
            beside_opponents=True,
        )
    return found


def origins(base: FunctionConfig, agreed: Parts, origin: Mapping[str, str]) -> dict[str, Variant]:
    """From trained subjects to those whose circuit is known, and back: no test subject is of a trained kind.

    Subjects of other task families are in neither training. Validation stays of the kind that trains.

    Args:
        origin: by id of a subject.

    Raises: InputError if the zoo has no subjects of other tasks, or none of other origins.
    """
    for split in ("task", "origin"):
        do = "Use the medium zoo: python -m data_gen.build --config configs/zoo/medium.yaml"
        require(split in agreed, f"split {split}", expected="at least one subject", got="none", do=do)

    def of(part: str, kinds: Collection[str]) -> list[Example]:
        return [one for one in agreed[part] if origin[one[0].id] in kinds]

    known = {
        "train": of("train", KNOWN) + of("origin", ("siit",)),
        "validation": of("validation", KNOWN) + of("origin", ("planted",)),
    }
    away = {kind: [one for part in agreed for one in of(part, (kind,))] for kind in KNOWN}
    back = {"trained": [one for part in agreed if part != "task" for one in of(part, ("trained",))]}
    back["trained, other tasks"] = of("task", ("trained",))
    return {
        "trained subjects": Variant(
            config=base,
            parts={"train": of("train", ("trained",)), "validation": of("validation", ("trained",)), **away},
            beside_opponents=True,
        ),
        "known circuits": Variant(config=base, parts={**known, **back}, beside_opponents=True),
    }


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="reading_studies", description=__doc__ or "")
    parser.add_argument("zoo", type=str, help="folder of the zoo")
    parser.add_argument(
        "--study", choices=("ablations", "scaling", "origins"), default="ablations", help="what is varied"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every variant")
    given = parse_options(parser, arguments)
    require(given.epochs >= 1, "--epochs", expected="at least 1", got=given.epochs, do=f"Try {EPOCHS}.")
    zoo = Zoo.open(given.zoo)
    stored, agreed = _parts(zoo)
    base = FunctionConfig(trainer=replace(FunctionConfig().trainer, progress=False))
    base = replace(
        base, trunk=replace(base.trunk, members=1), training=replace(base.training, epochs=given.epochs)
    )
    if given.study == "ablations":
        variants = ablations(base, stored, agreed)
    elif given.study == "scaling":
        variants = scaling(base, agreed)
    else:
        variants = origins(base, agreed, dict(zip(zoo.rows["id"], zoo.rows["origin"], strict=True)))
    found: dict[str, Scores] = {}
    for name, variant in variants.items():
        _say(f"{name}: {len(variant.parts['train'])} triples")
        found[name] = _scores(zoo, variant)
    sys.stdout.write("\n\n".join(_tables(found)) + "\n\n")
    plain = {
        name: {
            split: {
                metric: {method: plain_interval(one) for method, one in by_method.items()}
                for metric, by_method in by_metric.items()
            }
            for split, by_metric in by_split.items()
        }
        for name, by_split in found.items()
    }
    sys.stdout.write(json.dumps({"study": given.study, "epochs": given.epochs, "variants": plain}) + "\n")


def _parts(zoo: Zoo) -> tuple[Parts, Parts]:
    """All parts of the zoo with one measurement of each label, and with several in `train`."""
    s = SplitsConfig()
    splits = make_splits(
        zoo.rows, seed=s.seed, validation_fraction=s.validation_fraction, test_fraction=s.test_fraction
    )
    _say("describing subjects")
    ids = {"train": splits.train, "validation": splits.validation, **splits.tests}
    stored = {name: examples_of(zoo, of, "both", for_baselines=False) for name, of in ids.items()}
    return stored, {**stored, "train": with_agreement(zoo, stored["train"])}


def spread(examples: Sequence[Example], n: int) -> list[Example]:
    """`n` of the examples, evenly over the zoo's order, which goes family by family."""
    return [examples[i * len(examples) // n] for i in range(n)]


def _scores(zoo: Zoo, variant: Variant) -> Scores:
    """Trains, fits the opponents if they are asked for, and scores all on the tests."""
    seen = {name: [(variant.change(one), truth) for one, truth in of] for name, of in variant.parts.items()}
    train, validation = seen.pop("train"), seen.pop("validation")
    with tempfile.TemporaryDirectory() as folder:
        reader, slices, algorithms = fit(
            variant.config, train, validation, labels=zoo.labels, folder=Path(folder)
        )
    checkpoint = FunctionCheckpoint(
        reader=reader,
        labels=zoo.labels,
        track=variant.config.track,
        slice_names=slices,
        algorithms=algorithms,
        zoo={},
        splits=EMPTY,
        training={},
    )
    methods: dict[str, Predictor] = {META_MODEL: MetaModel(checkpoint.predict)}
    for opponent in _opponents() if variant.beside_opponents else ():
        _say(f"  fitting {opponent.name}")
        opponent.fit(train, validation)
        methods[opponent.name] = opponent
    found: Scores = {}
    for split, of in seen.items():
        items = Items(
            of,
            labels=[label.name for label in zoo.labels],
            determined=checkpoint.determined,
            algorithms=algorithms,
        )
        said = {name: measures_of(items, [m.predict(one) for one, _ in of]) for name, m in methods.items()}
        weights = resampled_weights(items.n_lineages, seed=0)
        found[split] = {
            metric: {name: interval(measures[metric], weights) for name, measures in said.items()}
            for metric in METRICS
        }
        cells = {name: interval_words(one) for name, one in found[split]["average_precision"].items()}
        _say(f"  {split:8} average precision {cells}")
    return found


def _opponents() -> tuple[Predictor, ...]:
    """Those that read the same features."""
    return (Prior(), best_single_feature(), nearest(), logistic(), boosted_trees())


def _tables(found: Mapping[str, Scores]) -> Iterator[str]:
    """One table a metric: a row for each variant and method, a column for each split."""
    splits = list(dict.fromkeys(split for by_split in found.values() for split in by_split))
    for metric in METRICS:
        lines = [f"| {metric} | method | {' | '.join(splits)} |", f"|{' --- |' * (len(splits) + 2)}"]
        for name, by_split in found.items():
            for method in next(iter(by_split.values()))[metric]:
                cells = [
                    interval_words(by_split[split][metric][method]) if split in by_split else ""
                    for split in splits
                ]
                lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
        yield "\n".join(lines)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    run_command(main)
