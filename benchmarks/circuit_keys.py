"""What the circuit loss earns as a key of the reader and of the editor, each trained with it and without.

    python benchmarks/circuit_keys.py reader data/small --length 20      (the whole one: data/medium)
    python benchmarks/circuit_keys.py editor data/edits-small --length 300

`reader`: one member, trained for `--length` epochs (40) with `training.loss_circuit_mass` at `--weight` (1)
and at 0, judged by circuit membership and by how it shares out edge mass. `editor`: trained for `--length`
steps (300) with `training.loss_circuit` at `--weight` and at 0, judged by edits and by how far they move the
circuit of inputs that stay. Both on *validation* subjects, since whether a key is worth setting is a choice.
Each of `--seeds` (1) is trained both ways, and values are means over them. The last line of stdout is one
JSON object: `{"key", "weight", "length", "seeds", "metrics": {metric: {"without", "with", "difference"}}}`,
each with its 95 % interval over lineages; differences are paired.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from metamodel.baselines import MetaModel
from metamodel.baselines.editing import Changes, Episode
from metamodel.config.command import run_command
from metamodel.config.editing import EditingConfig
from metamodel.config.errors import require
from metamodel.config.function import FunctionConfig, SplitsConfig
from metamodel.config.parser import command_parser, parse_options
from metamodel.editing import SubjectEditor
from metamodel.evaluation import metrics
from metamodel.evaluation.bootstrap import interval, paired_difference, resampled_weights
from metamodel.evaluation.editing.episodes import training_episodes
from metamodel.evaluation.editing.scores import logits_of, scores
from metamodel.evaluation.items import Items
from metamodel.evaluation.measures import measures_of
from metamodel.evaluation.metrics import Measure
from metamodel.evaluation.report import interval_line, plain_interval
from metamodel.features.examples import Example
from metamodel.losses.function import edge_mass_loss, pad_truth
from metamodel.losses.kept_circuit import kept_circuit_loss, kept_prompts
from metamodel.train_editor import edit_splits, trained_on
from metamodel.training.agreement import with_agreement
from metamodel.training.checkpoint import FunctionCheckpoint
from metamodel.training.examples import examples_of
from metamodel.training.fit import fit
from metamodel.triples.edit_store import EditZoo
from metamodel.triples.splits import SPLITS, Splits, make_splits
from metamodel.triples.store import Zoo

EPOCHS, STEPS = 40, 300
CIRCUIT = ("circuit_average_precision", "circuit_average_precision/edge", "circuit_average_precision/node")
N_EPISODES = 80
"""Edits of validation subjects that are judged."""
N_PROMPTS = 32
"""Pairs of inputs that stay on which a moved circuit is measured."""
SIDES = ("without", "with")
Found = dict[str, Measure]


def main(arguments: Sequence[str]) -> None:
    parser = command_parser(prog="benchmarks.circuit_keys", description=__doc__ or "")
    parser.add_argument("question", choices=("reader", "editor"), help="whose key")
    parser.add_argument("zoo", type=str, help="folder of the zoo: of triples, or of edits")
    parser.add_argument("--length", type=int, default=0, help="epochs of the reader, steps of the editor")
    parser.add_argument("--weight", type=float, default=1.0, help="of the circuit loss")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of either side")
    given = parse_options(parser, arguments)
    for name, least in (("length", 0), ("weight", 1e-9), ("seeds", 1)):
        value = getattr(given, name)
        require(value >= least, f"--{name}", expected=f"at least {least}", got=value, do="Leave it out.")
    trains, n_lineages = (_reader if given.question == "reader" else _editor)(Path(given.zoo), given.length)
    found: dict[str, list[Found]] = {side: [] for side in SIDES}
    for seed in range(given.seeds):
        for side, weight in zip(SIDES, (0.0, given.weight), strict=True):
            print(f"{given.question}, {side}, seed {seed}", file=sys.stderr, flush=True)
            found[side].append(trains(weight, seed))
    resamples = resampled_weights(n_lineages, seed=0)
    result: dict[str, dict[str, object]] = {}
    for metric in found["with"][0]:
        without, with_key = (_averaged([one[metric] for one in found[side]]) for side in SIDES)
        shown = {
            "without": interval(without, resamples),
            "with": interval(with_key, resamples),
            "difference": paired_difference(with_key, without, resamples),
        }
        print(f"{metric:34}" + "".join(f"{interval_line(one):>26}" for one in shown.values()))
        result[metric] = {name: plain_interval(one) for name, one in shown.items()}
    key = "training.loss_circuit_mass" if given.question == "reader" else "training.loss_circuit"
    length = given.length or (EPOCHS if given.question == "reader" else STEPS)
    named = {"key": key, "zoo": given.zoo, "weight": given.weight, "length": length, "seeds": given.seeds}
    print(json.dumps(named | {"metrics": result}))


def _averaged(measures: Sequence[Measure]) -> Measure:
    return lambda weights: np.mean([measure(weights) for measure in measures], axis=0)


def _reader(folder: Path, epochs: int) -> tuple[Callable[[float, int], Found], int]:
    """What trains a reader of one member with a weight and a seed, and judges it on validation subjects."""
    zoo, s = Zoo.open(folder), SplitsConfig()
    splits = make_splits(
        zoo.rows, seed=s.seed, validation_fraction=s.validation_fraction, test_fraction=s.test_fraction
    )
    print("describing subjects", file=sys.stderr, flush=True)
    train, validation = (
        examples_of(zoo, ids, "both", for_baselines=False) for ids in (splits.train, splits.validation)
    )
    train = with_agreement(zoo, train)
    base = FunctionConfig(trainer=replace(FunctionConfig().trainer, progress=False, accelerator="cpu"))
    base = replace(base, trunk=replace(base.trunk, members=1))
    labels = [label.name for label in zoo.labels]

    def trained(weight: float, seed: int) -> Found:
        training = replace(base.training, epochs=epochs or EPOCHS, loss_circuit_mass=weight)
        config = replace(base, seed=seed, training=training)
        with tempfile.TemporaryDirectory() as place:
            reader, slices, algorithms = fit(config, train, validation, labels=zoo.labels, folder=Path(place))
        checkpoint = FunctionCheckpoint(
            reader=reader,
            labels=zoo.labels,
            track=config.track,
            slice_names=slices,
            algorithms=algorithms,
            zoo={},
            splits=Splits(**dict.fromkeys(SPLITS, ()), trained_lineages=()),
            training={},
        )
        items = Items(validation, labels=labels, determined=checkpoint.determined, algorithms=algorithms)
        method = MetaModel(checkpoint.predict)
        said = [method.predict(seen) for seen, _ in validation]
        found = measures_of(items, said)
        lost = [
            float(edge_mass_loss(p.edge_member.clamp(1e-6, 1 - 1e-6).logit()[None], _mass(one)))
            for p, one in zip(said, validation, strict=True)
        ]
        mass = metrics.mean(np.array(lost), items.of_subject, items.n_lineages)
        names = (*CIRCUIT, "average_precision")
        return {name: found[name] for name in names} | {"edge_mass_distance": mass}

    return trained, len({truth.lineage for _, truth in validation})


def _mass(example: Example) -> torch.Tensor:
    return pad_truth([example[1]]).edge_mass


def _editor(folder: Path, steps: int) -> tuple[Callable[[float, int], Found], int]:
    """What trains an editor with a weight and a seed, and judges it on edits of validation subjects."""
    zoo = EditZoo.open(folder)
    base = EditingConfig(trainer=replace(EditingConfig().trainer, progress=False, accelerator="cpu"))
    base = replace(base, training=replace(base.training, steps=steps or STEPS))
    splits = edit_splits(base, zoo)
    episodes = training_episodes(zoo, splits.validation, N_EPISODES)
    lineages = sorted({e.editable.lineage for e in episodes})
    of_episode = np.array([lineages.index(e.editable.lineage) for e in episodes])

    def trained(weight: float, seed: int) -> Found:
        config = replace(base, seed=seed, training=replace(base.training, loss_circuit=weight))
        with tempfile.TemporaryDirectory() as place:
            editor = SubjectEditor(trained_on(zoo, splits, config, Path(place)))
        values: dict[str, list[float]] = {}
        for e in episodes:
            changes = editor.propose_for(e.editable.subject, e.examples).changes
            one = scores(e, changes)
            moved = circuit_moved(e, changes)
            each = {"harmonic_mean": one.harmonic_mean, "kl": one.kl, "circuit_moved": moved}
            for name in ("generalisation", "locality_near", "locality_far"):
                each[name] = getattr(one, name)
            for name, value in each.items():
                values.setdefault(name, []).append(value)
        return {name: metrics.mean(np.array(v), of_episode, len(lineages)) for name, v in values.items()}

    return trained, len(lineages)


@torch.no_grad()
def circuit_moved(e: Episode, changes: Changes) -> float:
    """Distance of circuits before and after an edit, on inputs that stay; NaN where fewer than two do."""
    subject, tokens = e.editable.subject, e.editable.tokens
    before: Mapping[str, torch.Tensor] = {k: v[None].float() for k, v in subject.weights.items()}
    after = {k: v + changes[k][None].float() if k in changes else v for k, v in before.items()}
    said = logits_of(subject.config, subject.weights, tokens).log_softmax(-1)
    torch.manual_seed(0)
    prompts, able = kept_prompts(tokens[None], said[None], e.edit.scope[None], N_PROMPTS)
    return float(kept_circuit_loss(before, after, subject.config, prompts)) if bool(able) else float("nan")


if __name__ == "__main__":
    run_command(main)
